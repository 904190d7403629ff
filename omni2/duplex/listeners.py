"""Who listens while an answer is played, and what they make of it: nothing, a suspicion, or a reason to stop."""

from collections import deque
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from omni2.audio import SAMPLE_RATE
from omni2.duplex.ear import Frame
from omni2.duplex.events import Cause, Model, Policy
from omni2.duplex.judge import DOUBT, LIKELY, Judge
from omni2.duplex.overheard import LISTENING
from omni2.duplex.phrases import PHRASES, begun, is_call, is_nod, ordered
from omni2.duplex.vad import WINDOW
from omni2.errors import OmniError

Samples = npt.NDArray[np.float32]

AFTER = 1.0  # seconds behind the last voice in which an order may still be found
AGAIN = 20  # frames of talk after which it is written down once more: 0.64 s
GAP = 6  # frames without voice that end what somebody says: 0.19 s
SUSPECT = 5  # voiced frames after which somebody may be speaking up: 0.16 s
SPEAKS = 20  # after which somebody is: 0.64 s
SURELY = 38  # after which no word of theirs can be a mere nod: 1.2 s
NODDING = 0.5  # how likely a nod has to be
CORDS = 0.4  # of the voiced frames in which vocal cords have to sound
FAINT = 12.0  # dB that somebody may be softer than who asked, and be the same person


class Opinion(IntEnum):
    """What a listener thinks after a frame."""

    NOTHING = 0
    SUSPICION = 1
    STOP = 2


class Listener(Protocol):
    """Hears all frames while an answer is played."""

    cause: Cause

    def reset(self) -> None:
        """A new answer begins."""

    def push(self, frame: Frame) -> Opinion:
        """What is to be thought after `frame`."""


