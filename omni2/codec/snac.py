"""The released models' codec: hubertsiuzdak/snac_24khz through the `snac` package (Siuzdak et al., arXiv 2410.14411).

The package decodes whole recordings and draws its noise from torch's global generator.  Here the decoder's layers are
walked one by one instead, so that noise can be a function of the place in the stream.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from omni2.codec import Range
from omni2.errors import CheckpointError, InputError
from omni2.pickles import load_pickle

with warnings.catch_warnings():  # the package compiles one function with TorchScript while it is imported
    warnings.filterwarnings("ignore", ".*torch.jit.script", DeprecationWarning)
    from snac import SNAC
    from snac.layers import DecoderBlock, NoiseBlock, Snake1d

SHAPE: dict[str, object] = {  # what `frame_size` and `context` are derived from; widths are free
    "sampling_rate": 24_000,  # Hz
    "encoder_rates": [2, 4, 8, 8],
    "decoder_rates": [8, 8, 4, 2],
    "attn_window_size": None,
    "vq_strides": [4, 2, 1],
}
COLUMNS = (0, 1, 3, 7)  # where the codes of each codebook begin in a frame, and the end


class SnacCodec(nn.Module):
    """Waveform ↔ seven codes a frame, 46.9 / 23.4 / 11.7 codes a second (see `omni2.codec.Codec`).

    `context`: walk the decoder back from the first and the last sample of a frame, 0 and 2047.  The last convolution
    sees ±3 positions; each block's residual units ±3 (1 + 3 + 9) = ±39; a transposed convolution of stride s, width
    2 s and padding s / 2 makes output o from inputs (o - 3 s / 2, o + s / 2] / s; the first convolution sees ±3.
    At the rates of 2048, 1024, 256, 32 and 4 positions a frame this reaches back to -42, -61, -55, -47, -10 and ahead
    to 2089, 1084, 310, 78, 13; of the last, four are a frame: three frames before and three after.
    """

    sample_rate = 24_000
    frame_size = 2048
    context = (3, 3)

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model.eval().requires_grad_(False)

    @classmethod
    def from_folder(cls, folder: str | Path) -> "SnacCodec":
        """Read `config.json` and `pytorch_model.bin` of a download of hubertsiuzdak/snac_24khz.

        Raises CheckpointError: a file is missing, damaged, unsafe, or of another codec.
        """
        path = Path(folder) / "config.json"
        try:
            config = json.loads(path.read_text("utf-8"))
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} is missing; download hubertsiuzdak/snac_24khz again") from error
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {path}: {error}") from error
        if not isinstance(config, dict):
            raise CheckpointError(f"{path} holds a {type(config).__name__}, not an object")
        return cls.from_state(config, load_pickle(path.with_name("pytorch_model.bin")))

    @classmethod
    def from_state(cls, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> "SnacCodec":
        """`config` as in config.json, `state` the package's parameters by name, any float dtype, used as float32.

        Raises CheckpointError: another codec than SNAC's 24 kHz one, or weights that do not fit the config.
        """
        for key, value in SHAPE.items():
            if config.get(key, "nothing") != value:
                raise CheckpointError(f"SNAC config: {key} is {config.get(key, 'nothing')}, only {value} can be used")
        if not all(isinstance(value, Tensor) and value.is_floating_point() for value in state.values()):
            raise CheckpointError("SNAC weights: something else than tensors of floats among them")
        try:
            model: nn.Module = SNAC(**config)
            model.load_state_dict(state)
        except (TypeError, ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"SNAC weights do not fit their config: {reason}") from error
        for module in model.modules():
            if parametrize.is_parametrized(module):  # weight norm, for training: direction and length of a weight
                parametrize.remove_parametrizations(module, "weight")
        return cls(model)

    @torch.inference_mode()
    def encode(self, wave: Tensor) -> Tensor:
        """Samples (n,) float32 in [-1, 1] at 24 kHz, n > 0 → codes (ceil(n / 2048), 7) int64, on the codec's device.

        Raises InputError: another shape.
        """
        if wave.ndim != 1 or not len(wave):
            raise InputError(f"the codec takes samples of shape (n,), not {tuple(wave.shape)}")
        books: list[Tensor] = self.model.encode(wave.to(self._device)[None, None])
        return torch.cat([book.reshape(-1, b - a) for book, (a, b) in zip(books, pairwise(COLUMNS), strict=True)], 1)

    @torch.inference_mode()
    def decode(self, codes: Tensor, start: int = 0, seed: int | None = None, kept: Range | None = None) -> Tensor:
        """Codes (frames, 7) int64 → samples (frames * 2048,) float32, 24 kHz, on the codec's device, in [-1, 1].

        Noise as in `Codec.decode`: standard normal, scaled by what the weights learned.
        Raises InputError: no frames, another shape, or codes the codebooks do not have.
        """
        if codes.ndim != 2 or not len(codes) or codes.shape[1] != COLUMNS[-1]:
            raise InputError(f"the codec takes codes of shape (frames, {COLUMNS[-1]}), not {tuple(codes.shape)}")
        if codes.min() < 0 or codes.max() >= self.model.codebook_size:
            raise InputError(f"codes must lie in 0 … {self.model.codebook_size - 1}")
        codes = codes.to(self._device)
        x: Tensor = self.model.quantizer.from_codes([codes[:, a:b].reshape(1, -1) for a, b in pairwise(COLUMNS)])
        first, last = (frame * self.frame_size for frame in kept or (0, len(codes)))
        spans = self.spans(x.shape[2], first, last)
        noises = {}
        if seed is not None:
            for layer, (stage, (a, b)) in enumerate(self.noise_spans(spans).items()):
                length = len(codes) * self.frame_size // prod(self.model.decoder_rates[stage:])
                noises[stage] = noise(seed, layer, start, len(codes), length)[a:b].to(x)
        begin = spans[-1][0]
        return self.synthesise(x, spans, noises)[0, 0, first - begin : last - begin]

    def synthesise(self, latents: Tensor, spans: Sequence[Range], noises: Mapping[int, Tensor]) -> Tensor:
        """Latents (1, width, T) → (1, 1, samples): those of the last of `spans`, right but for its outermost ones.

        `noises`: of every stage that mixes some in, as long as `noise_spans` tells; or none.
        """
        x, begin = latents, 0
        for stage, layers in enumerate(self.stages()):
            if stage:
                first, last = spans[stage - 1]
                x, begin = x[..., first - begin : last - begin], first * self.rates[stage]
            for layer in layers:
                if not isinstance(layer, NoiseBlock):
                    x = layer(x)
                elif noises:
                    x = x + layer.linear(x) * noises[stage]
        return x

    def spans(self, positions: int, first: int, last: int) -> list[Range]:
        """What samples first … last - 1 depend on, of the input of each stage but the first; `positions` are latents.

        The further towards the samples, the less of what lies around them is needed: layers that work on many
        positions a second see a short time.  Found by walking back from layer to layer.
        """
        found: list[Range] = []
        length = positions * prod(self.rates)
        for stage, layers in reversed([*enumerate(self.stages())][1:]):
            length //= self.rates[stage]
            for layer in reversed(layers):
                first, last = _seen(layer, first, last)
            found.insert(0, (max(first, 0), min(last, length)))
        return found

    @property
    def rates(self) -> tuple[int, ...]:
        """Of each stage, the positions it makes of one."""
        return (1, *self.model.decoder_rates, 1)

    def noise_spans(self, spans: Sequence[Range]) -> dict[int, Range]:
        """The positions at which each stage mixes noise in, by stage; none in a codec without noise."""
        return {
            stage: (spans[stage - 1][0] * self.rates[stage], spans[stage - 1][1] * self.rates[stage])
            for stage, layers in enumerate(self.stages())
            if any(isinstance(layer, NoiseBlock) for layer in layers)
        }

    def stages(self) -> list[list[Any]]:
        """The decoder's layers in order: up to the first block, of each block, and behind the last."""
        stages: list[list[Any]] = [[]]
        for layer in self.model.decoder.model:
            if isinstance(layer, DecoderBlock):
                stages.append([*layer.block])
            elif isinstance(layer, Snake1d):  # the first that stands outside of a block
                stages.append([layer])
            else:
                stages[-1].append(layer)
        return stages

    @property
    def _device(self) -> torch.device:
        device: torch.device = next(self.model.parameters()).device
        return device


