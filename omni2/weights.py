"""Weights of one module in one safetensors file: written as float16, float32 or mostly int8, read as float32.

Stored in int8, a matrix or convolution `name` has the float16 scales of its output channels beside it, under
`name:scale`.
"""

import ctypes
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from omni2.errors import CheckpointError

M = TypeVar("M", bound=nn.Module)

SCALE = ":scale"  # behind the name of a tensor in int8
LEVELS = 127  # of int8 on either side of zero
SMALLEST = 2.0**-24  # above zero in float16
LONG = 64  # entries: in shorter rows (depthwise filters) int8 would save little and lose much
RANDOM = {"uniform_", "normal_", "kaiming_uniform_", "xavier_uniform_", "trunc_normal_"}


def require(file: Path) -> None:
    """Raise CheckpointError unless `file` exists."""
    if not file.is_file():
        raise CheckpointError(f"{file} is missing; give a complete model folder or download it again")


class Uninitialised(TorchFunctionMode):
    """Modules made within keep the memory they get as it is: random numbers would be overwritten at once.

    Unlike on the meta device, buffers that no file holds (windows, positions, offsets) are computed.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        return [*args, *kwargs.values()][0] if func.__name__ in RANDOM else func(*args, **kwargs)


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of `file` as they are stored.  Raises CheckpointError: missing or damaged."""
    require(file)
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is damaged or cut short; download or save it again: {line(error)}") from error


def release_pages(file: Path) -> None:
    """Give back the memory that the tensors of `file` take since `read` mapped it; who needs them reads them again.

    For when a compiler has made its own copy of them.  Does nothing where there is no /proc/self/maps.
    """
    maps, name = Path("/proc/self/maps"), str(file.resolve())
    if not maps.is_file():
        return
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for line in maps.read_text(encoding="utf-8", errors="replace").splitlines():
        span, _, _, _, _, *path = line.split(maxsplit=5)
        if path == [name]:  # pages of the file that nobody wrote to: nothing can be lost
            begin, end = (int(address, 16) for address in span.split("-"))
            libc.madvise(begin, end - begin, mmap.MADV_DONTNEED)


@contextmanager
def fitting(file: Path) -> Iterator[None]:
    """Turn what building a module from the weights of `file` raises into a CheckpointError that names it."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise CheckpointError(f"{file} does not fit the config.json beside it: {line(error)}") from error


def read_into(module: Callable[[], M], file: Path, optional: frozenset[str] = frozenset()) -> M:
    """The module that `module` makes, in evaluation mode, with the weights of `file`; `optional` ones may be absent.

    Raises CheckpointError: the file is missing, damaged, or of other shapes or names than the module's.
    """
    stored = read(file)
    with fitting(file):
        return build(module, dequantise(stored), optional)


def build(make: Callable[[], M], state: Mapping[str, Tensor], optional: frozenset[str] = frozenset()) -> M:
    """The module that `make` makes, in evaluation mode, with the tensors of `state`, not copied, as its weights.

    Raises RuntimeError or ValueError: other shapes, or names missing (but for `optional`) or unknown.
    """
    with Uninitialised():
        module = make()
    missing, unknown = module.load_state_dict(state, strict=False, assign=True)
    missing = [name for name in missing if name not in optional]
    if missing or unknown:
        raise ValueError(f"{missing[0]} is missing" if missing else f"{unknown[0]} is unknown")
    return module.eval()


def check(make: Callable[[], nn.Module], state: Mapping[str, Tensor], optional: frozenset[str] = frozenset()) -> None:
    """Raise ValueError unless `state`, of floats or in int8, has names and shapes of the module that `make` makes."""
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in make().state_dict().items()}
    given = {name: tuple(value.shape) for name, value in state.items() if not name.endswith(SCALE)}
    for name, shape in wanted.items():
        if name in given and given[name] != shape:
            raise ValueError(f"{name} is {given[name]}, not {shape}")
    missing, unknown = sorted(wanted.keys() - given.keys() - optional), sorted(given.keys() - wanted.keys())
    scales = [name for name, value in state.items() if value.dtype == torch.int8 and name + SCALE not in state]
    if missing or unknown or scales:
        raise ValueError(f"{(missing or scales)[0]} is missing" if missing or scales else f"{unknown[0]} is unknown")


def quantise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and convolutions as int8 with float16 scales, one for each row (entry of the first axis).

    A value is off by at most half a scale, 1/254 of the largest in its row.  Tensors of one axis or with rows of less
    than `LONG` entries stay as they are.
    """
    stored: dict[str, Tensor] = {}
    for name, value in state.items():
        stored[name] = value
        if value.is_floating_point() and value.ndim > 1 and value[0].numel() >= LONG:
            rows = value.float().flatten(1)
            scale = (rows.abs().amax(1) / LEVELS).clamp(min=SMALLEST).half()
            levels = (rows / scale.float()[:, None]).round().clamp(-LEVELS, LEVELS)
            stored[name], stored[name + SCALE] = levels.to(torch.int8).view(value.shape), scale
    return stored


def dequantise(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `quantise` was given, as far as int8 could keep it, all floating point numbers as float32."""
    state: dict[str, Tensor] = {}
    for name, value in stored.items():
        if name.endswith(SCALE):
            continue
        scale = stored.get(name + SCALE)
        if scale is not None:
            value = value * scale.float().view(-1, *[1] * (value.ndim - 1))
        state[name] = value.float() if value.is_floating_point() else value
    return state


def write(
    file: Path, part: nn.Module, dtype: torch.dtype, left_out: frozenset[str] = frozenset(), compact: bool = False
) -> None:
    """Write the weights of `part` but for `left_out` as `dtype`; `file` is replaced when all is on disk.

    With `compact` matrices and convolutions are stored in int8 (see `quantise`).
    Raises CheckpointError for weights that float16 cannot hold, OSError or SafetensorError where none can be written.
    """
    state = {name: value.detach().cpu() for name, value in part.state_dict().items() if name not in left_out}
    if compact:
        state = quantise(state)
    for name, value in state.items():
        if value.is_floating_point():
            value = value.to(dtype)
            if (compact or dtype == torch.float16) and not bool(value.isfinite().all()):
                raise CheckpointError(f"{name} has values that float16 cannot hold; save as float32")
        state[name] = value.contiguous()
    unfinished = file.with_suffix(".part")
    unfinished.touch()
    mode = unfinished.stat().st_mode  # as the user's umask has it; safetensors makes files for their owner alone
    save_file(state, unfinished)
    unfinished.chmod(mode)
    os.replace(unfinished, file)


def line(error: BaseException) -> str:
    """The message of an error on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
