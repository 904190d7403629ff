"""Sound out: samples to files as they come (wav, mp3, opus, flac, aac), and telephone speech both ways."""

import io
import struct
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from omni2.codec.stream import to_pcm16

Samples = npt.NDArray[np.float32]
Law = Literal["audio/pcmu", "audio/pcma"]

MEDIA_TYPES = {
    "wav": "audio/wav",
    "pcm": "audio/pcm",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "flac": "audio/flac",
    "aac": "audio/aac",
}
CONTAINERS = {
    "mp3": ("mp3", "libmp3lame"),
    "opus": ("ogg", "libopus"),
    "flac": ("flac", "flac"),
    "aac": ("adts", "aac"),
}
PAGE = 200_000  # µs of sound that an Ogg page waits for; FFmpeg's own second is too long for a conversation
ENDLESS = 0xFFFFFFFF  # a wav file's size where it is not known yet


def wav_header(rate: int, size: int | None = None) -> bytes:
    """The 44 bytes before `size` bytes of s16le, mono, at `rate` Hz; None for a stream of unknown length."""
    riff, data = (ENDLESS, ENDLESS) if size is None else (size + 36, size)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", riff, b"WAVE") + form + struct.pack("<4sI", b"data", data)


def sound_file(samples: Samples, form: str, rate: int) -> bytes:
    """All (n,) samples as one file; see `FileWriter`.  A wav file knows its length here."""
    if form == "wav":
        return wav_header(rate, 2 * samples.size) + to_pcm16(samples)
    writer = FileWriter(form, rate)
    return writer.push(samples) + writer.close()


class FileWriter:
    """One sound file, made piece by piece; `form` is a key of MEDIA_TYPES, or "pcm16", which is "pcm".

    The bytes of all calls together are the file.  pcm is s16le without a header.
    """

    def __init__(self, form: str, rate: int) -> None:
        import av

        self._header = wav_header(rate) if form == "wav" else b""
        self._out = io.BytesIO()
        self._container = None
        self._rate, self._written = rate, 0
        if form in CONTAINERS:
            container, codec = CONTAINERS[form]
            options = {"page_duration": str(PAGE)} if container == "ogg" else {}
            self._container = av.open(_Pipe(self._out), "w", format=container, options=options)
            stream = self._container.add_stream(codec, rate=rate, layout="mono")
            assert isinstance(stream, av.AudioStream)
            self._stream = stream

    def push(self, samples: Samples) -> bytes:
        """The bytes that (n,) float32 samples in [-1, 1] make certain, possibly none."""
        if self._container is None:
            head, self._header = self._header, b""
            return head + to_pcm16(samples)
        if samples.size:
            self._encode(samples)
        return self._drain()

    def close(self) -> bytes:
        """The rest of the file."""
        if self._container is None:
            return self.push(np.zeros(0, np.float32))
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._drain()

    def _encode(self, samples: Samples) -> None:
        import av

        assert self._container is not None
        levels = np.frombuffer(to_pcm16(samples), np.int16)
        frame = av.AudioFrame.from_ndarray(levels[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = self._rate, self._written
        self._written += samples.size
        self._container.mux(self._stream.encode(frame))

    def _drain(self) -> bytes:
        data = self._out.getvalue()
        self._out.seek(0)
        self._out.truncate()
        return data


class _Pipe:
    """A file that can only be written: what went out cannot be changed any more."""

    def __init__(self, out: io.BytesIO) -> None:
        self.write = out.write


def from_g711(data: bytes, law: Law) -> Samples:
    """Telephone speech, one byte a sample → samples (n,) float32 in [-1, 1].  Source: ITU-T G.711."""
    samples: Samples = _levels(law)[np.frombuffer(data, np.uint8)]
    return samples


def to_g711(samples: Samples, law: Law) -> bytes:
    """Samples (n,) float32 → the bytes of the nearest levels."""
    levels = _levels(law)
    order = np.argsort(levels)
    middles = (levels[order][1:] + levels[order][:-1]) / 2
    return order.astype(np.uint8)[np.searchsorted(middles, samples)].tobytes()


@cache
def _levels(law: Law) -> Samples:
    """The level in [-1, 1] that each of the 256 bytes stands for."""
    byte = np.arange(256)
    code = byte ^ (0xFF if law == "audio/pcmu" else 0x55)
    exponent, mantissa = code >> 4 & 7, code & 15
    if law == "audio/pcmu":
        magnitude = ((2 * mantissa + 33) << exponent + 2) - 132
        sign = np.where(code & 0x80, -1, 1)
    else:
        magnitude = np.where(exponent > 0, (2 * mantissa + 33) << exponent + 2, (2 * mantissa + 1) << 3)
        sign = np.where(code & 0x80, 1, -1)
    levels: Samples = (sign * magnitude / 32768).astype(np.float32)
    return levels
