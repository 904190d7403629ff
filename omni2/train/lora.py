"""Low-rank changes to a trained model: few weights to learn, nothing of it left once merged.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from omni2.model import OmniLM


class LowRank(nn.Module):
    """A matrix (out, in) plus a product of two thin ones, zero at first."""

    def __init__(self, matrix: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.low_rank = nn.ParameterDict(
            {
                "down": nn.Parameter(torch.empty(rank, matrix.shape[1])),
                "up": nn.Parameter(torch.zeros(matrix.shape[0], rank)),
            }
        )
        nn.init.kaiming_uniform_(self.low_rank["down"], math.sqrt(5))

    def forward(self, matrix: Tensor) -> Tensor:
        """(out, in) to the same."""
        changed: Tensor = matrix + self.scale * self.low_rank["up"] @ self.low_rank["down"]
        return changed


def add_lora(lm: OmniLM, rank: int, alpha: float = 16.0, seed: int = 0) -> None:
    """Put a `LowRank` of `rank`, scaled by alpha / rank, over every matrix of the blocks; train them as "lora"."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in [m for m in lm.blocks.modules() if isinstance(m, nn.Linear)]:
            parametrize.register_parametrization(module, "weight", LowRank(module.weight, rank, alpha / rank))


def merge_lora(lm: OmniLM) -> None:
    """Add the products to their matrices and take them away: a plain model again."""
    for module in [*lm.modules()]:
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
