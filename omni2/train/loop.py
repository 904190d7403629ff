"""The training loop of the language model: one stage after the other, resumable, on one process or several."""

import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from rich.progress import Progress
from torch import Tensor
from torch.nn import functional as F

from omni2.model import OmniLM
from omni2.tokens import AUDIO_LAYERS, TEXT_LAYER
from omni2.train.mixture import Mixture
from omni2.train.samples import IGNORE, Batch, Sample, collate
from omni2.train.stages import Stage


@dataclass(frozen=True)
class Training:
    """Options that hold for all stages; `batch` is a process's share."""

    batch: int = 32
    weight_decay: float = 0.05
    clip: float = 1.0
    seed: int = 0
    save_every: int = 200
    log_every: int = 20


def losses(lm: OmniLM, batch: Batch) -> dict[str, Tensor]:
    """Mean cross-entropy in nats a token: "text" and "audio" (over its seven layers); zero where there is none."""
    hidden = lm(lm.embed(batch.ids, [s.prompt.spans for s in batch.samples]))
    text_targets, audio_targets = batch.targets[:, TEXT_LAYER], batch.targets[:, :AUDIO_LAYERS].transpose(1, 2)
    says, sounds = text_targets != IGNORE, audio_targets[..., 0] != IGNORE
    text = F.cross_entropy(lm.text_logits(hidden[says]).float(), text_targets[says])
    if not sounds.any():
        return {"text": text, "audio": text.new_zeros(())}
    audio = F.cross_entropy(lm.audio_logits(hidden[sounds]).float().flatten(0, 1), audio_targets[sounds].flatten())
    return {"text": text, "audio": audio}


def share_gradients(lm: OmniLM) -> None:
    """Average the gradients over all processes, in one message."""
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in lm.parameters()]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for p, piece in zip(lm.parameters(), torch.split(flat, [g.numel() for g in gradients]), strict=True):
        p.grad = piece.view_as(p)


def train(lm: OmniLM, mixture: Mixture, stages: Sequence[Stage], folder: Path, training: Training) -> None:
    """Train `lm` in place; `folder` gets `lm.pt` (resumed from when there) and `log.jsonl`.

    Several processes: start each with torchrun's variables (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT).
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")
    decayed = [p for p in lm.parameters() if p.ndim > 1]
    plain = [p for p in lm.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": training.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    folder.mkdir(parents=True, exist_ok=True)
    file, done = folder / "lm.pt", {"stage": 0, "step": 0}
    if file.exists():
        saved = torch.load(file, weights_only=True)
        lm.load_state_dict(saved["lm"])
        optimiser.load_state_dict(saved["optimiser"])
        done = saved["done"]
    began = time.monotonic()
    with Progress(disable=rank > 0) as progress, (folder / f"log-{rank}.jsonl").open("a") as log:
        for index in range(done["stage"], len(stages)):
            stage, first = stages[index], done["step"] if index == done["stage"] else 0
            bar = progress.add_task(stage.name, total=stage.steps, completed=first)
            waiting: list[list[Sample]] = []
            for step in range(first, stage.steps):
                if step % 8 == 0 or not waiting:
                    waiting = list(
                        mixture.batches(stage, training.batch, step - step % 8, training.seed + index, rank)
                    )[step % 8 :]
                batch = collate(waiting.pop(0), mixture.layout)
                with torch.autocast("cpu", torch.bfloat16):
                    parts = losses(lm, batch)
                optimiser.zero_grad(set_to_none=True)
                torch.autograd.backward(parts["text"] + parts["audio"])
                if world > 1:
                    share_gradients(lm)
                norm = torch.nn.utils.clip_grad_norm_(lm.parameters(), training.clip)
                rate = stage.learning_rate * min(1.0, (step + 1) / stage.warmup)
                rate *= max(0.02, 0.5 * (1 + math.cos(math.pi * step / stage.steps)))
                for group in optimiser.param_groups:
                    group["lr"] = rate
                optimiser.step()
                if step % training.log_every == 0:
                    row = {"stage": stage.name, "step": step, "norm": norm.item(), "seconds": time.monotonic() - began}
                    log.write(json.dumps(row | {k: v.item() for k, v in parts.items()}) + "\n")
                    log.flush()
                if rank == 0 and ((step + 1) % training.save_every == 0 or step + 1 == stage.steps):
                    last = step + 1 == stage.steps
                    state = {"stage": index + last, "step": 0 if last else step + 1}
                    save = {"lm": lm.state_dict(), "optimiser": optimiser.state_dict(), "done": state}
                    torch.save(save, file.with_suffix(".part"))
                    file.with_suffix(".part").replace(file)
                progress.update(bar, completed=step + 1)
