"""From logits to token ids."""

import torch
from torch import Tensor

from omni2.config import Pick

COLDEST = 1e-6  # a temperature that leaves nothing but the best, and divides logits without overflow


def sample(logits: Tensor, pick: Pick, generator: torch.Generator) -> Tensor:
    """Draw one id from each row of `logits` (…, vocabulary), at most one axis before it → (…,) int64.

    Greedy at temperature 0 (the lowest id wins a tie); else the `top_k` best of the softmax at the temperature, of
    these the fewest that hold `top_p` of the probability (nucleus sampling, Holtzman et al., arXiv 1904.09751).
    """
    if pick.greedy:
        return logits.argmax(-1)
    if logits.ndim == 1:
        return sample(logits[None], pick, generator)[0]
    ordered, ids = (logits.float() / max(pick.temperature, COLDEST)).sort(-1, descending=True)
    if 0 < pick.top_k < ordered.shape[-1]:
        ordered = ordered[:, : pick.top_k]
    shares = ordered.softmax(-1)
    before = shares.cumsum(-1) - shares
    cut = before >= pick.top_p
    cut[:, 0] = False  # the best is kept, even where `top_p` is too small for float32
    shares = shares.masked_fill(cut, 0)
    drawn = torch.multinomial(shares.to(generator.device), 1, generator=generator)
    return ids.gather(-1, drawn.to(ids.device))[:, 0]
