"""A pause in what a client says: encoded before it is known whether more comes, and judged whether it ends the turn."""

import numpy as np
import numpy.typing as npt

from omni2.duplex.events import Model
from omni2.duplex.turns import patience
from omni2.errors import OmniError
from omni2.omni import Heard

EAGERNESS = {"low": 2.0, "medium": 1.0, "auto": 1.0, "high": 0.5}  # times the pause that ends a turn
SOONEST = 0.25  # seconds: no pause that ends a turn is shorter


def usual(eagerness: str) -> float:
    """Seconds of pause that end a turn about which nothing is known."""
    return EAGERNESS[eagerness] * patience(None)


class Pauses:
    """Hears what was said up to a pause; with an `eagerness` tells how long that pause has to be to end the turn.

    Slow: for the thread that the sound is pushed in.
    """

    def __init__(self, model: Model, eagerness: str | None = None) -> None:
        self._model, self._eagerness = model, eagerness

    def __call__(self, sound: npt.NDArray[np.float32]) -> tuple[Heard | None, float | None]:
        """Samples (n,) float32 at 16 kHz, the pause included → what the encoder made of them, and seconds.

        None for sound that is too short to be asked, and where nobody knows when turns end.
        """
        try:
            heard: Heard = self._model.hear(sound)
        except OmniError:
            return None, None
        if self._eagerness is None:
            return heard, None
        likely = self._model.finished(heard)
        return heard, None if likely is None else max(EAGERNESS[self._eagerness] * patience(likely), SOONEST)
