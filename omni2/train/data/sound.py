"""Sound as bytes, FLAC for what is kept between two steps, any file read at its own rate; and its silent ends."""

import io

import av
import numpy as np
import numpy.typing as npt

from omni2.errors import InputError

Wave = npt.NDArray[np.float32]  # (samples,) mono in [-1, 1]


def flac(wave: Wave, rate: int) -> bytes:
    """`wave` (samples,) at `rate` Hz as a FLAC file of 16 bits, half the size of its samples."""
    out = io.BytesIO()
    pcm = np.round(np.clip(wave, -1, 1) * 32767).astype(np.int16)[None]
    with av.open(out, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=rate)
        stream.layout, stream.format = "mono", "s16"
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return out.getvalue()


def read_sound(data: bytes) -> tuple[Wave, int]:
    """Samples (n,) float32, mono, and their rate in Hz, of a sound file of any format.

    Raises InputError: not a sound file, or damaged.
    """
    try:
        with av.open(io.BytesIO(data), "r", options={"protocol_whitelist": "none"}) as container:
            to_mono = av.AudioResampler(format="flt", layout="mono")
            frames = [even for frame in container.decode(audio=0) for even in to_mono.resample(frame)]
            frames += to_mono.resample(None)
    except (av.FFmpegError, IndexError, ValueError, EOFError) as error:
        raise InputError(f"{len(data)} bytes are no sound file, or it is damaged: {error}") from error
    if not frames:
        raise InputError(f"nothing in {len(data)} bytes can be decoded as sound")
    wave = np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.float32)
    return wave, frames[0].sample_rate


def trim(wave: Wave, rate: int, threshold: float = -45.0, margin: float = 0.03) -> Wave:
    """`wave` (samples,) without its leading and trailing silence; see `loud`.  A silent wave comes back empty."""
    first, last = loud(wave, rate, threshold, margin)
    return wave[first:last]


def loud(wave: Wave, rate: int, threshold: float = -45.0, margin: float = 0.03) -> tuple[int, int]:
    """The first sample of `wave` (samples,) that is no leading silence, and one past the last that is no trailing one.

    Silence is any 10 ms window `threshold` dB under the loudest one, each without its mean: Festival's silences have
    an offset.  So is a single louder one between silent ones: the click where that offset ends, well behind the last
    word.  `margin` seconds of silence stay on both sides.
    (0, 0) for a silent wave.
    """
    hop = max(rate // 100, 1)
    padded = np.pad(wave, (0, -len(wave) % hop)).reshape(-1, hop)
    energy = padded.var(axis=1)
    if not energy.size or energy.max() < 1e-12:
        return 0, 0
    above = np.pad(energy > energy.max() * 10 ** (threshold / 10), 1)
    beside = above[1:-1] & (above[:-2] | above[2:])
    above = np.flatnonzero(beside if beside.any() else above[1:-1])
    pad = round(margin * rate)
    return max(int(above[0]) * hop - pad, 0), min((int(above[-1]) + 1) * hop + pad, len(wave))
