"""One answer of a session, from the first pause of its question to the last sample heard."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from omni2.answer import AnswerStream, Chunk, Samples
from omni2.audio import SAMPLE_RATE
from omni2.duplex.heard import Words


@dataclass(eq=False)
class Question:
    """What is asked: what the model takes as sound (`heard`) or `text`, and a picture; `said` is the sound itself."""

    heard: object = None
    said: Samples | None = None
    text: str | None = None
    image: object = None
    position: int = 0  # samples at 16 kHz at which its last word ended


@dataclass(eq=False)
class Answer:
    """An answer under way; `rate` is its sound's (Hz)."""

    question: Question
    rate: int
    stream: AnswerStream | None = None  # None: not begun yet
    told: bool = False  # the question is known to be complete
    ended: bool = False  # decoded to its end
    ducked: bool = False
    played: int = 0  # samples
    made: int = 0  # samples
    waiting: deque[Chunk] = field(default_factory=deque)  # decoded before the question was known to be complete
    words: Words = field(init=False)
    _own: list[Samples] = field(default_factory=list)  # its sound at 16 kHz

    def __post_init__(self) -> None:
        self.words = Words(self.rate)

    @property
    def over(self) -> bool:
        """Whether it was heard to its end."""
        return self.ended and self.played >= self.made

    @property
    def ahead(self) -> float:
        """Seconds of sound that wait to be played."""
        return (self.made - self.played) / self.rate

    @property
    def heard(self) -> str:
        """Its words up to the last sample played."""
        return self.words.heard(self.played, self.made, self.ended)

    def take(self, chunk: Chunk) -> None:
        """Count what a chunk brings."""
        self.words.add(chunk.text, chunk.start)
        self.made += chunk.audio.size
        self._own.append(chunk.audio)
        self.ended = self.ended or chunk.finish_reason is not None

    def play(self, samples: int) -> Samples:
        """`samples` more were played; the same sound at 16 kHz, for the echo it leaves in the microphone."""
        begin, self.played = self.played, min(self.played + samples, self.made)
        self._own = [np.concatenate([np.zeros(0, np.float32), *self._own])]
        ratio = SAMPLE_RATE / self.rate
        first, last = round(begin * ratio), round((begin + samples) * ratio)
        return _at(self._own[0], np.arange(first, last) / ratio)

    def close(self) -> None:
        """Stop decoding."""
        if self.stream is not None:
            self.stream.close()


def _at(sound: Samples, places: npt.NDArray[np.floating]) -> Samples:
    """`sound` at `places` between its samples, none of it above 8 kHz for 24 kHz sound at 16 kHz; zeros behind its end.

    A windowed sinc over 16 samples: the echo is to be recognised, not to be listened to.
    """
    half, cutoff = 8, 0.6
    near = np.floor(places).astype(int)[:, None] + np.arange(1 - half, half + 1)
    x = places[:, None] - near
    weights = cutoff * np.sinc(cutoff * x) * (0.5 + 0.5 * np.cos(np.pi * np.clip(x / half, -1, 1)))
    padded = np.pad(sound, (half, 0))
    index = near + half
    known = (index >= 0) & (index < len(padded))
    values = np.where(known, padded[np.clip(index, 0, max(len(padded) - 1, 0))], 0.0) if len(padded) else 0.0 * x
    found: Samples = (values * weights).sum(1).astype(np.float32)
    return found
