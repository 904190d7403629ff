"""The embedded codec: ConvNeXt blocks around residual vector quantisation, sound made by an inverse STFT.

Codebooks run at strides 4, 2 and 1 of 46.9 Hz, so a frame has 1 + 2 + 4 codes and 2,048 samples at 24 kHz, as in SNAC
(Siuzdak et al., arXiv 2410.14411).  The head follows Vocos (Siuzdak, arXiv 2306.00814): magnitude and phase of each
STFT bin are predicted at the hop's rate, no upsampling by transposed convolutions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni2.codec import Range


@dataclass(frozen=True)
class IstftConfig:
    """Sizes of an `IstftCodec`; lengths in samples at `sample_rate` (Hz)."""

    sample_rate: int = 24_000
    hop: int = 256
    n_fft: int = 1024
    n_mels: int = 100
    width: int = 256
    encoder_blocks: int = 5
    decoder_blocks: int = 7
    strides: tuple[int, ...] = (4, 2, 1)
    codebook_size: int = 1024
    codebook_width: int = 16

    @property
    def frame_size(self) -> int:
        """Samples a frame: the coarsest codebook's step."""
        return self.hop * 2 * self.strides[0]


class Conv(nn.Module):
    """1-D convolution that sees `left` positions back and `right` ahead; zeros beyond the ends."""

    def __init__(self, channels_in: int, channels_out: int, left: int, right: int, groups: int = 1) -> None:
        super().__init__()
        self.pad = (left, right)
        self.conv = nn.Conv1d(channels_in, channels_out, left + right + 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(F.pad(x, self.pad))
        return y


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, then a two-layer perceptron per position (Liu et al., arXiv 2201.03545); (B, C, T)."""

    def __init__(self, width: int, left: int, right: int) -> None:
        super().__init__()
        self.depthwise = Conv(width, width, left, right, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.depthwise(x).transpose(1, 2))
        y: Tensor = self.down(F.gelu(self.up(h))) * self.scale
        return x + y.transpose(1, 2)


class Codebook(nn.Module):
    """One level of the residual quantiser: nearest of `size` vectors in a small projected space."""

    def __init__(self, width: int, size: int, codebook_width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.into = nn.Linear(width, codebook_width)
        self.out = nn.Linear(codebook_width, width)
        self.register_buffer("vectors", torch.randn(size, codebook_width))
        self.vectors: Tensor

    def project(self, x: Tensor) -> Tensor:
        """(B, C, T) → (B, T / stride, codebook_width): averaged over the stride, then projected."""
        y: Tensor = self.into(F.avg_pool1d(x, self.stride, self.stride).transpose(1, 2))
        return y

    def nearest(self, z: Tensor) -> Tensor:
        """(..., codebook_width) → codes (...), int64: the nearest vector of each."""
        distance = self.vectors.square().sum(1) - 2 * z.float() @ self.vectors.T
        return distance.argmin(-1)

    def expand(self, z: Tensor) -> Tensor:
        """(B, T / stride, codebook_width) → (B, C, T): back to the full width and rate."""
        y: Tensor = self.out(z)
        return y.transpose(1, 2).repeat_interleave(self.stride, 2)


class IstftCodec(nn.Module):
    """Waveform ↔ seven codes a frame.  `context` tells the frames of the past and of the future a sample depends on.

    The decoder draws no noise: `seed` and `start` of the contract change nothing.
    """

    context = (5, 2)

    def __init__(self, config: IstftConfig) -> None:
        super().__init__()
        self.config = config
        self.sample_rate, self.frame_size = config.sample_rate, config.frame_size
        width, n_bins = config.width, config.n_fft // 2 + 1
        self.embed = Conv(config.n_mels, width, 3, 3)
        self.encoder = nn.Sequential(*(ConvNeXtBlock(width, 3, 3) for _ in range(config.encoder_blocks)))
        self.encoder_norm = nn.LayerNorm(width)
        self.downsample = nn.Conv1d(width, width, 2, stride=2)
        self.codebooks = nn.ModuleList(
            Codebook(width, config.codebook_size, config.codebook_width, s) for s in config.strides
        )
        self.mix = Conv(width, width, 3, 2)
        self.upsample = nn.ConvTranspose1d(width, width, 2, stride=2)
        self.decoder = nn.Sequential(*(ConvNeXtBlock(width, 4, 1) for _ in range(config.decoder_blocks)))
        self.decoder_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 2 * n_bins)
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        self.register_buffer("mels", mel_filters(config), persistent=False)
        self.window: Tensor
        self.mels: Tensor

    # ---- analysis

    def features(self, wave: Tensor) -> Tensor:
        """Samples (B, n), n a multiple of `hop`, in [-1, 1] → log-mel (B, n_mels, n / hop)."""
        c = self.config
        side = (c.n_fft - c.hop) // 2
        spectrum = torch.stft(
            F.pad(wave, (side, side)), c.n_fft, c.hop, window=self.window, center=False, return_complex=True
        )
        return (self.mels @ spectrum.abs()).clamp(min=1e-5).log()

    def latents(self, wave: Tensor) -> Tensor:
        """Samples (B, n) → latents (B, width, n / (2 hop)), before quantisation."""
        x = self.encoder(self.embed(self.features(wave) / 4 + 1))
        y: Tensor = self.downsample(self.encoder_norm(x.transpose(1, 2)).transpose(1, 2))
        return y

    @torch.inference_mode()
    def encode(self, wave: Tensor) -> Tensor:
        """Samples (n,) float32 in [-1, 1] at `sample_rate` → codes (frames, 7) int64; the end is padded to a frame."""
        x = F.pad(wave, (0, -wave.numel() % self.frame_size))[None]
        rest = self.latents(x)
        levels = []
        for book in self.codebooks:
            assert isinstance(book, Codebook)
            codes = book.nearest(book.project(rest))
            levels.append(codes[0])
            rest = rest - book.expand(F.embedding(codes, book.vectors))
        return torch.cat(
            [codes.view(-1, self.config.strides[0] // s) for codes, s in zip(levels, self.config.strides, strict=True)],
            1,
        )

    # ---- synthesis

    def synthesise(self, latents: Tensor) -> Tensor:
        """Quantised latents (B, width, T) → samples (B, T * 2 * hop), not clipped."""
        x = self.decoder(self.upsample(self.mix(latents)))
        magnitude, phase = self.head(self.decoder_norm(x.transpose(1, 2))).float().transpose(1, 2).chunk(2, 1)
        return self.inverse_stft(magnitude.clamp(max=6.0).exp(), phase)

    def inverse_stft(self, magnitude: Tensor, phase: Tensor) -> Tensor:
        """(B, bins, T) each → samples (B, T * hop), overlap-added and divided by the windows' energy."""
        c = self.config
        frames = torch.fft.irfft(torch.polar(magnitude, phase), c.n_fft, dim=1) * self.window[:, None]
        n = c.n_fft + (frames.shape[2] - 1) * c.hop

        def overlap_add(x: Tensor) -> Tensor:
            return F.fold(x, (1, n), (1, c.n_fft), stride=(1, c.hop))[:, 0, 0]

        energy = overlap_add(self.window.square()[None, :, None].expand(1, -1, frames.shape[2]))
        side = (c.n_fft - c.hop) // 2
        return (overlap_add(frames) / energy.clamp(min=1e-6))[:, side : n - side]

    def dequantise(self, codes: Tensor) -> Tensor:
        """Codes (B, frames, 7) int64 → quantised latents (B, width, frames * strides[0])."""
        strides, at = self.config.strides, 0
        latents: Tensor | None = None
        for book, stride in zip(self.codebooks, strides, strict=True):
            assert isinstance(book, Codebook)
            n = strides[0] // stride
            level = book.expand(F.embedding(codes[:, :, at : at + n].flatten(1), book.vectors))
            latents = level if latents is None else latents + level
            at += n
        assert latents is not None
        return latents

    @torch.inference_mode()
    def decode(self, codes: Tensor, start: int = 0, seed: int | None = None, kept: Range | None = None) -> Tensor:
        """Codes (frames, 7) int64 → samples (frames * frame_size,) float32 at `sample_rate`; see `Codec.decode`."""
        first, last = kept or (0, len(codes))
        return self.synthesise(self.dequantise(codes[None]))[0, first * self.frame_size : last * self.frame_size]


def mel_filters(config: IstftConfig) -> Tensor:
    """Triangular filters (n_mels, n_fft / 2 + 1) on the HTK mel scale, each of height one, from 0 Hz to Nyquist."""
    top = config.sample_rate / 2
    mel_top = 2595 * torch.log10(torch.tensor(1 + top / 700))
    edges = 700 * (10 ** (torch.linspace(0, float(mel_top), config.n_mels + 2) / 2595) - 1)
    bins = torch.linspace(0, top, config.n_fft // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0)
