"""Fast execution on CPUs: the parts of a model compiled by OpenVINO, their weights in int8 or bfloat16.

`FastParts` is the seam: it makes the parts of a `Bundle`, and nothing else in the package knows how they compute.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from omni2.bundle import POSITIONS, Bundle, Parts
from omni2.codec import Codec
from omni2.codec.istft import IstftCodec
from omni2.config import ModelConfig
from omni2.encoder import AudioEncoder, Encoder
from omni2.fast.encoder import FastEncoder
from omni2.fast.graph import Activations, Compiler, State
from omni2.fast.lm import FastLM
from omni2.model import LanguageModel, OmniLM
from omni2.tokens import TokenLayout
from omni2.weights import check, dequantise, fitting, quantise, read, release_pages

logger = logging.getLogger(__name__)

FastWeights = Literal["int8", "bfloat16"]


LARGE = 50_000_000  # weights of a part from which on speed and memory count more than the last per cent of the answers


class FastParts(Parts):
    """Language model and audio encoder compiled, with weights in int8 or bfloat16.

    With int8 weights the language model's activations are float32: that is faster on few rows than bfloat16, and the
    tokens stay nearer to those of float32 weights.  A `LARGE` language model halves its cache, and the activations of a
    `LARGE` encoder are rounded, and bfloat16 where the CPU has it; small ones have time and room to spare.
    """

    def __init__(self, weights: FastWeights, threads: int | None = None) -> None:
        self.weights = weights
        self._threads = threads or torch.get_num_threads()  # as torch was told to
        self._precise = Compiler("float32", self._threads)
        self._own: Activations = "bfloat16" if self._precise.has_bfloat16 else "float32"
        logger.info(
            "OpenVINO: weights in %s; activations in %s, those of the audio encoder in %s",
            weights,
            self._own if weights == "bfloat16" else "float32",
            self._own if weights == "bfloat16" else f"{self._own} if it is large",
        )

    def language_model(self, config: ModelConfig, layout: TokenLayout, file: Path) -> LanguageModel:
        """Compiled straight from the file: int8 there stays int8."""
        stored = read(file)
        with fitting(file):
            check(lambda: OmniLM(config, layout), stored)
            lm = self._language_model(config, layout, stored)
            lm.warm_up()
        release_pages(file)
        return lm

    def audio_encoder(self, sizes: dict[str, int], file: Path) -> Encoder:
        """Compiled straight from the file, as above."""
        stored = read(file)
        with fitting(file):
            check(lambda: AudioEncoder(**sizes), stored, frozenset({POSITIONS}))
            with torch.device("meta"):
                frame = AudioEncoder(**sizes)
            exact = AudioEncoder(1, sizes["n_ctx"], sizes["width"], 1, 0).positional_embedding
            encoder = self._audio_encoder(frame, {POSITIONS: exact} | stored)
            encoder.warm_up()
        release_pages(file)
        return encoder

    def codec(self, codec: Codec) -> Codec:
        """SNAC compiled, in float32; the embedded model's as it is, which is quick."""
        if isinstance(codec, IstftCodec):
            return codec
        from omni2.codec.snac import SnacCodec  # a second to import, which the embedded model does not need
        from omni2.fast.codec import FastSnac

        return FastSnac(codec, self._precise) if type(codec) is SnacCodec else codec

    def remake(self, bundle: Bundle) -> Bundle:
        """The parts of a bundle in torch, compiled; of those that are already, the same."""
        lm, encoder = bundle.lm, bundle.audio_encoder
        if isinstance(lm, OmniLM):
            lm = self._language_model(lm.config, lm.layout, lm.state_dict())
        if isinstance(encoder, AudioEncoder):
            encoder = self._audio_encoder(encoder, encoder.state_dict())
        return replace(bundle, lm=lm, audio_encoder=encoder, codec=self.codec(bundle.codec))

    def _language_model(self, config: ModelConfig, layout: TokenLayout, state: State) -> FastLM:
        if self.weights == "bfloat16":
            compiler = Compiler(self._own, self._threads)
        else:
            compiler = Compiler("float32", self._threads, halved=_is_large(state))
        return FastLM(config, layout, self._recast(state), compiler)

    def _audio_encoder(self, frame: AudioEncoder, state: State) -> FastEncoder:
        large = _is_large(state)
        exact = self.weights == "int8" and not large
        compiler = Compiler("float32" if exact else self._own, self._threads, rounded=large)
        return FastEncoder.from_module(frame, self._recast(state), compiler)

    def _recast(self, state: State) -> dict[str, Tensor]:
        """Weights of any precision in the one asked for; what is int8 already stays as it is."""
        if self.weights == "int8":
            return quantise({name: value.detach() for name, value in state.items()})
        cast = dequantise(state)
        wide = {name for name, value in cast.items() if value.ndim > 1 and name != POSITIONS}
        return {name: value.bfloat16() if name in wide else value for name, value in cast.items()}


def _is_large(state: State) -> bool:
    return sum(value.numel() for value in state.values()) >= LARGE
