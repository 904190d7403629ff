"""What every training run shares: the learning rate's course, checkpoints that survive a kill, a log.

`follow` is the loop of the small ones: one process, one stage.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.progress import track
from torch import Tensor

from omni2.pickles import load_pickle


class Stateful(Protocol):
    """What a checkpoint keeps: a module, an optimiser, …"""

    def state_dict(self) -> dict[str, Any]:
        """All that training changes of it."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object:
        """Be again as it was then."""


class Course(Protocol):
    """Steps of a training, every how many of them a checkpoint is written, and a row of the log."""

    @property
    def steps(self) -> int: ...
    @property
    def save_every(self) -> int: ...
    @property
    def log_every(self) -> int: ...


def fast_bfloat16(device: str = "cpu") -> bool:
    """Whether the hardware multiplies bfloat16; a CPU that does not is fifty times slower with it than with float32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())


def cosine_rate(step: int, steps: int, peak: float, warmup: int, floor: float = 0.02) -> float:
    """Linear warm-up over `warmup` steps, then a cosine from `peak` to `floor` times it."""
    return peak * min(1.0, (step + 1) / warmup) * max(floor, 0.5 * (1 + math.cos(math.pi * step / steps)))


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give all parameter groups the learning rate `rate`."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def save_state(state: Mapping[str, object], file: Path) -> None:
    """Write `state`; a kill leaves the old file or the new one, never half of one."""
    part = file.with_suffix(".part")
    torch.save(dict(state), part)
    part.replace(file)


def load_state(file: Path) -> dict[str, Any] | None:
    """What `save_state` wrote, None before the first time."""
    return load_pickle(file) if file.exists() else None


def cut_log(file: Path, begun: Callable[[Mapping[str, Any]], bool]) -> None:
    """Drop the rows of a JSONL log that a resumed run will write again: all from the first that is not `begun` on."""
    if file.exists():
        rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
        kept = "".join(json.dumps(row) + "\n" for row in takewhile(begun, rows))
        file.write_text(kept, encoding="utf-8")


def log_row(file: Path, row: Mapping[str, object]) -> None:
    """Append `row` to a JSONL log."""
    with file.open("a", encoding="utf-8") as log:
        log.write(json.dumps(dict(row)) + "\n")


def follow(
    course: Course,
    file: Path,
    parts: Mapping[str, Stateful],
    step: Callable[[int], Mapping[str, object]],
    saved: Callable[[], object] = lambda: None,
) -> None:
    """Take the steps of a course, each of which tells its losses, and have `parts` and the step in the checkpoint
    `file`, from which a run that was killed goes on; the log is beside it, in JSONL.

    `saved` is called when a checkpoint was written.
    """
    log = file.with_suffix(".jsonl")
    file.parent.mkdir(parents=True, exist_ok=True)
    state, first, began = load_state(file), 0, time.monotonic()
    if state is not None:
        first = state["step"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
    cut_log(log, lambda row: row["step"] < first)
    for at in track(range(first, course.steps), description=file.stem, total=course.steps, completed=first):
        losses = step(at)
        if at % course.log_every == 0:
            row = {name: loss.item() if isinstance(loss, Tensor) else loss for name, loss in losses.items()}
            log_row(log, row | {"step": at, "seconds": time.monotonic() - began})
        if (at + 1) % course.save_every == 0 or at + 1 == course.steps:
            save_state({name: part.state_dict() for name, part in parts.items()} | {"step": at + 1}, file)
            saved()
