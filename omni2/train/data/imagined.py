"""A photograph's substitute: features that EfficientNet might make of one, imagined from its ImageNet classifier.

There are no photographs of whole scenes to train on. But the encoder remembers: the batch norm before its head keeps
mean and deviation of ImageNet's features, its classifier keeps what a cat's are like. So features are drawn with those
statistics, smooth over the patches, and then moved, within a part of the picture and as little as can be, until the
classifier sees a cat.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from omni2.efficientnet import EfficientNet
from omni2.train.data.things import Scene, classes, things
from omni2.train.efficientnet_weights import Lite

GRID = 7  # patches a side
REACH = 1.3  # of the likeness between neighbours, in patches
STEPS = 40
STEP = 0.08  # of a channel's deviation


def imagine(lite: Lite, targets: Tensor, rng: np.random.Generator) -> Tensor:
    """Features (B, 50, 1280) of pictures that the classifier takes for `targets` (B,), int64 ImageNet classes."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    near = _nearness(REACH)
    noise = torch.randn(len(targets), GRID * GRID, len(lite.mean), generator=generator)
    hidden = lite.mean + near @ noise * lite.deviation
    where = _blobs(len(targets), rng)
    wanted = torch.from_numpy(rng.uniform(0.2, 0.9, len(targets))).float()
    for _ in range(STEPS):
        hidden.requires_grad_(True)
        scores = lite.classifier(_head(lite, hidden).mean(1)).log_softmax(-1)
        sure = scores.gather(1, targets[:, None])[:, 0]
        (slope,) = torch.autograd.grad(sure.sum(), hidden)
        step = where * (near @ slope) * lite.deviation
        step /= step.square().mean((1, 2), keepdim=True).sqrt() + 1e-9
        unsure = (sure.detach().exp() < wanted)[:, None, None]
        hidden = hidden.detach() + unsure * STEP * step * lite.deviation
    with torch.no_grad():
        patches = _head(lite, hidden)
        return torch.cat([patches.mean(1, keepdim=True), patches], 1)


@torch.no_grad()
def accustomed(lite: Lite, eye: EfficientNet, pixels: Tensor) -> Lite:
    """`lite` with `eye`, which was its own and then trained further, and with the statistics that this one gives.

    They moved as those of `pixels` (B, 3, 224, 224) did, photographs or what comes near them.
    """
    before, after = (each.narrow(pixels).transpose(0, 1).flatten(1) for each in (lite.encoder, eye))
    spread = after.std(1) / before.std(1).clamp(min=1e-6)
    return replace(
        lite,
        encoder=eye,
        mean=lite.mean + after.mean(1) - before.mean(1),
        deviation=lite.deviation * spread,
    )


def imagine_any(lite: Lite, n: int, rng: np.random.Generator) -> tuple[Tensor, list[Scene]]:
    """`n` pictures of things that ImageNet has, names evenly: features (n, 50, 1280) and what is to be seen."""
    known, plurals = classes(), {thing.name: thing.plural for thing in things()}
    names = [str(name) for name in rng.choice(sorted(known), n)]
    targets = torch.tensor([int(rng.choice(known[name])) for name in names])
    return imagine(lite, targets, rng), [Scene(name, plurals[name]) for name in names]


def _head(lite: Lite, hidden: Tensor) -> Tensor:
    """The encoder's last layer: (B, 49, 320) → (B, 49, 1280)."""
    return F.relu6(F.linear(hidden, lite.encoder.head.weight[:, :, 0, 0], lite.encoder.head.bias))


def _nearness(reach: float) -> Tensor:
    """What makes neighbours alike: (49, 49), rows of unit length, falling off with distance over `reach` patches."""
    at = torch.cartesian_prod(torch.arange(GRID), torch.arange(GRID)).float()
    weights = torch.exp(-(torch.cdist(at, at) ** 2) / (2 * reach**2))
    near: Tensor = weights / weights.norm(dim=1, keepdim=True)
    return near


def _blobs(n: int, rng: np.random.Generator) -> Tensor:
    """Where the things are: (n, 49, 1) in [0, 1], round spots of all sizes about the middle."""
    rows, columns = np.mgrid[:GRID, :GRID] - (GRID - 1) / 2
    y, x = rng.normal(0, 1, (2, n, 1, 1))
    size = rng.uniform(1.2, 3.5, (n, 1, 1))
    spots = np.exp(-(((rows - y) ** 2 + (columns - x) ** 2) / (2 * size**2)))
    return torch.from_numpy(spots).float().flatten(1)[..., None]
