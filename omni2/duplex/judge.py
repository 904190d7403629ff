"""When what a model hears is an order to stop: when it is likely twice in a row.

Talk that is none comes near an order for a moment, as when "stop" falls in it, and however near: "Stop Tony" is as good
as one until its last sound.  An order is still one a moment later.
"""

EVERY = 0.25  # seconds between two questions to the model
LIKELY = 0.6  # how likely an order has to be twice in a row


class Judge:
    """Takes what a model finds, every `EVERY` seconds, and remembers what it found before."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """What comes next has nothing to do with what was."""
        self._was_likely = False

    def take(self, likely: float) -> bool:
        """Whether it is an order, which is now as `likely` as that: 0 to 1."""
        twice = self._was_likely and likely >= LIKELY
        self._was_likely = likely >= LIKELY
        return twice
