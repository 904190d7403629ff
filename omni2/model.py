"""The language model: Qwen2's block over eight summed token layers, with adapters for encoder features.

Source: Qwen2 (arXiv 2407.10671) in the shape Mini-Omni2 gave it (arXiv 2410.11190): one tied table for text and audio
tokens, the embeddings of a position's eight tokens averaged, features in the place of the audio layers' embeddings.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni2.config import ModelConfig
from omni2.tokens import AUDIO_LAYERS, LAYERS, TokenLayout

Modality = Literal["audio", "image"]


@dataclass(frozen=True)
class Span:
    """Encoder features (n, width) that stand in the audio layers from position `start` on."""

    start: int
    features: Tensor
    modality: Modality


@dataclass(frozen=True)
class Placed:
    """Features of one modality for a whole batch, (n, width) as the adapter takes them, and the row and the position
    that each stands at, (n,) int64."""

    modality: Modality
    features: Tensor
    rows: Tensor
    positions: Tensor


class Cache(Protocol):
    """Keys and values of a number of slots, in whatever form the model that made it wants them."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Give slot `target` the first `length` positions of slot `source`."""


class KVCache:
    """Keys and values of all live rows: (n_layer, slots, n_query_groups, capacity, head_size) each.

    A slot is one row of the batch; whoever owns the slots keeps the count of positions in use.
    """

    def __init__(self, config: ModelConfig, slots: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (config.n_layer, slots, config.n_query_groups, config.block_size, config.head_size)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)  # zeros take no memory before they are written
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    def copy(self, source: int, target: int, length: int) -> None:
        """Give slot `target` the first `length` positions of slot `source`."""
        for store in (self.keys, self.values):
            store[:, target, :, :length] = store[:, source, :, :length]


@dataclass(frozen=True)
class Rows:
    """Which slots a forward pass writes to and from which positions on: (R,) int64 each.

    `length` is how many positions of the cache are looked at; None: no more than are in use.
    """

    cache: Cache
    slots: Tensor
    starts: Tensor
    length: int | None = None


