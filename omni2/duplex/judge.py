"""When what a model hears is an order to stop: when it is likely by several questions in a short time.

Talk that is none comes near an order for a moment, as when "stop" falls in it, and however near: "Stop Tony" is as good
as one until its last sound.  An order is still one a moment later.
"""

import math
from collections import deque

EVERY, SOON = 0.25, 0.1  # seconds from one question to the model to the next, and while an order is suspected
DOUBT = 0.2  # how likely an order is that is suspected
QUESTIONS = 3  # in a row by which it has to be
LIKELY = 0.65  # how likely by all of them: the mean of their logits


class Judge:
    """Takes what a model finds, asked again after `wait` seconds, and remembers what it found before."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """What comes next has nothing to do with what was."""
        self._found: deque[float] = deque(maxlen=QUESTIONS)

    @property
    def suspects(self) -> bool:
        """Whether it may be an order."""
        return bool(self._found)

    @property
    def wait(self) -> float:
        """Seconds until the model is to be asked again."""
        return SOON if self.suspects else EVERY

    def take(self, likely: float) -> bool:
        """Whether it is an order, which is now as `likely` as that: 0 to 1."""
        if likely < DOUBT:
            self._found.clear()
            return False
        self._found.append(_logit(likely))
        return len(self._found) == QUESTIONS and sum(self._found) / QUESTIONS >= _logit(LIKELY)


def _logit(likely: float) -> float:
    kept = min(max(likely, 1e-6), 1 - 1e-6)
    return math.log(kept / (1 - kept))
