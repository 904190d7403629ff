"""Whisper's encoder as a compiled graph."""

import threading
from typing import Any

import numpy as np
import openvino.opset13 as op
import torch
from torch import Tensor

from omni2.audio import Wave
from omni2.bundle import POSITIONS
from omni2.encoder import HOP, AudioEncoder, Window, frames_of, window_mel
from omni2.errors import InputError
from omni2.fast.graph import Compiler, Node, State, constant, layer_norm, linear, parameter, raw


class FastEncoder:
    """What `AudioEncoder` computes, from the same weights (or `quantise` of them), on the CPU."""

    def __init__(self, n_mels: int, width: int, heads: int, layers: int, state: State, compiler: Compiler) -> None:
        self.n_mels, self.width, self.layers = n_mels, width, layers
        self._positions = raw(state, POSITIONS).clone()
        self._graph = compiler(*_graph(n_mels, width, heads, layers, state))
        self._lock = threading.Lock()

    @classmethod
    def from_module(cls, encoder: AudioEncoder, state: State, compiler: Compiler) -> "FastEncoder":
        """From an encoder in torch, of which only sizes and positions are read, and weights as `state`."""
        first: Any = encoder.blocks[0]
        own = {POSITIONS: encoder.positional_embedding} | dict(state)
        return cls(encoder.n_mels, encoder.width, first.attn.heads, len(encoder.blocks), own, compiler)

    def warm_up(self) -> None:
        """Run the graph once, at which the compiler packs its weights."""
        self.encode(np.zeros(HOP, np.float32), "trimmed")

    def to(self, device: torch.device | str) -> "FastEncoder":
        """Raises InputError but for the CPU."""
        if torch.device(device).type != "cpu":
            raise InputError(f"compiled weights run on the CPU alone, not on {device}; load them as float32")
        return self

    def encode(self, wave: Wave | Tensor, window: Window) -> Tensor:
        """As `AudioEncoder.encode`: float32, threads take turns."""
        mel = window_mel(wave, window, self.n_mels)[None]
        given = {"mel": mel.numpy(), "positions": self._positions[: -(-mel.shape[2] // 2)].numpy()}
        with self._lock:
            encoded = self._graph.infer(self._graph.here, given)
        return encoded[0, : frames_of(wave.shape[0])].clone()  # a view would keep all of a 30 s window


def _graph(n_mels: int, width: int, heads: int, layers: int, state: State) -> tuple[Node, list[Node]]:
    """Log-mel (1, n_mels, 2 T) and position encodings (T, width) → (1, T, width)."""
    mel, positions = parameter("mel", [1, n_mels, -1]), parameter("positions", [-1, width])
    x = _convolution(_convolution(mel, state, "conv1", 1), state, "conv2", 2)
    x = op.add(op.transpose(x, np.array([0, 2, 1])), positions)
    for layer in range(layers):
        block = f"blocks.{layer}"
        x = op.add(x, _attention(layer_norm(x, state, f"{block}.attn_ln"), state, f"{block}.attn", heads))
        inner = op.gelu(linear(layer_norm(x, state, f"{block}.mlp_ln"), state, f"{block}.mlp.0"), "erf")
        x = op.add(x, linear(inner, state, f"{block}.mlp.2"))
    return layer_norm(x, state, "ln_post"), [mel, positions]


def _convolution(x: Node, state: State, name: str, stride: int) -> Node:
    """Three wide, one at each end padded, then GELU."""
    y = op.convolution(x, constant(raw(state, f"{name}.weight")), [stride], [1], [1], [1])
    return op.gelu(op.add(y, constant(state[f"{name}.bias"].float()[None, :, None])), "erf")


def _attention(x: Node, state: State, name: str, heads: int) -> Node:
    """Of all frames to all: (1, T, width) to the same."""
    order = np.array([0, 2, 1, 3])
    q, k, v = (
        op.transpose(op.reshape(linear(x, state, f"{name}.{part}"), [0, 0, heads, -1], True), order)
        for part in ("query", "key", "value")
    )
    mixed = op.transpose(op.scaled_dot_product_attention(q, k, v), order)
    return linear(op.reshape(mixed, [0, 0, -1], True), state, f"{name}.out")
