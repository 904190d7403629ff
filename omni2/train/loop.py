"""The training loop of the language model: one stage after the other, resumable, on one process or several."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from rich.progress import Progress
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.optim.swa_utils import AveragedModel

from omni2.encoder import AudioEncoder
from omni2.errors import OmniError
from omni2.model import OmniLM
from omni2.train.checkpoints import (
    Checkpoint,
    Done,
    gather_optimiser,
    gather_weights,
    load_checkpoint,
    save_checkpoint,
    spread_optimiser,
)
from omni2.train.feed import Feed, Training
from omni2.train.mixture import Mixture
from omni2.train.objective import Objective, named, per_part, weights
from omni2.train.plot import LOG, plot_log
from omni2.train.run import cosine_rate, cut_log, fast_bfloat16, log_row, set_rate
from omni2.train.samples import Batch
from omni2.train.stages import Stage, choose_weights


def train(
    lm: OmniLM,
    mixture: Mixture,
    stages: Sequence[Stage],
    folder: Path,
    training: Training,
    ear: AudioEncoder | None = None,
) -> None:
    """Train `lm`, and `ear` in stages for it, in place; `folder` gets checkpoints (resumed from when there),
    `log.jsonl`, a TensorBoard and a plot.

    Several processes: start each with torchrun's variables (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT).
    Raises OmniError: no data for a stage, or parts that cannot be shared out among the processes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bfloat16 = fast_bfloat16(device) if training.bfloat16 is None else training.bfloat16
    AcceleratorState._reset_state()  # a run before this one in the same process may have had another precision
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision="bf16" if bfloat16 else "no",
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        log_with="tensorboard",
        project_dir=folder,
    )
    if training.parts % accelerator.num_processes:
        raise OmniError(f"{training.parts} parts cannot be shared out evenly to {accelerator.num_processes} processes")
    stages = [mixture.possible(stage) for stage in stages]
    saved = load_checkpoint(folder)
    done = saved.done if saved else Done()
    if accelerator.is_main_process:
        cut_log(folder / LOG, lambda row: (row["stage"], row["step"]) < (done.stage, done.step))
    total = sum(stage.steps for stage in stages[: done.stage]) + done.step
    accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": total}})
    while done.stage < len(stages):
        begin = saved or Checkpoint(done, lm.state_dict(), None, {})
        if stages[done.stage].steps:
            _Run(accelerator, lm, ear, mixture, stages, folder, training, begin).go()
        else:  # there may be no data for it, and so nothing that learns
            if accelerator.is_main_process:
                save_checkpoint(folder, replace(begin, done=Done(done.stage + 1)), training.keep)
            accelerator.wait_for_everyone()
        saved = load_checkpoint(folder)
        assert saved is not None
        done = saved.done
    if saved is not None:
        lm.load_state_dict(saved.lm)
        if ear is not None and saved.ear:
            ear.load_state_dict(saved.ear)
    if accelerator.is_main_process and (folder / LOG).exists():
        plot_log(folder)
    accelerator.end_training()