class Attention(nn.Module):
    """Grouped-query attention with rotary positions (halves rotated); (R, T, n_embd) to the same."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.groups, self.size = config.n_head, config.n_query_groups, config.head_size
        self.qkv = nn.Linear(config.n_embd, (self.heads + 2 * self.groups) * self.size)
        self.proj = nn.Linear(self.heads * self.size, config.n_embd, bias=False)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], layer: int, rows: Rows | None, mask: Tensor | None
    ) -> Tensor:
        """`mask` (R, 1, T, L) bool says which of the L cached positions each new one may see; None is causal."""
        parts = (self.heads * self.size, self.groups * self.size, self.groups * self.size)
        q, k, v = (p.unflatten(-1, (-1, self.size)).transpose(1, 2) for p in self.qkv(x).split(parts, -1))
        q, k = rotate(q, *rotary), rotate(k, *rotary)
        if rows is not None and mask is not None:
            k, v = self._cached(k, v, layer, rows, mask.shape[-1])
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
        projected: Tensor = self.proj(y.transpose(1, 2).flatten(2))
        return projected

    @staticmethod
    def _cached(k: Tensor, v: Tensor, layer: int, rows: Rows, length: int) -> tuple[Tensor, Tensor]:
        """Write the new keys and values, return all up to `length`."""
        places = rows.starts[:, None] + torch.arange(k.shape[2], device=k.device)
        out = []
        cache = rows.cache
        assert isinstance(cache, KVCache)
        for store, new in ((cache.keys[layer], k), (cache.values[layer], v)):
            store[rows.slots[:, None], :, places] = new.transpose(1, 2)
            out.append(store[:, :, :length][rows.slots])
        return out[0], out[1]


class Gated(nn.Module):
    """proj(silu(gate x) * up x): the block's feed-forward network and the adapters alike."""

    def __init__(self, width_in: int, width: int, width_out: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width_in, width, bias=False)
        self.up = nn.Linear(width_in, width, bias=False)
        self.proj = nn.Linear(width, width_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width_in) to (..., width_out)."""
        y: Tensor = self.proj(F.silu(self.gate(x)) * self.up(x))
        return y


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each added to its input."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm_1 = nn.RMSNorm(config.n_embd, config.norm_eps)
        self.attn = Attention(config)
        self.norm_2 = nn.RMSNorm(config.n_embd, config.norm_eps)
        self.mlp = Gated(config.n_embd, config.intermediate_size, config.n_embd)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], layer: int, rows: Rows | None, mask: Tensor | None
    ) -> Tensor:
        """(R, T, n_embd) to the same."""
        x = x + self.attn(self.norm_1(x), rotary, layer, rows, mask)
        added: Tensor = x + self.mlp(self.norm_2(x))
        return added


class LanguageModel(ABC):
    """Tokens and features in, hidden states and logits out; it knows no tasks, only positions.

    This is all that the engine asks of a model; `OmniLM` computes it in torch.
    """

    config: ModelConfig
    layout: TokenLayout
    offsets: Tensor

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where ids, slots and starts are expected."""

    @abstractmethod
    def to(self, device: torch.device | str) -> object:
        """Move the weights."""

    @abstractmethod
    def cache(self, slots: int) -> Cache:
        """Room for the keys and values of `slots` rows."""

    @abstractmethod
    def look_up(self, rows: Tensor) -> Tensor:
        """Rows of the embedding table, any shape → (..., n_embd)."""

    @abstractmethod
    def project(self, groups: Tensor, modality: Modality) -> Tensor:
        """What `group` makes (n, width) → (n, n_embd), by the modality's adapter."""

    @abstractmethod
    def __call__(self, x: Tensor, rows: Rows | None = None) -> Tensor:
        """Embedded positions (R, T, n_embd) → hidden states (R, T, n_embd), normalised.

        With `rows` the T new positions follow those in the cache and are written to it; without, T is the whole
        sequence from position 0 and nothing is kept.
        """

    @abstractmethod
    def text_logits(self, hidden: Tensor) -> Tensor:
        """(..., n_embd) → (..., text_block)."""

    @abstractmethod
    def audio_logits(self, hidden: Tensor) -> Tensor:
        """(..., n_embd) → (..., 7, audio_block)."""

    def adapt(self, features: Tensor, modality: Modality) -> Tensor:
        """Encoder features (n, width) → (positions, n_embd); see `group`."""
        return self.project(group(features, modality, self.config.audio_stride), modality)

    def embed(self, ids: Tensor, spans: Sequence[Sequence[Span]] = ()) -> Tensor:
        """Layer-local ids (R, 8, T) → (R, T, n_embd); the `spans` of each row replace audio layers' embeddings."""
        return self.put(ids, place(spans, self.config.audio_stride))

    def put(self, ids: Tensor, features: Sequence[Placed]) -> Tensor:
        """As `embed`, with the features of all rows side by side: one adapter's call a modality."""
        table = self.look_up(ids + self.offsets[:, None])
        audio = table[:, :AUDIO_LAYERS].sum(1)
        for placed in features:
            at = (placed.rows.to(audio.device), placed.positions.to(audio.device))
            adapted = self.project(placed.features.to(audio), placed.modality)
            audio = audio.index_put(at, AUDIO_LAYERS * adapted.to(audio))
        embedded: Tensor = (audio + table[:, AUDIO_LAYERS]) / LAYERS
        return embedded


def group(features: Tensor, modality: Modality, stride: int) -> Tensor:
    """Encoder features (n, width) → what the adapter takes: `stride` of a sound's side by side, zeros at the end.

    Pictures' features stay as they are.
    """
    if modality == "image":
        return features
    padded = F.pad(features, (0, 0, 0, -features.shape[0] % stride))
    return padded.reshape(-1, stride * features.shape[1])


