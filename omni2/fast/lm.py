"""The language model as one compiled graph, whose keys and values stay where they are from step to step.

The cache is made of blocks of 32 positions (PagedAttention, Kwon et al., arXiv 2309.06180), a fixed run of them to each
slot.  The graph reads and writes them in place, each row up to its own length: nothing is gathered or copied.
"""

import math
import mmap
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import openvino.opset13 as op
import torch
from openvino import Type
from openvino import op as internal
from torch import Tensor
from torch.nn import functional as F

from omni2.config import ModelConfig
from omni2.errors import InputError
from omni2.fast.graph import Compiled, Compiler, Node, State, gated, linear, parameter, rms_norm
from omni2.model import LanguageModel, Modality, Rows, rotary_angles
from omni2.tokens import AUDIO_LAYERS, TokenLayout
from omni2.weights import SCALE

BLOCK = 32  # positions; the one size the CPU's kernels know
TABLE = "embedding.weight"


class BlockCache:
    """Keys and values of `slots` rows, each a run of blocks, and the request of the graph that is tied to them."""

    def __init__(self, body: Compiled, config: ModelConfig, slots: int, compiler: Compiler) -> None:
        self.per_slot = -(-config.block_size // BLOCK)
        shape = (slots * self.per_slot, config.n_query_groups, BLOCK, config.head_size)
        kind = compiler.cached
        number = {Type.f32: np.float32, Type.bf16: np.uint16, Type.f16: np.float16}[kind]
        self.request = body.request()
        self._stores = [_sparse(shape, np.dtype(number)) for _ in _stores(config)]
        for name, store in zip(_stores(config), self._stores, strict=True):
            self.request.set_tensor(name, ov.Tensor(store, ov.Shape(shape), kind))

    def copy(self, source: int, target: int, length: int) -> None:
        """Give slot `target` the first `length` positions of slot `source`."""
        blocks, first, second = -(-length // BLOCK), source * self.per_slot, target * self.per_slot
        for store in self._stores:
            store[second : second + blocks] = store[first : first + blocks]


class FastLM(LanguageModel):
    """What `OmniLM` computes, from the same weights, on the CPU; it cannot be trained or saved.

    `state` are the weights of an `OmniLM`, or what `omni2.weights.quantise` makes of them.
    """

    def __init__(self, config: ModelConfig, layout: TokenLayout, state: State, compiler: Compiler) -> None:
        self.config, self.layout, self.offsets = config, layout, layout.offsets()
        self._table = state[TABLE]
        self._scale = state[TABLE + SCALE].float() if TABLE + SCALE in state else None
        self._compiler = compiler
        self._body = compiler(*_body(config, state))
        blocks = {"text": slice(0, layout.text_block), "audio": slice(layout.text_block, layout.vocab_size)}
        self._heads = {name: compiler(*_head(config, state, rows)) for name, rows in blocks.items()}
        seen = ["audio"] + ["vision"] * bool(config.vision_adapter_dim)
        self._adapters = {kind: compiler(*_adapter(state, kind)) for kind in seen}
        turns = rotary_angles(torch.arange(config.block_size), config).numpy()
        self._cos, self._sin = np.cos(turns)[:, None, None], np.stack([-np.sin(turns), np.sin(turns)], 1)[:, None]
        self._whole: BlockCache | None = None
        self._lock = threading.Lock()  # around `_whole`

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def to(self, device: str | torch.device) -> "FastLM":
        """Raises InputError but for the CPU."""
        if torch.device(device).type != "cpu":
            raise InputError(f"compiled weights run on the CPU alone, not on {device}; load them as float32")
        return self

    def warm_up(self) -> None:
        """Run every graph once: the compiler packs the weights of each at its first run, not at the first question."""
        hidden = self(torch.zeros(1, 2, self.config.n_embd))
        self.text_logits(hidden), self.audio_logits(hidden)
        self.adapt(torch.zeros(self.config.audio_stride, self.config.whisper_adapter_dim), "audio")
        self._whole = None

    def cache(self, slots: int) -> BlockCache:
        """Room for `slots` rows."""
        return BlockCache(self._body, self.config, slots, self._compiler)

    def look_up(self, rows: Tensor) -> Tensor:
        """Rows of the table, any shape → (..., n_embd) float32."""
        found = F.embedding(rows, self._table).float()
        return found if self._scale is None else found * self._scale[rows][..., None]

    def project(self, groups: Tensor, modality: Modality) -> Tensor:
        """As `OmniLM.project`."""
        return self._adapters["audio" if modality == "audio" else "vision"](groups.float())

    def __call__(self, x: Tensor, rows: Rows | None = None) -> Tensor:
        """As `OmniLM.forward`: (R, T, n_embd) float32 to the same."""
        if rows is not None:
            assert isinstance(rows.cache, BlockCache)
            return self._run(x, rows.cache, rows.slots.numpy(), rows.starts.numpy())
        with self._lock:
            self._whole = self._whole or self.cache(1)
            zero = np.zeros(1, np.int64)
            return torch.cat([self._run(row[None], self._whole, zero, zero) for row in x])

    def _run(self, x: Tensor, cache: BlockCache, slots: "np.ndarray", starts: "np.ndarray") -> Tensor:
        (n, steps, width), ends = x.shape, starts + x.shape[1]
        positions = (starts[:, None] + np.arange(steps)).ravel()
        used = -(-ends // BLOCK)
        begins = np.concatenate([[0], used.cumsum()])
        blocks = np.arange(begins[-1]) + np.repeat(slots * cache.per_slot - begins[:-1], used)
        given = {
            "x": x.reshape(-1, width).contiguous().numpy(),
            "cos": self._cos[positions],
            "sin": self._sin[positions],
            "past": starts.astype(np.int32),
            "begins": (np.arange(n + 1) * steps).astype(np.int32),
            "blocks": blocks.astype(np.int32),
            "block_begins": begins.astype(np.int32),
            "longest": np.array(ends.max(), np.int32),
        }
        hidden = self._body.infer(cache.request, given)
        return hidden.view(n, steps, width)

    def text_logits(self, hidden: Tensor) -> Tensor:
        """(..., n_embd) → (..., text_block)."""
        return self._heads["text"](hidden)

    def audio_logits(self, hidden: Tensor) -> Tensor:
        """(..., n_embd) → (..., 7, audio_block)."""
        logits = self._heads["audio"](hidden)
        return logits.view(*logits.shape[:-1], AUDIO_LAYERS, self.layout.audio_block)


def _sparse(shape: tuple[int, ...], kind: "np.dtype[Any]") -> "npt.NDArray[Any]":
    """Zeros that take memory where they are written, page by page.

    numpy asks for huge pages: one short conversation would take 2 MB of every layer's keys, and of its values.
    """
    size = math.prod(shape) * kind.itemsize
    memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, kind).reshape(shape)


def _stores(config: ModelConfig) -> list[str]:
    return [f"{what}.{layer}" for layer in range(config.n_layer) for what in ("keys", "values")]


def _body(config: ModelConfig, state: State) -> tuple[Node, list[Node]]:
    """All blocks and the last norm over the positions of all rows, one behind the other: (N, n_embd) to the same.

    Inputs: x; cosines and signed sines of each position's angles; the cached length of each row, where its positions
    begin, the blocks of all rows, where each row's begin, and the longest row.
    """
    heads, groups, size = config.n_head, config.n_query_groups, config.head_size
    x, half = parameter("x", [-1, config.n_embd]), size // 2
    cos, sin = parameter("cos", [-1, 1, 1, half]), parameter("sin", [-1, 1, 2, half])
    places = [parameter(name, [-1], Type.i32) for name in ("past", "begins", "blocks", "block_begins")]
    longest = parameter("longest", [], Type.i32)
    # Of the kind that the compiler's options name: it would widen one told here, as a whole, at each step.
    stores = [parameter(name, [-1, groups, BLOCK, size], Type.dynamic) for name in _stores(config)]
    hidden = x
    for layer in range(config.n_layer):
        block = f"blocks.{layer}"
        qkv = linear(rms_norm(hidden, state[f"{block}.norm_1.weight"], config.norm_eps), state, f"{block}.attn.qkv")
        turning, v = op.variadic_split(qkv, 1, [(heads + groups) * size, groups * size]).outputs()
        turning = op.reshape(turning, [0, heads + groups, 2, half], True)
        turned = op.add(op.multiply(turning, cos), op.multiply(op.gather(turning, np.array([1, 0]), 2), sin))
        both = op.reshape(turned, [0, (heads + groups) * size], True)
        q, k = op.variadic_split(both, 1, [heads * size, groups * size]).outputs()
        seen = _attention([q, k, v, stores[2 * layer], stores[2 * layer + 1], *places], longest, groups, size)
        hidden = op.add(hidden, linear(seen, state, f"{block}.attn.proj"))
        inner = rms_norm(hidden, state[f"{block}.norm_2.weight"], config.norm_eps)
        hidden = op.add(hidden, gated(inner, state, f"{block}.mlp"))
    last = rms_norm(hidden, state["norm.weight"], config.norm_eps)
    return last, [x, cos, sin, *places, longest, *stores]


def _attention(given: list[Node], longest: Node, groups: int, size: int) -> Node:
    """Attention of the new positions over the cached ones, which takes them in.

    The inputs that are not `given` belong to features that are off: windows, biases, evictions, sinks.  Their number
    is that of OpenVINO 2026.4, to which the dependency is pinned.
    """
    none, zero = op.constant(np.zeros(0, np.int32)), op.constant(np.int32(0))

    def empty(axes: int, kind: type = np.float32) -> Node:
        return op.constant(np.zeros([0] * axes, kind))

    scale = op.constant(np.float32(size**-0.5))
    rotation = [none, empty(2, np.int32), empty(2)]
    sparse = [empty(1), zero, zero, empty(4)]
    evictions = [zero, none, none, none]
    rest = [none, *rotation, *sparse, *evictions, none, empty(1, np.uint8), none]
    inputs = [*given, scale, zero, empty(1), longest, *rest]
    node = internal._PagedAttentionExtension([_output(one) for one in inputs])
    for name, value in {"k_head_size": size, "v_head_size": size, "num_k_heads": groups, "num_v_heads": groups}.items():
        node.get_rt_info()[name] = value
    return node.output(0)


def _output(node: Node) -> Node:
    return node.output(0) if hasattr(node, "output") else node


def _head(config: ModelConfig, state: State, rows: slice) -> tuple[Node, list[Node]]:
    """Logits of some rows of the table: (N, n_embd) to (N, rows)."""
    part = {name: state[name][rows] for name in (TABLE, TABLE + SCALE) if name in state}
    x = parameter("x", [-1, config.n_embd])
    return linear(x, part, "embedding"), [x]


def _adapter(state: State, kind: str) -> tuple[Node, list[Node]]:
    """Features, grouped, to positions."""
    x = parameter("x", [-1, state[f"{kind}_adapter.up.weight"].shape[1]])
    return gated(x, state, f"{kind}_adapter"), [x]
