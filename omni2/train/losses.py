"""What a codec is trained to keep: spectra at several resolutions, and the envelopes that make speech intelligible."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni2.codec.istft import IstftConfig, mel_filters


class SpectralLoss(nn.Module):
    """L1 of log-mels plus relative error of magnitudes, at four resolutions."""

    sizes = ((256, 40), (512, 64), (1024, 80), (2048, 128))  # FFT length in samples, mel bands

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        for n_fft, n_mels in self.sizes:
            filters = mel_filters(IstftConfig(sample_rate=sample_rate, n_fft=n_fft, n_mels=n_mels))
            self.register_buffer(f"mels{n_fft}", filters[filters.sum(1) > 0])
            self.register_buffer(f"window{n_fft}", torch.hann_window(n_fft))

    def forward(self, made: Tensor, target: Tensor) -> Tensor:
        """Samples (B, n) each → scalar."""
        loss = made.new_zeros(())
        both = torch.cat([made, target])
        for n_fft, _ in self.sizes:
            window, mels = getattr(self, f"window{n_fft}"), getattr(self, f"mels{n_fft}")
            magnitude = magnitudes(both, n_fft, n_fft // 4, window)
            a, b = magnitude.chunk(2)
            log_a, log_b = (mels @ magnitude).clamp(min=1e-4).log().chunk(2)
            loss = loss + (log_a - log_b).abs().mean() + 0.5 * (a - b).abs().sum() / b.sum().clamp(min=1e-3)
        return loss / len(self.sizes)


class EnvelopeLoss(nn.Module):
    """One minus the correlation of short-time third-octave envelopes, the heart of STOI (Taal et al., 2011).

    Fifteen bands from 150 Hz, segments of 384 ms; silent frames are not cut out, else as in the measure.
    """

    bands, lowest, segment = 15, 150.0, 30

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.n_fft = round(256 * sample_rate / 10_000)
        self.hop = self.n_fft // 2
        centres = self.lowest * 2 ** (torch.arange(self.bands) / 3)
        bins = torch.linspace(0, sample_rate / 2, self.n_fft // 2 + 1)
        inside = (bins >= centres[:, None] * 2 ** (-1 / 6)) & (bins < centres[:, None] * 2 ** (1 / 6))
        self.register_buffer("inside", inside.float())
        self.register_buffer("window", torch.hann_window(self.n_fft))
        self.inside: Tensor
        self.window: Tensor

    def forward(self, made: Tensor, target: Tensor) -> Tensor:
        """Samples (B, n) each, at least 0.4 s → scalar."""
        power = magnitudes(torch.cat([made, target]), self.n_fft, self.hop, self.window).square()
        envelopes = (self.inside @ power + 1e-8).sqrt().unfold(-1, self.segment, 1)
        x, y = envelopes.chunk(2)
        loud = y.square().mean((1, 3), keepdim=True).sqrt()
        loud = loud > 0.02 * loud.amax((0, 2), keepdim=True)
        x = x * (y.norm(dim=-1, keepdim=True) / x.norm(dim=-1, keepdim=True).clamp(min=1e-4))
        x = torch.minimum(x, y * (1 + 10 ** (15 / 20)))
        x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
        correlation = F.cosine_similarity(x, y, dim=-1, eps=1e-4)[..., None]
        return 1 - (correlation * loud).sum() / (loud.expand_as(correlation)).sum().clamp(min=1)


def magnitudes(wave: Tensor, n_fft: int, hop: int, window: Tensor) -> Tensor:
    """Samples (B, n) → STFT magnitudes (B, bins, frames), with a floor that keeps the gradient finite."""
    spectrum = torch.view_as_real(torch.stft(wave, n_fft, hop, window=window, return_complex=True))
    return (spectrum.square().sum(-1) + 1e-9).sqrt()
