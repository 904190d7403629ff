"""The ear: log-mel spectrograms and Whisper's encoder.

Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (arXiv 2212.04356, section 2.2) and
the openai-whisper release, whose parameter names and numbers are kept so that its checkpoints load unchanged.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni2.audio import MAX_SAMPLES, SAMPLE_RATE, Wave
from omni2.errors import CheckpointError, InputError

Window = Literal["exact", "trimmed"]

N_FFT = 400  # samples: a window of 25 ms
HOP = 160  # samples: a mel frame every 10 ms
SAMPLES_PER_FRAME = 2 * HOP  # 320 samples: the second convolution halves the mel rate
FRAME_RATE = SAMPLE_RATE // SAMPLES_PER_FRAME  # 50 encoder frames a second
MAX_FRAMES = MAX_SAMPLES // SAMPLES_PER_FRAME  # 1,500 encoder frames
MARGIN = 3 * SAMPLE_RATE // 10  # samples: 0.3 s of silence behind the sound in a trimmed window


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


class Encoder(Protocol):
    """What the model asks of an ear."""

    n_mels: int  # bands of the log-mel
    width: int  # numbers a feature
    layers: int  # blocks

    def encode(self, wave: Wave | Tensor, window: Window) -> Tensor:
        """Features (T, width) of `wave` (samples,) at 16 kHz, T = `frames_of(samples)`, 50 a second."""

    def to(self, device: torch.device | str) -> "Encoder":
        """Move the weights."""


class AudioEncoder(nn.Module):
    """Whisper's encoder; parameter names are those under `encoder.` in openai-whisper's checkpoints.

    small: (80, 1500, 768, 12, 12); tiny.en: (80, 1500, 384, 6, 4).
    """

    positional_embedding: Tensor

    def __init__(self, n_mels: int, n_ctx: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.n_mels, self.n_ctx, self.width, self.layers = n_mels, n_ctx, width, layers
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
        encoded: Tensor = self(mel[None])
        return encoded[0, : frames_of(wave.shape[0])].clone()  # a view would keep all of a 30 s window


def _sinusoids(length: int, width: int) -> Tensor:
    """Whisper's fixed position encodings (length, width): sines in the first half, cosines in the second."""
    rates = torch.exp(-np.log(10_000) / (width // 2 - 1) * torch.arange(width // 2))
    angles = torch.arange(length)[:, None] * rates[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)
