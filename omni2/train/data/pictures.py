"""Pictures to learn from as encoder features, drawn or imagined."""

import numpy as np
import torch
from torch import Tensor

from omni2.efficientnet import lite_pixels
from omni2.train.data.drawings import draw_any
from omni2.train.data.imagined import imagine_any
from omni2.train.data.things import Scene
from omni2.train.efficientnet_weights import Lite

BATCH = 16  # pictures through the encoder at once
IMAGINED = 0.25  # of the pictures are no drawings


def pictures(lite: Lite, n: int, rng: np.random.Generator) -> tuple[Tensor, list[Scene]]:
    """`n` pictures to learn from, drawn ones first: features (n, 50, 1280) float32 and what each shows."""
    imagined = round(n * IMAGINED)
    drawn = [draw_any(rng) for _ in range(n - imagined)]
    pixels = torch.stack([lite_pixels(picture) for picture, _ in drawn])
    with torch.no_grad():
        features = [lite.encoder(batch) for batch in torch.split(pixels, BATCH)]
    more, scenes = imagine_any(lite, imagined, rng)
    return torch.cat([*features, more]), [*(scene for _, scene in drawn), *scenes]
