"""What every training run shares: the learning rate's course, checkpoints that survive a kill, a log."""

import json
import math
from collections.abc import Callable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

from omni2.pickles import load_pickle


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