def _seen(layer: nn.Module, first: int, last: int) -> Range:
    """The inputs of a layer that its outputs first … last - 1 depend on, as first and one past the last."""
    if isinstance(layer, nn.ConvTranspose1d):
        stride, pad, width = layer.stride[0], int(layer.padding[0]), layer.kernel_size[0]
        return (first + pad - width) // stride + 1, (last - 1 + pad) // stride + 1
    if isinstance(layer, nn.Conv1d):
        pad, reach = int(layer.padding[0]), layer.dilation[0] * (layer.kernel_size[0] - 1)
        return first - pad, last - pad + reach
    for inner in reversed([*layer.children()]):
        first, last = _seen(inner, first, last)
    return first, last


def noise(seed: int, layer: int, start: int, frames: int, length: int) -> Tensor:
    """Standard normal noise of one noise layer for frames start … start + frames - 1: (length,) float32.

    Philox is random access: (seed, layer) is its key and the frame is part of its counter, so a frame has the same
    noise whichever frames are asked for with it.
    """
    key = np.array([seed % 2**64, layer], np.uint64)
    out = np.empty((frames, length // frames), np.float32)
    for row, frame in zip(out, range(start, start + frames), strict=True):
        bits = np.random.Philox(key=key, counter=np.array([0, frame, 0, 0], np.uint64))
        np.random.Generator(bits).standard_normal(dtype=np.float32, out=row)
    return torch.from_numpy(out).flatten()
