"""SNAC's decoder as a compiled graph.

Two kinds of its layers are put in other words, which mean the same and are several times as fast: the compiler has no
quick sine (`_snake`) and no quick transposed convolution (`_widened`).
"""

import math
import threading
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import openvino.opset13 as op
import torch
from openvino import Type
from snac.layers import NoiseBlock, ResidualUnit, Snake1d
from torch import Tensor, nn

from omni2.codec import Range
from omni2.codec.snac import SnacCodec
from omni2.fast.graph import Compiler, Node, constant, parameter

# sin(pi r) = r (A ((r² + B)² + C)² + D) for |r| <= 1/2, within 4e-7 r: fitted by least squares.  A chain of steps with
# one input each, of which the compiler makes one pass over memory.
A, B, C, D = 0.0895461004, -1.68694992, 5.70670219, -3.40828284


class FastSnac(SnacCodec):
    """What `SnacCodec` computes, the decoder's layers compiled for the CPU, in float32; threads take turns."""

    def __init__(self, codec: SnacCodec, compiler: Compiler) -> None:
        super().__init__(codec.model)
        stages = self.stages()
        x = parameter("latents", [1, stages[0][0].in_channels, -1])
        given = [x]
        for stage, layers in enumerate(stages):
            if stage:
                given += [parameter(f"{end}{stage}", [1], Type.i64) for end in ("first", "last")]
                x = op.slice(x, *given[-2:], np.array([1]), np.array([2]))
            for layer in layers:
                if isinstance(layer, NoiseBlock):
                    given.append(parameter(f"noise{stage}", [1, 1, -1]))
                    x = op.add(x, op.multiply(_node(x, layer.linear), given[-1]))
                else:
                    x = _node(x, layer)
        self._graph = compiler(x, given)
        self._lock = threading.Lock()

    def synthesise(self, latents: Tensor, spans: Sequence[Range], noises: Mapping[int, Tensor]) -> Tensor:
        """See `SnacCodec.synthesise`."""
        given: dict[str, Any] = {"latents": latents.numpy()}
        begin = 0
        for stage, (first, last) in enumerate(spans, 1):
            given |= {f"first{stage}": np.array([first - begin]), f"last{stage}": np.array([last - begin])}
            begin = first * self.rates[stage]
        for stage, (first, last) in self.noise_spans(spans).items():
            given[f"noise{stage}"] = noises.get(stage, torch.zeros(last - first))[None, None].numpy()
        with self._lock:
            return self._graph.infer(self._graph.here, given)


def _node(x: Node, layer: nn.Module) -> Node:
    """What a layer of the package's decoder makes of x (1, channels, T)."""
    if isinstance(layer, nn.Sequential):
        return reduce(_node, layer, x)
    if isinstance(layer, ResidualUnit):
        return op.add(x, _node(x, layer.block))
    if isinstance(layer, Snake1d):
        return _snake(x, layer.alpha.detach())
    if isinstance(layer, nn.Tanh):
        return op.tanh(x)
    assert isinstance(layer, nn.Conv1d | nn.ConvTranspose1d)
    return _widened(x, layer) if isinstance(layer, nn.ConvTranspose1d) else _convolution(x, layer)


def _snake(x: Node, alpha: Tensor) -> Node:
    """x + sin²(alpha x) / alpha, whose sine repeats itself, squared, every pi."""
    turns = op.add(op.multiply(x, constant(alpha / math.pi)), np.float32(0.5))
    r = op.subtract(op.floor_mod(turns, np.float32(1)), np.float32(0.5))
    inner = _power(op.add(_power(r), np.float32(B)))
    outer = _power(op.add(inner, np.float32(C)))
    sine = op.multiply(op.add(op.multiply(outer, np.float32(A)), np.float32(D)), r)
    return op.add(op.multiply(_power(sine), constant(1 / (alpha + 1e-9))), x)


def _power(x: Node) -> Node:
    return op.power(x, np.float32(2))


def _widened(x: Node, layer: nn.ConvTranspose1d) -> Node:
    """A transposed convolution of stride s, width 2 s and padding s / 2: each input becomes s outputs.

    The first half of these depend on the input before it and on it, the others on it and on the one behind it: two
    convolutions of width 2, whose channels are laid side by side in time.
    """
    stride, kernel = int(layer.stride[0]), layer.weight.detach()  # (in, out, 2 s)
    half = stride // 2
    given, made, width = kernel.shape
    assert (width, int(layer.padding[0]), stride % 2, layer.groups) == (2 * stride, half, 0, 1)
    sides = []
    for taps, pads in (((half + stride, half), ([1], [0])), ((half, -half), ([0], [1]))):
        offset = 0 if taps[0] > half else half
        pair = [kernel[..., tap + offset : tap + offset + half] for tap in taps]  # of the earlier input, of the later
        weight = torch.stack(pair, -1).permute(1, 2, 0, 3).reshape(made * half, given, 2)
        y = op.convolution(x, constant(weight), [1], *pads, [1])
        sides.append(op.reshape(y, np.array([1, made, half, -1]), False))
    y = op.transpose(op.concat(sides, 2), np.array([0, 1, 3, 2]))
    y = op.reshape(y, np.array([1, made, -1]), False)
    return y if layer.bias is None else op.add(y, constant(layer.bias.detach()[None, :, None]))


def _convolution(x: Node, layer: nn.Conv1d) -> Node:
    """One convolution, plain or by groups, and its bias."""
    kernel, pads = layer.weight.detach(), [int(layer.padding[0])]
    if layer.groups > 1:
        kernel = kernel.reshape(layer.groups, -1, *kernel.shape[1:])
    convolved = op.convolution if layer.groups == 1 else op.group_convolution
    y = convolved(x, constant(kernel), list(layer.stride), pads, pads, list(layer.dilation))
    return y if layer.bias is None else op.add(y, constant(layer.bias.detach()[None, :, None]))
