"""Whose turn it is: where somebody begins to speak, pauses, goes on, and has finished."""

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from omni2.audio import SAMPLE_RATE
from omni2.duplex.ear import Frame
from omni2.duplex.finished import PAUSE
from omni2.duplex.vad import WINDOW

Samples = npt.NDArray[np.float32]

BEGINS = 4  # frames with voice within the last `AMONG` that begin a turn: 0.13 of 0.32 s; clicks are shorter
AMONG = 10
BEFORE = 0.3  # seconds kept before a turn's first voice
LEAST = 6  # frames with voice that a turn has: 0.19 s
CORDS = 0.3  # of them in which vocal cords have to sound: noise has none
LONGEST = 30.0  # seconds
UNSURE = 0.7  # seconds of pause that end a turn about whose end nobody knows anything
SHORT, LONG = 0.25, 1.4  # seconds that end a turn which is finished beyond doubt, and one that is not
SURE, DOUBT = 0.9, 0.5  # how likely a turn is finished from which on, and up to which, these hold


@dataclass(frozen=True)
class Began:
    """Somebody speaks since `position` (samples at 16 kHz of the session)."""

    position: int


@dataclass(frozen=True)
class Paused:
    """What was said until now, (samples,) with the pause at its end, might be all; `TurnTaker.wait` tells how long to
    wait for more."""

    sound: Samples


@dataclass(frozen=True)
class WentOn:
    """The pause was none."""


@dataclass(frozen=True)
class Finished:
    """The turn is over: its sound (samples,), and where its last word ended; None for what was no speech after all."""

    sound: Samples | None
    position: int
    level: float = 0.0  # dB of its louder half


Edge = Began | Paused | WentOn | Finished


def patience(finished: float | None) -> float:
    """Seconds of pause that end a turn which is as likely finished as that; None: nobody knows."""
    if finished is None:
        return UNSURE
    share = (min(max(finished, DOUBT), SURE) - DOUBT) / (SURE - DOUBT)
    return (1 - share) * LONG + share * SHORT


class TurnTaker:
    """Follows one person's speech, frame by frame."""

    def __init__(self) -> None:
        self._before: deque[Frame] = deque(maxlen=AMONG + round(BEFORE * SAMPLE_RATE / WINDOW))
        self.reset()

    def reset(self) -> None:
        """Forget what was said; speech that goes on begins a turn anew."""
        self._before.clear()
        self._frames: list[Frame] = []
        self._voices, self._cords = 0, 0
        self._last = 0  # end of the last frame with voice
        self._paused = False
        self._patience = UNSURE

    @property
    def speaking(self) -> bool:
        """Whether a turn is under way, pauses within it included."""
        return bool(self._frames)

    @property
    def began(self) -> int:
        """Where the turn under way began."""
        return self._frames[0].position if self._frames else 0

    def wait(self, seconds: float) -> None:
        """End the turn after so long a pause, the present one included."""
        self._patience = seconds

    def push(self, frame: Frame) -> list[Edge]:
        """What happens with `frame`."""
        if not self._frames:
            return self._begin(frame)
        self._frames.append(frame)
        if frame.is_voice:
            return self._go_on(frame)
        pause = (frame.end - self._last) / SAMPLE_RATE
        edges: list[Edge] = []
        if pause >= PAUSE and not self._paused:
            self._paused, self._patience = True, UNSURE
            if self._is_speech:
                edges.append(Paused(self._sound(frame.end)))
        elif self._paused and pause >= self._patience:
            edges.append(self._end())
        return edges

    def _begin(self, frame: Frame) -> list[Edge]:
        self._before.append(frame)
        recent = list(self._before)[-AMONG:]
        voices = [one for one in recent if one.is_voice]
        if not frame.is_voice or len(voices) < BEGINS:
            return []
        first = voices[0].position - round(BEFORE * SAMPLE_RATE)
        self._frames = [one for one in self._before if one.position >= first]
        self._before.clear()
        self._voices, self._cords = len(voices), sum(one.is_voiced for one in voices)
        self._last, self._paused = frame.end, False
        return [Began(self._frames[0].position)]

    def _go_on(self, frame: Frame) -> list[Edge]:
        self._last = frame.end
        self._voices, self._cords = self._voices + 1, self._cords + frame.is_voiced
        edges: list[Edge] = [WentOn()] if self._paused and self._is_speech else []
        self._paused = False
        if frame.end - self._frames[0].position >= LONGEST * SAMPLE_RATE:
            edges.append(self._end())
        return edges

    @property
    def _is_speech(self) -> bool:
        return self._voices >= LEAST and self._cords >= CORDS * self._voices

    def _sound(self, end: int) -> Samples:
        return np.concatenate([one.samples for one in self._frames if one.end <= end])

    def _end(self) -> Finished:
        done = Finished(None, self._last)
        if self._is_speech:
            levels = sorted(one.level for one in self._frames if one.is_voice)
            until = self._last + round(PAUSE * SAMPLE_RATE) + WINDOW
            done = Finished(self._sound(until), self._last, float(np.mean(levels[len(levels) // 2 :])))
        self.reset()
        return done
