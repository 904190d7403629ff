"""Sound in: any file or array becomes a checked 16 kHz waveform, a log-mel picture and Whisper encoder features.

Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (arXiv 2212.04356, section 2.2) and
the openai-whisper release, whose parameter names and numbers are kept so that its checkpoints load unchanged.
"""

import io
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni2.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from av.container import InputContainer

Wave = npt.NDArray[np.float32]
Sound = str | Path | bytes | BinaryIO | npt.NDArray[Any] | Tensor
Window = Literal["exact", "trimmed"]

SAMPLE_RATE = 16_000  # samples a second
N_FFT = 400  # samples: a window of 25 ms
HOP = 160  # samples: a mel frame every 10 ms
MAX_SECONDS = 30  # seconds: the longest sound the encoder was trained on
MAX_SAMPLES = MAX_SECONDS * SAMPLE_RATE  # 480,000 samples
SAMPLES_PER_FRAME = 2 * HOP  # 320 samples: the second convolution halves the mel rate
FRAME_RATE = SAMPLE_RATE // SAMPLES_PER_FRAME  # 50 encoder frames a second
MAX_FRAMES = MAX_SAMPLES // SAMPLES_PER_FRAME  # 1,500 encoder frames
MARGIN = 3 * SAMPLE_RATE // 10  # samples: 0.3 s of silence behind the sound in a trimmed window

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


