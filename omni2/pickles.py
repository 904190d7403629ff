"""Weights out of pickles that nobody vouches for: read as data, never run.

A `.pt` or `.pth` file is a pickle, and a pickle is a program. Plain checkpoints go through torch's restricted loader.
TorchScript archives, for which torch has none, go through the one below: it builds tensors, attribute holders and
lists, and refuses every other name.
"""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omni2.errors import CheckpointError

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
JIT_LISTS = ("build_intlist", "build_boollist", "build_doublelist", "build_tensorlist", "restore_type_tag")


def load_pickle(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint saved with `torch.save` on the CPU: tensors, numbers, strings and containers of them alone.

    Files of torch's zip format are mapped into memory, not copied. Dtypes stay as stored.
    Raises CheckpointError: missing, damaged, asks to run code, a TorchScript archive, or not a dict.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; download the checkpoint again")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                    raise CheckpointError("a TorchScript archive; use read_torchscript")
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} is damaged or holds more than weights, refused: {_line(error)}") from error
    except Exception as error:  # a damaged pickle makes its loader raise anything
        raise CheckpointError(f"cannot load {path}: {_line(error)}") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, not a dict of weights")
    return loaded


def read_torchscript(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a TorchScript archive by dotted name ("visual.conv1.weight"), without running its code.

    Parameters and buffers alike, on the CPU; float16 and bfloat16 become float32, other dtypes stay.
    Raises CheckpointError: missing, damaged, not TorchScript, or a pickle that names anything but tensors and modules.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; download the checkpoint again")
    try:
        with zipfile.ZipFile(path) as archive:
            root = _TensorReader(archive).read()
            tensors: dict[str, Tensor] = {}
            _collect(root, "", tensors, set())
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path} is damaged or not a TorchScript archive") from error
    except Exception as error:  # a damaged pickle makes its loader raise anything
        raise CheckpointError(f"cannot read {path}: {_line(error)}") from error
    if not tensors:
        raise CheckpointError(f"{path} holds no weights")
    return tensors


class _Module:
    """Stands for any scripted class: keeps the attributes, does nothing."""

    attributes: dict[str, object]

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            raise CheckpointError("a module whose state is no dict")
        self.attributes = state


class _TensorReader(pickle.Unpickler):
    """Unpickles `data.pkl` of one open archive; see `find_class` for all it can build."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        entries = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(entries) != 1:
            raise CheckpointError("not a TorchScript archive: data.pkl is missing")
        self.archive = archive
        self.folder = entries[0].removesuffix("data.pkl")
        self.storages: dict[str, Tensor] = {}
        self.file = archive.open(entries[0])
        super().__init__(self.file)

    def read(self) -> object:
        with self.file:
            return self.load()

    def find_class(self, module: str, name: str) -> object:
        if module.split(".")[0] == "__torch__":
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle" and name in JIT_LISTS:
            return _first
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise CheckpointError(f"its pickle asks for {module}.{name}, which is not a weight: refused")

    def persistent_load(self, pid: Any) -> Tensor:  # noqa: ANN401 (whatever the pickle says)
        kind, dtype, key, _device, numel = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise CheckpointError(f"unknown kind of data {kind!r}")
        if key not in self.storages:
            entry = self.archive.getinfo(f"{self.folder}data/{key}")
            if entry.compress_type != zipfile.ZIP_STORED:  # torch never compresses: a small file cannot swell
                raise CheckpointError(f"data {key} is compressed")
            data = bytearray(self.archive.read(entry))
            self.storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        storage = self.storages[key]
        if storage.dtype != dtype or storage.shape[0] < numel:
            raise CheckpointError(f"data {key} is cut short")
        return storage


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    """A view of `storage`; torch itself refuses one that reaches beyond it."""
    return torch.as_strided(storage, size, stride, offset)


def _first(value: object, *_: object) -> object:
    """What TorchScript's list and dict markers wrap."""
    return value


def _collect(value: object, name: str, tensors: dict[str, Tensor], seen: set[int]) -> None:
    """Put the tensors below `value` into `tensors` by dotted name; each module is visited once."""
    if isinstance(value, Tensor):
        half = value.dtype in (torch.float16, torch.bfloat16)
        tensors[name] = value.float() if half else value.clone(memory_format=torch.contiguous_format)
    elif isinstance(value, _Module) and id(value) not in seen:
        seen.add(id(value))
        for key, part in getattr(value, "attributes", {}).items():
            _collect(part, f"{name}.{key}" if name else str(key), tensors, seen)


def _line(error: Exception) -> str:
    """The first line of an error that gives the reason: torch's advice on how to load the file unsafely is left out."""
    reason = str(error).rpartition("WeightsUnpickler error:")[2]
    lines = [line.strip() for line in reason.splitlines() if line.strip() and "weights_only" not in line]
    return (lines[0] if lines else type(error).__name__)[:200]
