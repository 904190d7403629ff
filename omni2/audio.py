"""Sound in: any file or array becomes a checked 16 kHz waveform."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
from torch import Tensor

from omni2.errors import InputError

if TYPE_CHECKING:
    from av.container import InputContainer

Wave = npt.NDArray[np.float32]
Sound = str | Path | bytes | BinaryIO | npt.NDArray[Any] | Tensor

SAMPLE_RATE = 16_000  # samples a second
MAX_SECONDS = 30  # seconds: the longest sound the encoder was trained on
MAX_SAMPLES = MAX_SECONDS * SAMPLE_RATE  # 480,000 samples

MIN_SECONDS = 0.05  # shorter sounds hold no word
SLACK_SECONDS = 0.1  # lossy codecs pad the end of a file: this much above the limit is cut off silently
SILENCE = 1e-4  # half the peak-to-peak amplitude below which a sound is silent (-80 dBFS)
CLIP = 1.5  # amplitudes up to here are overshoot and clipped; above, the scale is wrong
MAX_CHANNELS = 8


def load_audio(source: str | Path | bytes | BinaryIO, max_seconds: float | None = MAX_SECONDS) -> Wave:
    """Decode a sound file to float32 (samples,), mono (mean of the channels), 16 kHz, [-1, 1].

    `source` is a path, the file's bytes or an open binary file, in any format that FFmpeg (PyAV) reads; of a film the
    first sound track. Nothing is fetched: a playlist's links are not followed. Decoding stops beyond `max_seconds`.

    Raises InputError: no such file, damaged, no sound in it, longer than `max_seconds` (None: any length).
    """
    import av

    name = source if isinstance(source, str | Path) else "the sound"
    try:
        file = Path(source).open("rb") if isinstance(source, str | Path) else source  # noqa: SIM115 (closed below)
    except OSError as error:
        raise InputError(f"cannot open {name}: {error.strerror}") from error
    if isinstance(file, bytes):
        file = io.BytesIO(file)
    try:
        with av.open(file, mode="r", options={"protocol_whitelist": "none"}) as container:
            wave, rate = _decode(container, max_seconds)
    except (av.FFmpegError, ValueError, EOFError, OSError) as error:
        if isinstance(error, InputError):
            raise InputError(f"{name}: {error}") from error
        raise InputError(f"{name} is not a sound file or is damaged; give wav, flac, ogg, mp3, m4a or webm") from error
    finally:
        if file is not source:
            file.close()
    return _in_unit_range(_resample(wave, rate))


def _decode(container: "InputContainer", max_seconds: float | None) -> tuple[Wave, int]:
    """All samples of the first sound track, mono, at its own rate in Hz; damaged packets are skipped as players do."""
    import av

    if not container.streams.audio:
        raise InputError("no sound track in this file")
    to_float = av.AudioResampler(format="fltp")
    pieces: list[Wave] = []
    samples, rate = 0, SAMPLE_RATE
    for packet in container.demux(container.streams.audio[0]):
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            continue
        for frame in frames:
            if not isinstance(frame, av.AudioFrame):
                continue
            rate = frame.sample_rate
            for even in to_float.resample(frame):
                pieces.append(even.to_ndarray().mean(axis=0, dtype=np.float32))
                samples += pieces[-1].shape[0]
        if max_seconds is not None and samples > (max_seconds + SLACK_SECONDS) * rate:
            raise InputError(f"longer than {max_seconds:g} s; cut it into pieces")
    if not samples:
        raise InputError("nothing in this file can be decoded as sound")
    return np.concatenate(pieces), rate


def _resample(wave: Wave, rate: float) -> Wave:
    """`wave` (samples,) from `rate` Hz to 16 kHz (soxr, high quality)."""
    if rate == SAMPLE_RATE or not wave.size:
        return wave
    import soxr

    resampled: Wave = soxr.resample(wave, rate, SAMPLE_RATE)
    return resampled


def _in_unit_range(wave: Wave) -> Wave:
    """Clip slight overshoot to [-1, 1]; refuse another scale. Values that are not numbers pass through."""
    peak = float(np.abs(wave).max(initial=0.0))
    if peak > CLIP:
        raise InputError(f"amplitude {peak:g} is outside [-1, 1]; divide 16-bit samples by 32768")
    return np.clip(wave, -1.0, 1.0) if peak > 1.0 else wave


def check_waveform(wave: npt.NDArray[Any], max_seconds: float | None = MAX_SECONDS) -> Wave:
    """Return `wave` as float32 (samples,), mono, 16 kHz, within [-1, 1], at most `max_seconds` long.

    Overshoot up to 1.5 is clipped and up to 0.1 s above the limit is cut off.
    Raises InputError, with the value and the remedy: not a float array of rank 1, empty, NaN or infinite, amplitude
    above 1.5, silent, shorter than 0.05 s, longer than `max_seconds` (None: any length).
    """
    if not isinstance(wave, np.ndarray) or not np.issubdtype(wave.dtype, np.floating):
        kind = getattr(wave, "dtype", type(wave).__name__)
        raise InputError(f"a waveform is a float array, not {kind}; use to_waveform")
    if wave.ndim != 1:
        raise InputError(f"a waveform has the shape (samples,), not {wave.shape}; use to_waveform")
    seconds = wave.shape[0] / SAMPLE_RATE
    if seconds < MIN_SECONDS:
        what = "is empty" if not wave.shape[0] else f"lasts {seconds * 1000:.0f} ms"
        raise InputError(f"the sound {what}; record at least {MIN_SECONDS * 1000:.0f} ms")
    if max_seconds is not None and seconds > max_seconds + SLACK_SECONDS:
        raise InputError(f"the sound lasts {seconds:.1f} s; cut it to {max_seconds:g} s")
    bad = int((~np.isfinite(wave)).sum())
    if bad:
        raise InputError(f"{bad} samples of the sound are NaN or infinite; repair it with np.nan_to_num")
    checked = _in_unit_range(wave.astype(np.float32, copy=False))
    if float(np.ptp(checked)) / 2 < SILENCE:
        raise InputError(f"the sound is silent (amplitude {np.ptp(checked) / 2:.1g}); check the microphone")
    return checked if max_seconds is None else checked[: round(max_seconds * SAMPLE_RATE)]


def to_waveform(audio: Sound, rate: float = SAMPLE_RATE, max_seconds: float | None = MAX_SECONDS) -> Wave:
    """Return any sound as a checked waveform: float32 (samples,), mono, 16 kHz, [-1, 1].

    `audio` is a file (path, bytes, open file: see `load_audio`, `rate` is ignored) or a NumPy array or tensor at `rate`
    Hz: float in [-1, 1], int16 or int32; (samples,), (channels, samples) or (samples, channels). Of two axes the one
    with at most 8 entries is the channels, whose mean is taken.
    Raises InputError as `load_audio` and `check_waveform` do, for another dtype or rank, and where both axes or
    neither have at most 8 entries.
    """
    if not isinstance(audio, np.ndarray | Tensor):
        if not isinstance(audio, str | Path | bytes) and not hasattr(audio, "read"):
            raise InputError(f"sound is a path, bytes, a file, an array or a tensor, not {type(audio).__name__}")
        return check_waveform(load_audio(audio, max_seconds), max_seconds)
    return check_waveform(_from_array(audio, rate, max_seconds), max_seconds)


def _from_array(audio: npt.NDArray[Any] | Tensor, rate: float, max_seconds: float | None) -> Wave:
    """An array or tensor as mono float32 at 16 kHz, unchecked but for what would go unnoticed afterwards."""
    if not 1_000 <= rate <= 384_000:
        raise InputError(f"a sample rate of {rate} Hz; give one between 1,000 and 384,000")
    if isinstance(audio, Tensor):
        tensor = audio.detach().cpu()
        audio = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    full_scale = 1.0
    if audio.dtype in (np.int16, np.int32):
        full_scale = -float(np.iinfo(audio.dtype).min)
    elif not np.issubdtype(audio.dtype, np.floating):
        raise InputError(f"samples of type {audio.dtype}; give float in [-1, 1], int16 or int32")
    if audio.ndim not in (1, 2):
        raise InputError(f"a sound has one or two axes, (samples,) or (channels, samples), not {audio.shape}")
    if audio.ndim == 2:
        rows, columns = audio.shape
        if (rows <= MAX_CHANNELS) == (columns <= MAX_CHANNELS):
            raise InputError(f"cannot tell which axis of {audio.shape} is the channels; give (samples,)")
        audio = audio.mean(axis=0 if rows <= MAX_CHANNELS else 1, dtype=np.float64) if audio.size else audio.ravel()
    if max_seconds is not None and audio.shape[0] > (max_seconds + SLACK_SECONDS) * rate:
        raise InputError(f"the sound lasts {audio.shape[0] / rate:.1f} s; cut it to {max_seconds:g} s")
    return _resample(np.ascontiguousarray(audio / full_scale, dtype=np.float32), rate)
