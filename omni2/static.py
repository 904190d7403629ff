"""Steps in few shapes: rows and cached positions are rounded up, so that a compiler or CUDA graphs have one for each.

A GPU computes a step sooner than Python can launch its kernels one by one; recorded once for a shape, they are launched
together (`torch.compile` with CUDA graphs).  Shapes may not change then, and every step has its own number of rows and
length of cache: so both are rounded up to powers of two, and what is too many sees and changes nothing.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from omni2.errors import InputError
from omni2.model import Cache, KVCache, LanguageModel, Modality, OmniLM, Rows

SHORTEST = 256  # positions of the cache that a step looks at, at least
GRAPHS = 128  # shapes that may be recorded: 7 numbers of rows by 4 lengths of the released model are 28

Step = Callable[[Tensor, Rows], Tensor]


def recorded(step: Step) -> Step:
    """`step` compiled for every shape it is called with, its kernels launched together on a GPU."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
    compiled: Step = torch.compile(step, mode="reduce-overhead", dynamic=False)
    return compiled


class StaticLM(LanguageModel):
    """What `OmniLM` computes, its steps in few shapes, each made by what `compiled` makes of a step."""

    def __init__(self, lm: OmniLM, compiled: Callable[[Step], Step] = recorded) -> None:
        self.config, self.layout, self.offsets = lm.config, lm.layout, lm.offsets
        self.lm = lm
        self._step = compiled(lm.forward)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.lm.device

    def to(self, device: torch.device | str) -> "StaticLM":
        """Raises InputError: what is recorded stays where it is."""
        raise InputError(f"a model whose steps are recorded cannot move to {device}; load it there")

    def cache(self, slots: int) -> Cache:
        """Room for `slots` rows, and for one that is nobody's: the last."""
        cache = self.lm.cache(slots + 1)
        for store in (cache.keys, cache.values):
            torch._dynamo.mark_static_address(store)  # or no CUDA graph is made of steps that write to it
        return cache

    def look_up(self, rows: Tensor) -> Tensor:
        """As `OmniLM.look_up`."""
        return self.lm.look_up(rows)

    def project(self, groups: Tensor, modality: Modality) -> Tensor:
        """As `OmniLM.project`."""
        return self.lm.project(groups, modality)

    def __call__(self, x: Tensor, rows: Rows | None = None) -> Tensor:
        """As `OmniLM.forward`; prefills, whose lengths are as many as prompts have, are computed as they are."""
        if rows is None or x.shape[1] > 1:
            whole: Tensor = self.lm(x, rows)
            return whole
        assert isinstance(rows.cache, KVCache)
        n, free = len(x), rows.cache.keys.shape[1] - 1
        more = power(n) - n
        length = min(max(power(int(rows.starts.max()) + 1), SHORTEST), self.config.block_size)
        slots, starts = F.pad(rows.slots, (0, more), value=free), F.pad(rows.starts, (0, more))
        hidden = self._step(F.pad(x, (0, 0, 0, 0, 0, more)), Rows(rows.cache, slots, starts, length))
        return hidden[:n].clone()  # the next step is written to the same place

    def text_logits(self, hidden: Tensor) -> Tensor:
        """As `OmniLM.text_logits`."""
        return self.lm.text_logits(hidden)

    def audio_logits(self, hidden: Tensor) -> Tensor:
        """As `OmniLM.audio_logits`."""
        return self.lm.audio_logits(hidden)


def power(n: int) -> int:
    """The smallest power of two that is no less than n >= 1."""
    return 1 << (n - 1).bit_length()
