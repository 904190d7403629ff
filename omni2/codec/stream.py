"""Frames to sound, as they come."""

import wave
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from omni2.codec import Codec
from omni2.errors import InputError
from omni2.tokens import AUDIO_LAYERS

Samples = npt.NDArray[np.float32]
CHUNK_FRAMES = 8  # of the largest chunks: each of SNAC's is decoded with six frames around it


class SpeechStream:
    """Decodes frames in chunks that sound as if all frames had been decoded at once.

    Each chunk is decoded together with the frames its samples depend on (`codec.context`), and a frame is only spoken
    when the frames it depends on are there: the first `first_chunk_frames` frames come out with frame number
    `first_chunk_frames + codec.context[1]`.  Chunks then grow up to `chunk_frames`: an early first sound, then less
    work a frame.  They double, or where `load` tells that frames come slower than at half of real time (1), grow by
    what is made while the sound so far is heard, so that no gap opens.  `seed` makes the codec's noise; None for none.

    Raises InputError: chunk sizes that are not 1 <= first_chunk_frames <= chunk_frames.
    """

    def __init__(
        self,
        codec: Codec,
        first_chunk_frames: int = 1,
        chunk_frames: int = CHUNK_FRAMES,
        seed: int | None = None,
        load: Callable[[], float] = lambda: 0.0,
    ) -> None:
        if not 1 <= first_chunk_frames <= chunk_frames:
            raise InputError(
                f"chunk sizes must be 1 <= first_chunk_frames <= chunk_frames, not {first_chunk_frames}, {chunk_frames}"
            )
        self._codec = codec
        self._chunk, self._largest = first_chunk_frames, chunk_frames
        self._seed, self._load = seed, load
        self._frames: list[tuple[int, ...]] = []  # those still needed
        self._start = 0  # index of the first of them in the stream
        self._spoken = 0  # frames whose samples have been returned
        self._ended = False

    def push(self, frame: Sequence[int]) -> Samples:
        """Seven codes in codebook order → the samples (n,) float32 in [-1, 1] that are new; often none, n = 0.

        Raises InputError: another number of codes, or the stream has been flushed.
        """
        if self._ended:
            raise InputError("this stream has ended; make a new one for the next answer")
        if len(frame) != AUDIO_LAYERS:
            raise InputError(f"a frame has {AUDIO_LAYERS} codes, not {len(frame)}")
        self._frames.append(tuple(frame))
        if self._waiting < self._chunk + self._codec.context[1]:
            return np.empty(0, np.float32)
        samples = self._speak(self._chunk)
        self._chunk = self._next_chunk()
        return samples

    def _next_chunk(self) -> int:
        """Frames of the chunk after one of `_chunk`: as many as are there when all spoken ones have been heard."""
        grown, load = 2 * self._chunk, self._load()
        if load > 0.5:
            grown = min(grown, max(self._chunk, int(self._spoken / load)))
        return min(grown, self._largest)

    def flush(self) -> Samples:
        """The samples (n,) float32 of all frames not yet spoken; the stream ends.  A second call returns none."""
        self._ended = True
        return self._speak(self._waiting) if self._waiting else np.empty(0, np.float32)

    @property
    def _waiting(self) -> int:
        return self._start + len(self._frames) - self._spoken

    def _speak(self, frames: int) -> Samples:
        """Decode the next `frames` frames in their context, then forget those no later frame depends on."""
        first = self._spoken - self._start
        codes, kept = torch.tensor(self._frames), (first, first + frames)
        wave = self._codec.decode(codes, start=self._start, seed=self._seed, kept=kept)
        samples: Samples = wave.clamp(-1, 1).float().cpu().numpy()
        self._spoken += frames
        start = max(self._spoken - self._codec.context[0], 0)
        del self._frames[: start - self._start]
        self._start = start
        return samples


def to_pcm16(samples: Samples) -> bytes:
    """Samples (n,) float in [-1, 1] → 2 n bytes of s16le; louder ones are clipped, what is no number is silence."""
    clipped = np.clip(np.nan_to_num(samples, nan=0.0), -1, 1)
    return np.rint(clipped * 32767).astype("<i2").tobytes()


def write_wav(path: Path, samples: Samples, rate: int) -> None:
    """Write samples (n,) float32 in [-1, 1] as a 16-bit mono wav file."""
    with path.open("wb") as file, wave.open(file) as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(rate)
        wav.writeframes(to_pcm16(samples))
