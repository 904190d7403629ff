"""Training of the audio encoder itself: log-mels in the place of its features, disguised as another person elsewhere.

A sample's sound is then (T, 2 * n_mels): for each of the encoder's T frames the two mel frames that it is made of.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from omni2.audio import SAMPLE_RATE, Wave
from omni2.encoder import MARGIN, SAMPLES_PER_FRAME, AudioEncoder, frames_of, window_mel
from omni2.model import Placed

RANGE = 2.0  # of a log-mel: `log_mel` cuts off what lies more than this below its loudest band
QUIETEST = -1.5  # nothing lies below this
TRACT = (0.85, 1.18)  # how long another's vocal tract may be, as a share
COLOUR = 0.25  # of a microphone or room: 10 dB, each way
STRETCH, BANDS = 12, 10  # mel frames (0.12 s) and mel bands that are masked at most, twice


def mels(wave: Wave, n_mels: int) -> Tensor:
    """Sound (samples,) at 16 kHz → float32 (T, 2 * n_mels), T as of `AudioEncoder.encode`; the silence that a trimmed
    window has behind it is left out."""
    frames = frames_of(wave.shape[0])
    return window_mel(wave, "trimmed", n_mels)[:, : 2 * frames].T.reshape(frames, 2 * n_mels)


def disguised(sound: Tensor, n_mels: int, rng: np.random.Generator) -> Tensor:
    """What `mels` gave, as another might have said it: half the time each with a vocal tract of another length (Jaitly
    and Hinton, 2013), through another microphone, and with some frames and bands missing (SpecAugment, Park et al.,
    arXiv 1904.08779)."""
    bands = sound.reshape(-1, n_mels)
    low = silence(bands)
    if rng.random() < 0.5:
        bands = warped(bands, rng.uniform(*TRACT))
    if rng.random() < 0.5:
        waves = torch.arange(3)[:, None] * torch.linspace(0, torch.pi, n_mels) + rng.uniform(0, 2 * np.pi)
        strength = (
            torch.from_numpy(rng.uniform(-1, 1, (3, 1)).astype(np.float32)) * COLOUR / torch.arange(1, 4)[:, None]
        )
        bands = torch.maximum(bands + (strength * waves.cos()).sum(0), low)
    if rng.random() < 0.5:
        bands = bands.clone()
        for axis, most in ((0, STRETCH), (1, BANDS)):
            for _ in range(2):
                size = int(rng.integers(0, min(most, bands.shape[axis] // 4) + 1))
                bands.narrow(axis, int(rng.integers(bands.shape[axis] - size + 1)), size).fill_(float(bands.mean()))
    return bands.reshape(sound.shape)


def warped(bands: Tensor, factor: float) -> Tensor:
    """Log-mels (T, n_mels) with all that lies at a frequency at `factor` times it: linear between two bands.

    Above 7 kHz the loudness of the last band that there is goes on.
    """
    n_mels = bands.shape[1]
    knee, step = 15.0, np.log(6.4) / 27  # of Slaney's scale, see `mel_filters`
    top = knee + np.log(SAMPLE_RATE / 2 / 1000) / step
    mel = np.linspace(0, top, n_mels + 2)[1:-1]
    hertz = np.where(mel < knee, mel * 200 / 3, 1000 * np.exp(step * (mel - knee))) / factor
    back = np.where(hertz < 1000, hertz * 3 / 200, knee + np.log(np.maximum(hertz, 1) / 1000) / step)
    at = torch.from_numpy(np.clip(back / top * (n_mels + 1) - 1, 0, n_mels - 1).astype(np.float32))
    below = at.long().clamp(max=n_mels - 2)
    return torch.lerp(bands[:, below], bands[:, below + 1], at - below)


def silence(bands: Tensor) -> Tensor:
    """What silence beside this sound has in each band of its log-mel: of (..., T, n) → (..., 1, 1)."""
    return (bands.amax((-2, -1), keepdim=True) - RANGE).clamp(min=QUIETEST)


def encoded(encoder: AudioEncoder, placed: Placed, stride: int) -> Placed:
    """`placed`, whose features are groups of `stride` times what `mels` gave (zeros behind its end), with the encoder's
    in their place.

    Sounds of a batch are heard side by side, with silence behind the shorter ones.
    """
    counts = torch.unique_consecutive(placed.rows, return_counts=True)[1].tolist()
    pairs = pad_sequence(
        [g.reshape(len(g) * stride, -1) for g in torch.split(placed.features, counts)], batch_first=True
    )
    inside = (pairs != 0).any(-1, keepdim=True)
    quiet = silence(torch.where(inside, pairs, QUIETEST))
    heard = torch.where(inside, pairs, quiet).float()
    behind = quiet.float().expand(-1, MARGIN // SAMPLES_PER_FRAME, heard.shape[2])
    mel = torch.cat([heard, behind], 1).reshape(len(counts), -1, encoder.n_mels).mT
    features = encoder(mel)[:, : heard.shape[1]] * inside
    groups = features.reshape(len(counts), -1, stride * encoder.width)
    return replace(placed, features=torch.cat([g[:n] for g, n in zip(groups, counts, strict=True)]))
