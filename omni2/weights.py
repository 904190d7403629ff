"""Weights of one module in one safetensors file: written as float16 or float32, read as float32."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from omni2.errors import CheckpointError

M = TypeVar("M", bound=nn.Module)

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


def read_into(module: Callable[[], M], file: Path, optional: frozenset[str] = frozenset()) -> M:
    """The module that `module` makes, in evaluation mode, with the weights of `file`; `optional` ones may be absent.

    Raises CheckpointError: the file is missing, damaged, or of other shapes or names than the module's.
    """
    require(file)
    try:
        state = {name: value.float() if value.is_floating_point() else value for name, value in load_file(file).items()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is damaged or cut short; download or save it again: {line(error)}") from error
    try:
        return build(module, state, optional)
    except (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise CheckpointError(f"{file} does not fit the config.json beside it: {line(error)}") from error


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


def write(file: Path, part: nn.Module, dtype: torch.dtype, left_out: frozenset[str] = frozenset()) -> None:
    """Write the weights of `part` but for `left_out` as `dtype`; `file` is replaced when all is on disk.

    Raises CheckpointError for weights that float16 cannot hold, OSError or SafetensorError where none can be written.
    """
    state: dict[str, Tensor] = {}
    for name, value in part.state_dict().items():
        if name in left_out:
            continue
        stored = value.detach().cpu()
        if stored.is_floating_point():
            stored = stored.to(dtype)
            if dtype == torch.float16 and not bool(stored.isfinite().all()):
                raise CheckpointError(f"{name} has values that float16 cannot hold; save as float32")
        state[name] = stored.contiguous()
    unfinished = file.with_suffix(".part")
    unfinished.touch()
    mode = unfinished.stat().st_mode  # as the user's umask has it; safetensors makes files for their owner alone
    save_file(state, unfinished)
    unfinished.chmod(mode)
    os.replace(unfinished, file)


def line(error: BaseException) -> str:
    """The message of an error on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