class Recent:
    """The last seconds of a sound."""

    def __init__(self, seconds: float) -> None:
        self._frames: deque[Samples] = deque(maxlen=-(-round(seconds * SAMPLE_RATE) // WINDOW))

    def add(self, samples: Samples) -> None:
        self._frames.append(samples)

    def clear(self) -> None:
        self._frames.clear()

    @property
    def wave(self) -> Samples:
        """(samples,) at 16 kHz."""
        return np.concatenate([np.zeros(0, np.float32), *self._frames])


class Order:
    """Asks a model that learned to listen, as often as a `Judge` wants while somebody talks."""

    cause: Cause = "command"

    def __init__(self, model: Model) -> None:
        self._model, self._recent, self._judge = model, Recent(LISTENING), Judge()
        self.reset()

    def reset(self) -> None:
        """See `Listener`."""
        self._recent.clear()
        self._judge.reset()
        self._quiet, self._count, self._opinion = AFTER, 0, Opinion.NOTHING

    def push(self, frame: Frame) -> Opinion:
        """See `Listener`."""
        self._recent.add(frame.samples)
        self._quiet = 0.0 if frame.is_voice else self._quiet + WINDOW / SAMPLE_RATE
        self._count += 1
        if self._quiet >= AFTER:
            self._opinion = Opinion.NOTHING
            self._judge.reset()
        elif self._count >= round(self._judge.wait * SAMPLE_RATE / WINDOW):
            self._count = 0
            if self._judge.take(order_likely(self._model, self._recent.wave)):
                self._opinion = Opinion.STOP
            else:
                self._opinion = Opinion.SUSPICION if self._judge.suspects else Opinion.NOTHING
        return self._opinion


def order_likely(model: Model, wave: Samples) -> float:
    """How likely the end of `wave` is an order, to a model that learned to listen; silence is none."""
    try:
        return model.ordered(wave)
    except OmniError:
        return 0.0


def written(model: Model, sound: object) -> str:
    """The words of a sound; none where it is silent or the model has no room for one more turn now."""
    try:
        return model.transcribe(sound)
    except OmniError:
        return ""


class Written:
    """Has what somebody says written down, by a model that never learned to listen, and looks for the phrases."""

    cause: Cause = "command"

    def __init__(self, model: Model, phrases: Sequence[str] = PHRASES) -> None:
        self._model, self._phrases, self._recent = model, phrases, Recent(LISTENING)
        self.reset()

    def reset(self) -> None:
        """See `Listener`."""
        self._recent.clear()
        self._voices, self._quiet, self._opinion = 0, GAP, Opinion.NOTHING

    def push(self, frame: Frame) -> Opinion:
        """See `Listener`."""
        self._recent.add(frame.samples)
        if frame.is_voice:
            self._voices, self._quiet = self._voices + 1, 0
        else:
            self._quiet += 1
        ended = self._quiet == GAP and self._voices >= SUSPECT
        if ended or (frame.is_voice and self._voices and self._voices % AGAIN == 0):
            self._opinion = self._read(written(self._model, self._recent.wave))
        if self._quiet >= 4 * GAP:
            self._opinion = Opinion.NOTHING
        if self._quiet >= GAP:
            self._voices = 0
        return self._opinion

    def _read(self, text: str) -> Opinion:
        if ordered(text, self._phrases):
            return Opinion.STOP
        return Opinion.SUSPICION if begun(text, self._phrases) else Opinion.NOTHING


class SpeakingUp:
    """Tells somebody who speaks up from who coughs, nods or talks far away.

    `model`, if it can transcribe, has the last word on what is too short to be sure.
    """

    cause: Cause = "barge-in"

    def __init__(self, model: Model | None = None) -> None:
        self._model = model if model is not None and "transcribe" in model.abilities else None
        self._recent = Recent(LISTENING)
        self.near: float | None = None  # level (dB) of the person who asks
        self.reset()

    def reset(self) -> None:
        """See `Listener`."""
        self._recent.clear()
        self._voices, self._cords, self._quiet, self._sure = 0, 0, GAP, False
        self._known = 0  # voiced frames of what was written down and found to be a nod

    def push(self, frame: Frame) -> Opinion:
        """See `Listener`."""
        self._recent.add(frame.samples)
        faint = self.near is not None and frame.level < self.near - FAINT
        if frame.is_voice and not faint:
            self._voices, self._quiet = self._voices + 1, 0
            self._cords += frame.is_voiced
        else:
            self._quiet += 1
        if self._sure:
            return Opinion.STOP
        if self._quiet >= GAP:
            called = SUSPECT <= self._voices < SPEAKS and self._has_cords and self._says(is_call)
            self._voices = self._cords = self._known = 0
            self._sure = called
        elif self._voices >= max(SPEAKS, self._known):
            self._sure = self._has_cords and self._is_speech()
        if self._sure:
            return Opinion.STOP
        return Opinion.SUSPICION if self._voices >= SUSPECT and self._has_cords else Opinion.NOTHING

    @property
    def _has_cords(self) -> bool:
        return self._cords >= CORDS * self._voices

    def _is_speech(self) -> bool:
        if self._voices >= SURELY or self._model is None:
            return True
        self._known = self._voices + 5  # ask again a little later, if it goes on
        return not self._nods()

    def _nods(self) -> bool:
        """Whether what is said so far is but a nod."""
        assert self._model is not None
        said = self._model.overheard(self._recent.wave)
        return said.nod >= NODDING if said is not None else self._says(is_nod)

    def _says(self, kind: Callable[[str], bool]) -> bool:
        return self._model is not None and kind(written(self._model, self._recent.wave))


def listeners_for(policy: Policy, model: Model | None, phrases: Sequence[str] = PHRASES) -> list[Listener]:
    """Those that `policy` takes, as far as `model` can."""
    if policy == "off":
        return []
    chosen: list[Listener] = []
    own = tuple(phrases) == PHRASES  # the model learned these
    if model is not None and "listen" in model.abilities and own:
        chosen.append(Order(model))
    elif model is not None and "transcribe" in model.abilities:
        chosen.append(Written(model, phrases))
    if policy == "barge-in":
        chosen.append(SpeakingUp(model))
    return chosen


def is_order(model: Model, wave: Samples, heard: object, phrases: Sequence[str] = PHRASES) -> bool:
    """Whether a turn (samples,) at 16 kHz, `heard` as `Model.hear` has it, is but an order to stop: it asks nothing."""
    if len(wave) > LISTENING * SAMPLE_RATE:
        return False
    if "listen" in model.abilities and tuple(phrases) == PHRASES:
        said = model.overheard(heard)  # what was encoded already serves to rule it out
        return (said is None or said.order >= DOUBT) and order_likely(model, wave) >= LIKELY
    return "transcribe" in model.abilities and ordered(written(model, heard), phrases)
