"""Checkpoints of a run: what is needed to go on exactly where it stopped, on any number of processes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from omni2.pickles import load_pickle
from omni2.train.run import save_state
from omni2.train.sources import Place

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


@dataclass(frozen=True, order=True)
class Done:
    """How far a run has come: stages finished, steps done of the next one."""

    stage: int = 0
    step: int = 0

    @property
    def file(self) -> str:
        """The checkpoint's name; names sort as runs go on."""
        return f"checkpoint-{self.stage:02d}-{self.step:08d}.pt"


@dataclass(frozen=True)
class Checkpoint:
    """Weights, the optimiser's state (None between two stages), how far, and where each part of the data stands.

    `ear` are the audio encoder's weights; none as long as no stage has trained it.  `mean` is that of the weights over
    the last steps, and of how many, in the midst of a stage that averages them.
    """

    done: Done
    lm: Mapping[str, Any]
    optimiser: Mapping[str, Any] | None
    places: Mapping[int, Place]
    ear: Mapping[str, Any] = field(default_factory=dict)
    mean: Mapping[str, Any] = field(default_factory=dict)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(folder.glob("checkpoint-*.pt"))


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> None:
    """Write a checkpoint and delete all but the newest `keep`; a kill leaves the others whole."""
    done = {"stage": checkpoint.done.stage, "step": checkpoint.done.step}
    state = {"done": done, "lm": checkpoint.lm, "optimiser": checkpoint.optimiser, "places": checkpoint.places}
    save_state(state | {"ear": checkpoint.ear, "mean": checkpoint.mean}, folder / checkpoint.done.file)
    for old in list_checkpoints(folder)[:-keep]:
        old.unlink()


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint in `folder`, None if there is none.  Raises CheckpointError if it is damaged."""
    files = list_checkpoints(folder)
    if not files:
        return None
    state = load_pickle(files[-1])
    more = {name: state.get(name, {}) for name in ("ear", "mean")}
    return Checkpoint(Done(**state["done"]), state["lm"], state["optimiser"], state["places"], **more)


def gather_weights(model: nn.Module, prefix: str) -> dict[str, Any]:
    """All weights of a model on the CPU, however it is spread; empty but on the first process if it is.

    Only those whose names begin with `prefix`, which they lose, after what wrappers put in front.
    """
    state = get_model_state_dict(model, options=WHOLE).items()
    return {name.removeprefix(prefix): value for name, value in state if name.startswith(prefix)}


def gather_optimiser(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's state by the weights' names, on the CPU, as `gather_weights`."""
    return dict(get_optimizer_state_dict(model, optimiser, options=WHOLE))


def spread_optimiser(model: nn.Module, optimiser: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Give the optimiser what `gather_optimiser` took; every process has the whole `state`."""
    set_optimizer_state_dict(model, optimiser, dict(state), options=StateDictOptions(full_state_dict=True))
