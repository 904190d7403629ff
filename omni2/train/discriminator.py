"""A small discriminator of spectrograms: it hears buzz and smear that distances between spectra let pass.

Complex spectrograms at two resolutions, convolutions with strides along frequency, hinge loss and matched features, as
in EnCodec (Défossez et al., arXiv 2210.13438) and UnivNet (Jang et al., arXiv 2106.07889); narrow enough for a CPU.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

POWER = 0.3  # of magnitudes: what is left in a pause counts too, as it does to the ear
FLOOR = 1e-5  # added to squared magnitudes; keeps the gradient finite in silence


class Resolution(nn.Module):
    """Convolutions over the real and imaginary parts of one STFT; each layer's output is a feature."""

    def __init__(self, n_fft: int, channels: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        widths = (2, channels, channels, 2 * channels, 2 * channels)
        convs = [nn.Conv2d(a, b, (3, 9), (1, 2), (1, 4)) for a, b in pairwise(widths)]
        convs.append(nn.Conv2d(widths[-1], 1, 3, padding=1))
        self.layers = nn.ModuleList(weight_norm(conv) for conv in convs)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.window: Tensor

    def forward(self, wave: Tensor) -> list[Tensor]:
        """Samples (B, n) → features (B, channels, frames, bands), the last of one channel: above zero means real."""
        spectrum = torch.stft(wave, self.n_fft, self.n_fft // 4, window=self.window, return_complex=True)
        x = torch.view_as_real(spectrum).permute(0, 3, 2, 1)
        x = x * (x.square().sum(1, keepdim=True) + FLOOR) ** ((POWER - 1) / 2)
        features: list[Tensor] = []
        for layer in self.layers:
            x = layer(F.leaky_relu(x, 0.2) if features else x)
            features.append(x)
        return features


class SpectrogramDiscriminator(nn.Module):
    """One `Resolution` for each of `sizes`, FFT lengths in samples."""

    def __init__(self, sizes: tuple[int, ...] = (512, 1024), channels: int = 16) -> None:
        super().__init__()
        self.resolutions = nn.ModuleList(Resolution(size, channels) for size in sizes)

    def forward(self, wave: Tensor) -> list[list[Tensor]]:
        """Samples (B, n) float32 → the features of each resolution."""
        return [resolution(wave) for resolution in self.resolutions]


def judgement(real: list[list[Tensor]], made: list[list[Tensor]]) -> Tensor:
    """What the discriminator learns by: hinge loss of its verdicts, 2 when it cannot tell."""
    losses = [F.relu(1 - one[-1].float()).mean() for one in real]
    losses += [F.relu(1 + one[-1].float()).mean() for one in made]
    return 2 * torch.stack(losses).mean()


def deception(real: list[list[Tensor]], made: list[list[Tensor]]) -> Tensor:
    """What the decoder learns by: hinge loss of the verdicts on its sound, twice the relative distance of features."""
    verdicts = [F.relu(1 - one[-1].float()).mean() for one in made]
    distances = []
    for ones, others in zip(real, made, strict=True):
        for a, b in zip(ones[:-1], others[:-1], strict=True):
            a = a.detach().float()
            distances.append((a - b).abs().mean() / a.abs().mean())
    return torch.stack(verdicts).mean() + 2 * torch.stack(distances).mean()
