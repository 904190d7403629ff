"""A model that knows a few recordings by heart, for tests of conversations in both directions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omni2 import Chunk
from omni2.audio import SAMPLE_RATE, load_audio
from omni2.duplex.heard import Memory
from omni2.duplex.overheard import Overheard
from omni2.duplex.session import Session
from omni2.errors import InputError

AUDIO = Path(__file__).parents[1] / "examples" / "audio"
RATE = 24_000
CAPITAL, WEEK, ADDITION, NAME = (
    load_audio(AUDIO / f"{name}.wav") for name in ("capital", "week", "addition", "identity")
)
STOP = Path(__file__).with_name("stop.wav")  # the voice of examples/audio says "Stop Omni."
ORDER = load_audio(STOP)
WORDS = {
    "Stop Omni.": ORDER,
    "What is the capital of France?": CAPITAL,
    "How many days are in a week?": WEEK,
    "What is seven plus five?": ADDITION,
    "What is your name?": NAME,
}
ANSWER = "one two three four five six seven eight"


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def track(*parts: float | np.ndarray) -> np.ndarray:
    """Sounds, and seconds of a quiet room, one after the other."""
    wave = np.concatenate([silence(part) if isinstance(part, float) else part for part in parts])
    return wave + 1e-4 * np.random.default_rng(0).standard_normal(wave.size).astype(np.float32)


def likeness(wave: np.ndarray, known: np.ndarray) -> tuple[float, int]:
    """How well `known` is found in `wave` (0 to 1), and where it ends."""
    if len(wave) < len(known):
        known = known[: len(wave)]
    size = 1 << (len(wave) + len(known)).bit_length()
    found = np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(known, size).conj(), size)[: len(wave)]
    power = np.cumsum(np.pad(np.square(wave.astype(float)), (1, len(known))))
    power = power[len(known) :][: len(wave)] - power[: len(wave)]
    score = found / np.sqrt(np.maximum(power, 1e-6) * np.square(known).sum())
    best = int(score.argmax())
    return float(score[best]), best + len(known)


class Talk(Iterator[Chunk]):
    """An answer of `seconds` in pieces of 0.1 s, a word with the first of every `seconds / words`."""

    def __init__(self, model: Known, seconds: float, text: str = ANSWER) -> None:
        self.model, self.count, self.closed = model, 0, False
        self.pieces = max(round(10 * seconds), 1)
        self.words = text.split()
        self.seed = len(model.asked)

    def __next__(self) -> Chunk:
        if self.closed or self.count == self.pieces:
            raise StopIteration
        place = self.count * len(self.words) / self.pieces
        word = int(place)
        new = self.count == 0 or word != int((self.count - 1) * len(self.words) / self.pieces)
        begin = self.count * RATE // 10
        t = np.arange(begin, begin + RATE // 10) / RATE
        audio = (0.2 * np.sin(2 * np.pi * (200 + 300 * t + 10 * self.seed) * t)).astype(np.float32)
        self.count += 1
        reason = "end" if self.count == self.pieces else None
        return Chunk(audio, f"{self.words[word]} " if new else "", reason, begin if new else None)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.model.open -= 1


class Known:
    """Answers in `seconds` of sound whatever it is asked; knows `WORDS` and takes `ORDER` for an order to stop."""

    sample_rate = RATE

    def __init__(
        self,
        seconds: float = 6.0,
        abilities: Sequence[str] = ("answer", "transcribe", "listen"),
        sure: float | None = 1.0,
    ) -> None:
        self.seconds, self.sure = seconds, sure
        self.abilities = frozenset(abilities)
        self.asked: list[dict[str, Any]] = []
        self.open = 0  # streams that nobody closed
        self.listened = self.transcribed = 0
        self.said: Overheard | None = None  # of whatever is overheard

    def session(self, policy: str = "command", remembers: bool = False, **given: Any) -> Session:  # noqa: ANN401
        memory = Memory(given.pop("room", 100), lambda text: len(text.split()))
        return Session(self, policy, memory=memory, remembers=remembers, **given)

    def hear(self, audio: np.ndarray) -> np.ndarray:
        if np.abs(audio).max() < 1e-3:
            raise InputError("silent")
        return audio

    def stream(self, audio: Any = None, **options: Any) -> Talk:  # noqa: ANN401
        self.asked.append({"audio": audio, **options})
        self.open += 1
        return Talk(self, self.seconds)

    def transcribe(self, audio: np.ndarray) -> str:
        self.transcribed += 1
        scores = {words: likeness(audio, known)[0] for words, known in WORDS.items()}
        best = max(scores, key=lambda words: scores[words])
        return best if scores[best] > 0.5 else "something else"

    def ordered(self, audio: np.ndarray) -> float:
        self.listened += 1
        score, end = likeness(audio, ORDER)
        return float(score > 0.6 and end <= len(audio) + 2000)

    def overheard(self, audio: np.ndarray) -> Overheard | None:
        return self.said

    def finished(self, heard: np.ndarray) -> float | None:
        return self.sure

    def tokens(self, text: str) -> int:
        return len(text.split())
