"""Answers: pieces of speech and text as they come, or collected, with their times."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import TracebackType

import numpy as np
import numpy.typing as npt

from omni2.codec.stream import SpeechStream
from omni2.engine import Conversation, FinishReason
from omni2.tokens import DelayLine
from omni2.words import WordStream

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer: new samples (n,) float32 at `sample_rate`, in [-1, 1], and new text; either may be empty.

    `finish_reason` is None but in the last chunk: "end", or "length" where the context was full.  `start` is the
    sample of the answer at which the new text begins to be said, in models whose text keeps pace with the speech.
    """

    audio: Samples
    text: str
    finish_reason: FinishReason | None = None
    start: int | None = None


@dataclass(frozen=True)
class Timings:
    """Seconds from the call on: first text, first sound (None where there was none), all; and seconds of sound made."""

    first_text: float | None
    first_audio: float | None
    total: float
    audio: float

    @property
    def rtf(self) -> float | None:
        """Real-time factor: seconds of work a second of sound; None without sound."""
        return self.total / self.audio if self.audio else None


@dataclass(frozen=True)
class Answer:
    """A whole answer: its text, its sound (samples,) float32 at `sample_rate` (empty for text), and the times."""

    text: str
    audio: Samples
    sample_rate: int
    finish_reason: FinishReason
    timings: Timings


class AnswerStream(Iterator[Chunk]):
    """Chunks as they are decoded.  `close`, leaving a `with` block or dropping it stops the work and frees its rows."""

    def __init__(
        self,
        steps: Conversation,
        words: WordStream,
        speech: SpeechStream | None,
        sample_rate: int,
        pace: tuple[int, int] | None = None,
    ) -> None:
        """`pace`: the steps from a word to its first frame, and the samples of a frame; None: nobody knows."""
        self._steps, self._words, self._speech = steps, words, speech
        self.sample_rate = sample_rate
        self._pace, self._count = pace, 0
        self._frames = DelayLine()
        self._done = False

    def __next__(self) -> Chunk:
        while not self._done:
            step = next(self._steps)
            start = (self._count + self._pace[0]) * self._pace[1] if self._pace else None
            self._count += 1
            text = self._words.push(step.text) if step.text is not None else ""
            pieces = []
            if self._speech is not None and step.codes is not None:
                frame = self._frames.push(step.codes)
                if frame is not None and self._words.layout.is_frame(frame):
                    pieces.append(self._timed(partial(self._speech.push, frame)))
            if step.finish_reason:
                self._done = True
                text += self._words.flush()
                if self._speech is not None:
                    pieces.append(self._timed(self._speech.flush))
            audio = np.concatenate([np.zeros(0, np.float32), *pieces])
            if text or audio.size or step.finish_reason:
                return Chunk(audio, text, step.finish_reason, start if text else None)
        raise StopIteration

    def _timed(self, call: Callable[[], Samples]) -> Samples:
        """Samples of the codec, whose time the engine is told."""
        began = time.perf_counter()
        samples = call()
        if samples.size:
            self._steps.sounded(time.perf_counter() - began, samples.size / self.sample_rate)
        return samples

    def collect(self, began: float | None = None, each: Callable[[str, int], None] | None = None) -> Answer:
        """Run to the end and put the chunks together; `began` (time.perf_counter) is when the question was there.

        `each` is told of every chunk as it comes: its text and how many samples it has.
        """
        began = time.perf_counter() if began is None else began
        text, audio, reason = "", [np.zeros(0, np.float32)], None
        first_text = first_audio = None
        with self:
            for chunk in self:
                now = time.perf_counter() - began
                if chunk.text and first_text is None:
                    first_text = now
                if chunk.audio.size and first_audio is None:
                    first_audio = now
                text += chunk.text
                audio.append(chunk.audio)
                reason = chunk.finish_reason
                if each is not None:
                    each(chunk.text, chunk.audio.size)
        samples = np.concatenate(audio)
        timings = Timings(first_text, first_audio, time.perf_counter() - began, samples.size / self.sample_rate)
        return Answer(text, samples, self.sample_rate, reason or "length", timings)

    def close(self) -> None:
        """Stop decoding; the iterator is exhausted from now on."""
        self._done = True
        self._steps.close()

    def __enter__(self) -> "AnswerStream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