def place(spans: Sequence[Sequence[Span]], stride: int) -> list[Placed]:
    """The spans of each row of a batch as one `Placed` for each modality that is there."""
    found = []
    for modality in get_args(Modality):
        own = [(row, span) for row, spans_of in enumerate(spans) for span in spans_of if span.modality == modality]
        if own:
            groups = [group(span.features, modality, stride) for _, span in own]
            rows = torch.cat([torch.full((len(g),), row) for g, (row, _) in zip(groups, own, strict=True)])
            positions = torch.cat([torch.arange(len(g)) + s.start for g, (_, s) in zip(groups, own, strict=True)])
            found.append(Placed(modality, torch.cat(groups), rows, positions))
    return found


class OmniLM(nn.Module, LanguageModel):
    """The model in torch: any device and precision, for training too."""

    def __init__(self, config: ModelConfig, layout: TokenLayout) -> None:
        super().__init__()
        self.config, self.layout = config, layout
        self.embedding = nn.Embedding(layout.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.RMSNorm(config.n_embd, config.norm_eps)
        width = config.adapter_size or config.intermediate_size
        self.audio_adapter = Gated(config.whisper_adapter_dim * config.audio_stride, width, config.n_embd)
        self.vision_adapter = (
            Gated(config.vision_adapter_dim, width, config.n_embd) if config.vision_adapter_dim else None
        )
        self.register_buffer("offsets", layout.offsets(), persistent=False)
        self.offsets: Tensor

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device

    def cache(self, slots: int) -> KVCache:
        """Room for `slots` rows, in the weights' precision."""
        return KVCache(self.config, slots, self.embedding.weight.dtype, self.device)

    def look_up(self, rows: Tensor) -> Tensor:
        """Rows of the table, any shape → (..., n_embd)."""
        found: Tensor = self.embedding(rows)
        return found

    def project(self, groups: Tensor, modality: Modality) -> Tensor:
        """What `group` makes (n, width) → (n, n_embd), by the modality's adapter."""
        adapter = self.audio_adapter if modality == "audio" else self.vision_adapter
        assert adapter is not None
        adapted: Tensor = adapter(groups)
        return adapted

    def forward(self, x: Tensor, rows: Rows | None = None) -> Tensor:
        """Embedded positions (R, T, n_embd) → hidden states (R, T, n_embd), normalised.

        With `rows` the T new positions follow those in the cache and are written to it; without, T is the whole
        sequence from position 0 and nothing is kept.
        """
        steps = torch.arange(x.shape[1], device=x.device)
        positions = steps[None] if rows is None else rows.starts[:, None] + steps
        mask = None
        if rows is not None:
            length = rows.length or int(rows.starts.max()) + x.shape[1]
            seen = torch.arange(length, device=x.device)
            mask = (seen <= positions[..., None])[:, None]
        rotary = self.rotary(positions, x.dtype)
        for layer, block in enumerate(self.blocks):
            x = block(x, rotary, layer, rows, mask)
        hidden: Tensor = self.norm(x)
        return hidden

    def rotary(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines (R, 1, T, head_size) of rotary positions (RoFormer, arXiv 2104.09864)."""
        angles = rotary_angles(positions, self.config)
        both = torch.cat([angles, angles], -1)[:, None]
        return both.cos().to(dtype), both.sin().to(dtype)

    def text_logits(self, hidden: Tensor) -> Tensor:
        """(..., n_embd) → (..., text_block)."""
        return F.linear(hidden, self.embedding.weight[: self.layout.text_block])

    def audio_logits(self, hidden: Tensor) -> Tensor:
        """(..., n_embd) → (..., 7, audio_block)."""
        logits = F.linear(hidden, self.embedding.weight[self.layout.text_block : self.layout.vocab_size])
        return logits.view(*logits.shape[:-1], AUDIO_LAYERS, self.layout.audio_block)


def rotary_angles(positions: Tensor, config: ModelConfig) -> Tensor:
    """Positions (...) → the angles by which the pairs of a head are turned, (..., head_size / 2) float32."""
    half = torch.arange(0, config.head_size, 2, device=positions.device, dtype=torch.float32)
    return positions[..., None].float() * config.rope_base ** (-half / config.head_size)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first half of each head with the second: (R, heads, T, head_size)."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin
