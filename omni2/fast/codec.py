"""SNAC's decoder as a compiled graph."""

import threading
from collections.abc import Sequence
from functools import reduce
from typing import Any

import openvino.opset13 as op
import torch
from snac.layers import NoiseBlock, ResidualUnit, Snake1d
from torch import Tensor, nn

from omni2.codec.snac import SnacCodec
from omni2.fast.graph import Compiler, Node, constant, parameter


class FastSnac(SnacCodec):
    """What `SnacCodec` computes, the decoder's layers compiled for the CPU, in float32; threads take turns."""

    def __init__(self, codec: SnacCodec, compiler: Compiler) -> None:
        super().__init__(codec.model)
        first: Any = next(self.decoder_layers())
        latents = parameter("latents", [1, first.in_channels, -1])
        given = [latents]
        x = latents
        for layer in self.decoder_layers():
            if isinstance(layer, NoiseBlock):
                given.append(parameter(f"noise{len(given) - 1}", [1, 1, -1]))
                x = op.add(x, op.multiply(_node(x, layer.linear), given[-1]))
            else:
                x = _node(x, layer)
        self._graph = compiler(x, given)
        self._lock = threading.Lock()

    def synthesise(self, latents: Tensor, noises: Sequence[Tensor]) -> Tensor:
        """See `SnacCodec.synthesise`."""
        noises = noises or [torch.zeros(n) for n in self.noise_lengths(latents.shape[2])]
        given = {"latents": latents.numpy()}
        given |= {f"noise{i}": noise[None, None].numpy() for i, noise in enumerate(noises)}
        with self._lock:
            return self._graph.infer(self._graph.here, given)


def _node(x: Node, layer: nn.Module) -> Node:
    """What a layer of the package's decoder makes of x (1, channels, T)."""
    if isinstance(layer, nn.Sequential):
        return reduce(_node, layer, x)
    if isinstance(layer, ResidualUnit):
        return op.add(x, _node(x, layer.block))
    if isinstance(layer, Snake1d):
        rate = layer.alpha.detach()
        wave = op.sin(op.multiply(x, constant(rate)))
        return op.add(x, op.multiply(op.multiply(wave, wave), constant(1 / (rate + 1e-9))))
    if isinstance(layer, nn.Tanh):
        return op.tanh(x)
    assert isinstance(layer, nn.Conv1d | nn.ConvTranspose1d)
    return _convolution(x, layer)


def _convolution(x: Node, layer: nn.Conv1d | nn.ConvTranspose1d) -> Node:
    """One convolution, plain, by groups, or transposed, and its bias."""
    kernel, pads = layer.weight.detach(), [int(layer.padding[0])]
    stride, dilation = list(layer.stride), list(layer.dilation)
    if layer.groups > 1:
        kernel = kernel.reshape(layer.groups, -1, *kernel.shape[1:])
    if isinstance(layer, nn.ConvTranspose1d):
        transposed = op.convolution_backprop_data if layer.groups == 1 else op.group_convolution_backprop_data
        extra = list(layer.output_padding)
        y = transposed(x, constant(kernel), stride, None, pads, pads, dilation, "explicit", extra)
    else:
        convolved = op.convolution if layer.groups == 1 else op.group_convolution
        y = convolved(x, constant(kernel), stride, pads, pads, dilation)
    if layer.bias is None:
        return y
    return op.add(y, constant(layer.bias.detach()[None, :, None]))
