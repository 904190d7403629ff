"""What waits to be played: follows a session's events, fills a sound card's buffers."""

import threading

import numpy as np

from omni2.answer import Chunk, Samples
from omni2.duplex.events import Ducked, Event, Interrupted, Resumed, TurnStarted


class Speaker:
    """The sound of answers, counted by the sample; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held = False
        self._waiting: Samples = np.zeros(0, np.float32)

    def follow(self, event: Event) -> None:
        """Do what `event` asks of the speaker: play, hold, go on, fall silent; most events ask nothing."""
        with self._lock:
            if isinstance(event, Chunk):
                self._waiting = np.concatenate([self._waiting, event.audio])
            elif isinstance(event, Ducked | Resumed):
                self._held = isinstance(event, Ducked)
            elif isinstance(event, TurnStarted | Interrupted):
                self._waiting, self._held = self._waiting[:0], False

    def fill(self, out: Samples) -> int:
        """Put the next samples into `out` (n,), silence where there are none; how many there were, for `played`."""
        with self._lock:
            count = 0 if self._held else min(len(out), len(self._waiting))
            out[:count], out[count:] = self._waiting[:count], 0
            self._waiting = self._waiting[count:]
        return count
