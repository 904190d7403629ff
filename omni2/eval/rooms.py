"""A room with a person's voice on a track, a loudspeaker and a microphone, on a clock that nobody waits for."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import soxr

from omni2.answer import Chunk
from omni2.audio import SAMPLE_RATE
from omni2.duplex.events import Event, TurnStarted
from omni2.duplex.session import Session
from omni2.duplex.speaker import Speaker

Wave = npt.NDArray[np.float32]
E = TypeVar("E")

TICK = 512  # samples at 16 kHz that pass at once: 32 ms
WAY = 0.04  # seconds from the session's sound to the microphone, through both devices
LATE = 16  # ticks at most by which work may be behind before the clock stops counting it


@dataclass
class Log:
    """What happened: events with the seconds at which they took effect, work included, and what the speaker played.

    `speaker` (samples,) is on the same clock, at the answers' rate; `spent` seconds of work a second that passed.
    """

    events: list[tuple[float, Event]] = field(default_factory=list)
    speaker: Wave = field(default_factory=lambda: np.zeros(0, np.float32))
    made: list[Wave] = field(default_factory=list)  # the sound of every answer, as far as it was made
    rate: int = 24_000
    spent: float = 0.0

    def times(self, kind: type[Event]) -> list[float]:
        """When events of a kind took effect."""
        return [when for when, event in self.events if isinstance(event, kind)]

    def of(self, kind: type[E]) -> list[E]:
        """All events of a kind."""
        return [event for _, event in self.events if isinstance(event, kind)]

    def sounds(self, begin: float, end: float) -> bool:
        """Whether the speaker played anything between two seconds."""
        piece = self.speaker[round(begin * self.rate) : round(end * self.rate)]
        return bool(piece.size and np.abs(piece).max() > 0)


class Room:
    """Plays what a session says, with `echo` dB of it coming back (None: none), and lets it hear a track.

    Times of events count the work that they took, as on a machine that does nothing else, if `timed`.
    """

    def __init__(
        self, session: Session, rate: int, echo: float | None = None, way: Callable[[Wave], Wave] | None = None,
        timed: bool = False,
    ) -> None:  # fmt: skip
        self.session, self._rate, self._echo, self._timed = session, rate, echo, timed
        self._way = way or (lambda wave: wave)
        self.log = Log(rate=rate)
        self._speaker = Speaker()
        self._ticks, self._behind = 0, 0.0
        self._played: list[Wave] = []

    @property
    def now(self) -> float:
        """Seconds that passed."""
        return self._ticks * TICK / SAMPLE_RATE

    def run(self, track: Wave, until: Callable[["Room"], bool] | None = None) -> Log:
        """Let the session hear (samples,) at 16 kHz, or as much as it takes for `until` to hold; the log so far."""
        for begin in range(0, len(track) - TICK + 1, TICK):
            self.tick(track[begin : begin + TICK])
            if until is not None and until(self):
                break
        self.log.speaker = np.concatenate([np.zeros(0, np.float32), *self._played])
        return self.log

    def tick(self, person: Wave) -> None:
        """32 ms pass."""
        sound = np.zeros(TICK * self._rate // SAMPLE_RATE, np.float32)
        played = self._speaker.fill(sound)
        self._played.append(sound)
        heard = person + self._leak(sound)
        began = time.perf_counter()
        self.session.played(played)
        self.session.listen(np.clip(heard, -1, 1).astype(np.float32))
        events = list(self.session.events())
        spent = time.perf_counter() - began
        self._ticks += 1
        self.log.spent += spent
        self._behind = min(max(self._behind + spent - TICK / SAMPLE_RATE, 0.0), LATE * TICK / SAMPLE_RATE)
        for event in events:
            self._take(event, self.now + (self._behind if self._timed else 0.0))

    def _take(self, event: Event, when: float) -> None:
        self.log.events.append((when, event))
        self._speaker.follow(event)
        if isinstance(event, TurnStarted):
            self.log.made.append(np.zeros(0, np.float32))
        elif isinstance(event, Chunk):
            self.log.made[-1] = np.concatenate([self.log.made[-1], event.audio])

    def _leak(self, sound: Wave) -> Wave:
        """What the microphone hears of the speaker now."""
        if self._echo is None:
            return np.zeros(TICK, np.float32)
        back = round((WAY + 0.8) * self._rate)
        recent = np.concatenate([np.zeros(back, np.float32), *self._played[-32:]])[-(back + len(sound)) :]
        late = recent[: len(recent) - round(WAY * self._rate)]
        heard: Wave = soxr.resample(self._way(late), self._rate, SAMPLE_RATE)[-TICK:]
        return heard * np.float32(10 ** (self._echo / 20))