def frames_of(samples: int) -> int:
    """Encoder frames that `samples` at 16 kHz fill: floor(milliseconds / 20) + 1, at most 1,500 (mini-omni2)."""
    return min(samples // SAMPLES_PER_FRAME + 1, MAX_FRAMES)


@lru_cache(maxsize=4)
def mel_filters(n_mels: int) -> Tensor:
    """Triangular filters on Slaney's mel scale, each of unit area: float32 (n_mels, 201), powers in, mel bands out."""
    linear, log_step = 200 / 3, np.log(6.4) / 27  # Hz a mel below 1 kHz; above, 27 mels a factor of 6.4
    knee = 1000 / linear  # 15 mel
    mels = np.linspace(0, knee + np.log(SAMPLE_RATE / 2 / 1000) / log_step, n_mels + 2)
    hertz = np.where(mels < knee, linear * mels, 1000 * np.exp(log_step * (mels - knee)))
    bins = np.fft.rfftfreq(N_FFT, 1 / SAMPLE_RATE)
    slopes = hertz[:, None] - bins[None, :]
    width = np.diff(hertz)[:, None]
    triangles = np.maximum(0, np.minimum(-slopes[:-2] / width[:-1], slopes[2:] / width[1:]))
    return torch.from_numpy((triangles * (2 / (hertz[2:] - hertz[:-2]))[:, None]).astype(np.float32))


def log_mel(wave: Wave | Tensor, n_mels: int = 80) -> Tensor:
    """Log-mel spectrogram as Whisper takes it: (samples,) at 16 kHz to float32 (n_mels, samples // 160).

    Bands are log10 of power, floored 8 (80 dB) below the loudest band of THIS window, then (x + 4) / 4. The floor is
    thus relative: the same sound within a louder window loses its quiet parts. Silence around it changes nothing.
    Raises InputError for fewer than 400 samples.
    """
    samples = torch.as_tensor(wave, dtype=torch.float32)
    if samples.ndim != 1 or samples.shape[0] < N_FFT:
        raise InputError(f"log_mel needs (samples,) with at least {N_FFT} samples, not {tuple(samples.shape)}")
    window = torch.hann_window(N_FFT, device=samples.device)
    spectrum = torch.stft(samples, N_FFT, HOP, window=window, return_complex=True)
    bands = mel_filters(n_mels).to(samples.device) @ spectrum[..., :-1].abs().square()
    logs = bands.clamp(min=1e-10).log10()
    return (torch.maximum(logs, logs.max() - 8.0) + 4.0) / 4.0


def window_mel(wave: Wave | Tensor, window: Window, n_mels: int = 80) -> Tensor:
    """Log-mel (n_mels, frames) of `wave` (samples,) at 16 kHz in one of the encoder's two windows.

    "exact" pads or cuts to 30 s (3,000 mel frames), as Whisper was trained. "trimmed" adds 0.3 s of silence, rounded
    up to whole encoder frames (an even number of mel frames), at most 30 s.
    """
    if window not in ("exact", "trimmed"):
        raise InputError(f'window is "exact" or "trimmed", not {window!r}')
    samples = torch.as_tensor(wave, dtype=torch.float32)[:MAX_SAMPLES]
    length = MAX_SAMPLES
    if window == "trimmed":
        length = min(-(-(samples.shape[0] + MARGIN) // SAMPLES_PER_FRAME) * SAMPLES_PER_FRAME, MAX_SAMPLES)
    return log_mel(F.pad(samples, (0, length - samples.shape[0])), n_mels)


class Attention(nn.Module):
    """Self-attention over all frames, with Whisper's names: (B, T, width) to (B, T, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend: (B, T, width) to (B, T, width)."""
        parts = (self.query, self.key, self.value)
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v)
        projected: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return projected


class Block(nn.Module):
    """One pre-norm transformer block: (B, T, width) to (B, T, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.attn_ln = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.mlp_ln = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Attention, then the feed-forward network, each added to its input: (B, T, width) to (B, T, width)."""
        x = x + self.attn(self.attn_ln(x))
        added: Tensor = x + self.mlp(self.mlp_ln(x))
        return added


class AudioEncoder(nn.Module):
    """Whisper's encoder; parameter names are those under `encoder.` in openai-whisper's checkpoints.

    small: (80, 1500, 768, 12, 12); tiny.en: (80, 1500, 384, 6, 4).
    """

    positional_embedding: Tensor

    def __init__(self, n_mels: int, n_ctx: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.n_mels, self.n_ctx, self.width = n_mels, n_ctx, width
        self.conv1 = nn.Conv1d(n_mels, width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(width, width, kernel_size=3, stride=2, padding=1)
        self.register_buffer("positional_embedding", _sinusoids(n_ctx, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_post = nn.LayerNorm(width)

    @classmethod
    def from_whisper(cls, state: Mapping[str, Tensor]) -> "AudioEncoder":
        """Build from a Whisper state dict (`model_state_dict` of small.pt, or the encoder's part alone), float32.

        Sizes come from the shapes; heads are 64 wide as in every Whisper. Raises CheckpointError for missing weights.
        """
        own = {name.removeprefix("encoder."): value for name, value in state.items() if not name.startswith("decoder.")}
        try:
            width, n_mels, _ = own["conv1.weight"].shape
            layers = 1 + max(int(name.split(".")[1]) for name in own if name.startswith("blocks."))
            encoder = cls(n_mels, own["positional_embedding"].shape[0], width, width // 64, layers)
            encoder.load_state_dict(own)
        except (KeyError, ValueError, IndexError, RuntimeError) as error:
            reason = str(error).replace("\n", " ")
            raise CheckpointError(f"not the weights of a Whisper encoder: {reason}") from error
        return encoder.eval()

    def forward(self, mel: Tensor) -> Tensor:
        """Encode log-mel (B, n_mels, frames), frames <= 2 * n_ctx, to (B, ceil(frames / 2), width).

        Raises InputError for more frames or other bands.
        """
        if mel.ndim != 3 or mel.shape[1] != self.n_mels or mel.shape[2] > 2 * self.n_ctx:
            raise InputError(f"mel is (batch, {self.n_mels}, at most {2 * self.n_ctx}), not {tuple(mel.shape)}")
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        x = x + self.positional_embedding[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        encoded: Tensor = self.ln_post(x)
        return encoded

    @torch.no_grad()
    def encode(self, wave: Wave | Tensor, window: Window) -> Tensor:
        """Features (T, width) of `wave` (samples,) at 16 kHz, T = `frames_of(samples)`, 50 a second; see `window_mel`.

        On the encoder's device, in its dtype, without gradients. Sound beyond 30 s is cut off.
        """
        mel = window_mel(wave, window, self.n_mels).to(self.conv1.weight)
        encoded: Tensor = self(mel[None])[0, : frames_of(wave.shape[0])]
        return encoded


def _sinusoids(length: int, width: int) -> Tensor:
    """Whisper's fixed position encodings (length, width): sines in the first half, cosines in the second."""
    rates = torch.exp(-np.log(10_000) / (width // 2 - 1) * torch.arange(width // 2))
    angles = torch.arange(length)[:, None] * rates[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)