class _Run:
    """One stage, from a checkpoint on to the one at its end."""

    def __init__(
        self,
        accelerator: Accelerator,
        lm: OmniLM,
        ear: AudioEncoder | None,
        mixture: Mixture,
        stages: Sequence[Stage],
        folder: Path,
        training: Training,
        begin: Checkpoint,
    ) -> None:
        self.accelerator, self.folder, self.training, self.begin = accelerator, folder, training, begin
        self.index, self.stage = begin.done.stage, stages[begin.done.stage]
        self.before = sum(stage.steps for stage in stages[: self.index])
        lm = deepcopy(lm)  # processes keep their own or a share of it, and the next stage begins from the checkpoint
        lm.load_state_dict(begin.lm)
        choose_weights(lm.train(), self.stage)
        ear = deepcopy(ear).requires_grad_().train() if self.stage.trains == "ear" and ear is not None else None
        if ear is not None and begin.ear:
            ear.load_state_dict(begin.ear)
        self.objective = Objective(lm, ear)
        self.mean = AveragedModel(self.objective) if self.stage.averaged else None
        if self.mean is not None and begin.mean:
            self.mean.load_state_dict(begin.mean)
        self.model = self._spread(self.objective)
        self.optimiser = make_optimiser(self.model, training.weight_decay)
        if begin.optimiser is not None:
            spread_optimiser(self.model, self.optimiser, begin.optimiser)
        self.feeds = []
        share = training.parts // accelerator.num_processes
        for part in range(accelerator.process_index * share, (accelerator.process_index + 1) * share):
            source = mixture.source.split(part, training.parts)
            source.restore(begin.places.get(part, {}))
            self.feeds.append(Feed(mixture.of(source), self.stage, self.index, part, training))
        self.weights = weights(self.stage).to(accelerator.device)
        self.local = training.average_every > 0 and accelerator.num_processes > 1

    def _spread(self, objective: Objective) -> nn.Module:
        """The objective on this process's device, its gradients shared with the others."""
        if self.training.sharded and self.accelerator.num_processes > 1:
            if self.mean is not None:
                raise OmniError(f"the stage {self.stage.name!r} averages its weights, which cannot be done in shards")
            objective.to(self.accelerator.device)
            for block in objective.lm.blocks:
                fully_shard(block)
            fully_shard(objective)
            return objective
        if self.mean is not None:
            self.mean.to(self.accelerator.device)
        prepared: nn.Module = self.accelerator.prepare_model(objective)
        return prepared

    def go(self) -> None:
        """Take all steps that are left."""
        began, steps, training = time.monotonic(), self.stage.steps, self.training
        unseen = [batch for feed in self.feeds for batch in feed.held_out()]
        drawn = zip(*(feed.batches(self.begin.done.step, steps) for feed in self.feeds), strict=True)
        with Progress(disable=not self.accelerator.is_main_process) as progress:
            bar = progress.add_task(self.stage.name, total=steps, completed=self.begin.done.step)
            for step, batches in enumerate(drawn, self.begin.done.step):
                logged, last = step % training.log_every == 0, step + 1 == steps
                row = self.take_step(step, batches, logged)
                if logged:
                    self.log("train", step, row | {"seconds": time.monotonic() - began})
                if self.mean is not None and step >= steps * (1 - self.stage.averaged):
                    self.mean.update_parameters(self.objective)
                pauses = (training.average_every, training.evaluate_every, training.save_every)
                if self.local and (last or any((step + 1) % pause == 0 for pause in pauses)):
                    self.average()
                if last and self.mean is not None:
                    self.objective.load_state_dict(self.mean.module.state_dict())
                if last or (step + 1) % training.evaluate_every == 0:
                    self.log("held_out", step, self.evaluate(unseen))
                if last or (step + 1) % training.save_every == 0:
                    self.save(step + 1)
                progress.update(bar, completed=step + 1)
        if self.begin.done.step >= steps:
            self.save(steps)

    def average(self) -> None:
        """Make the weights of every process, and their means over the steps, the mean of all."""
        for module in (self.model, *([] if self.mean is None else [self.mean])):
            for weight in module.parameters():
                weight.data.copy_(self.accelerator.reduce(weight.data, "mean"))

    def take_step(self, step: int, batches: Sequence[Batch], logged: bool) -> dict[str, float]:
        """One step of the optimiser; returns the mean losses over all parts, the gradient's norm and the rate."""
        rate = cosine_rate(step, self.stage.steps, self.stage.learning_rate, self.stage.warmup, self.stage.floor)
        set_rate(self.optimiser, rate)
        sums, counts = self._add_up(batches, learn=True)
        learning = [p for p in self.model.parameters() if p.requires_grad]
        for weight in learning:
            if weight.grad is None:  # no batch made use of it: its momentum fades all the same, on any process
                weight.grad = torch.zeros_like(weight)
        norm = torch.nn.utils.clip_grad_norm_(learning, self.training.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if not logged:
            return {}
        if self.local:
            counts = self.accelerator.reduce(counts, "sum")
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        means = self.accelerator.reduce(sums, "sum") / per_part(counts)
        return named(means) | {"norm": float(norm), "rate": rate}

    def _add_up(self, held: Sequence[Batch], learn: bool) -> tuple[Tensor, Tensor]:
        """Sums of nats (9,) of this process and counts (3,) of those that share its gradients; `learn` takes these."""
        counts = torch.zeros(3, device=self.accelerator.device)
        for batch in held:
            counts += batch.counts.to(counts, non_blocking=True)
        shared = not (learn and self.local)
        processes = self.accelerator.num_processes if shared else 1  # gradients are averaged over them, these are sums
        if shared:
            counts = self.accelerator.reduce(counts, "sum")
        total = torch.zeros_like(self.weights)
        for i, batch in enumerate(held):
            alone = nullcontext() if shared and i + 1 == len(held) else self.accelerator.no_sync(self.model)
            with alone, torch.set_grad_enabled(learn):
                with self.accelerator.autocast():
                    sums = (self.model if learn else self.objective)(batch)
                if learn:
                    means = self.weights * sums / per_part(counts)
                    self.accelerator.backward(processes * means.sum())
            total += sums.detach()
        return total, counts

    def evaluate(self, batches: Sequence[Batch]) -> dict[str, float]:
        """The mean losses over the held-out batches of all processes; empty where there are none."""
        several = torch.tensor([len(batches)], device=self.accelerator.device)
        if not int(self.accelerator.reduce(several, "sum")):
            return {}
        sums, counts = self._add_up(batches, learn=False)
        return named(self.accelerator.reduce(sums, "sum") / per_part(counts))

    def log(self, kind: str, step: int, row: dict[str, float]) -> None:
        """Write a row to the log and to TensorBoard."""
        if not row or not self.accelerator.is_main_process:
            return
        total = self.before + step
        where = {"kind": kind, "stage": self.index, "name": self.stage.name, "step": step, "total": total}
        log_row(self.folder / LOG, where | row)
        self.accelerator.log({f"{kind}/{name}": value for name, value in row.items()}, step=total)

    def save(self, steps: int) -> None:
        """Write a checkpoint after so many steps of the stage."""
        last = steps >= self.stage.steps
        places = dict(gather_object([(feed.part, feed.place(steps)) for feed in self.feeds]))
        lm, ear = gather_weights(self.model, "lm."), gather_weights(self.model, "ear.") or self.begin.ear
        optimiser = None if last else gather_optimiser(self.model, self.optimiser)
        if self.accelerator.is_main_process:
            done = Done(self.index + 1) if last else Done(self.index, steps)
            mean = {} if last or self.mean is None else {k: v.cpu() for k, v in self.mean.state_dict().items()}
            save_checkpoint(self.folder, Checkpoint(done, lm, optimiser, places, ear, mean), self.training.keep)
        self.accelerator.wait_for_everyone()


def make_optimiser(model: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101) over the weights that learn; norms and biases do not decay."""
    learning = [p for p in model.parameters() if p.requires_grad]
    groups = [([p for p in learning if p.ndim > 1], weight_decay), ([p for p in learning if p.ndim <= 1], 0.0)]
    found = [{"params": params, "weight_decay": decay} for params, decay in groups if params]
    return torch.optim.AdamW(found, betas=(0.9, 0.98))
