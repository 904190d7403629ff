"""The training loop of the language model: one stage after the other, resumable, on one process or several."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from rich.progress import Progress
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from omni2.model import OmniLM
from omni2.tokens import AUDIO_LAYERS, TEXT_LAYER
from omni2.train.mixture import Mixture
from omni2.train.run import cosine_rate, fast_bfloat16, load_state, log_row, save_state, set_rate
from omni2.train.samples import IGNORE, Batch, collate
from omni2.train.stages import Stage

HEARD_WEIGHT = 0.3
GROUP = 8  # batches drawn together, so that samples of like length share one


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
    """Nats a token: cross-entropy of "text" and "audio" (over its seven layers), "heard"; zero where there is none."""
    tapped: list[Tensor] = []
    hook = lm.blocks[lm.config.n_layer // 2 - 1].register_forward_hook(lambda _, __, out: tapped.append(out))
    hidden = lm(lm.embed(batch.ids, [s.prompt.spans for s in batch.samples]))
    hook.remove()
    text_targets, audio_targets = batch.targets[:, TEXT_LAYER], batch.targets[:, :AUDIO_LAYERS].transpose(1, 2)
    says, sounds = text_targets != IGNORE, audio_targets[..., 0] != IGNORE
    text = F.cross_entropy(lm.text_logits(hidden[says]).float(), text_targets[says])
    parts = {"text": text, "audio": text.new_zeros(()), "heard": recognition_loss(lm, tapped[0], batch)}
    if not sounds.any():
        return parts
    audio = F.cross_entropy(lm.audio_logits(hidden[sounds]).float().flatten(0, 1), audio_targets[sounds].flatten())
    return parts | {"audio": audio}


def recognition_loss(lm: OmniLM, states: Tensor, batch: Batch) -> Tensor:
    """Connectionist temporal classification (Graves et al., 2006) of the words in the prompts' sound, nats a token.

    `states` (B, T, n_embd) are the hidden ones half-way up: what was said has to stand there in the terms of the text
    head, so that the upper half can answer speech as it answers text.  The blank is the text layer's `pad`.
    """
    rows = [(row, s) for row, s in enumerate(batch.samples) if s.heard]
    if not rows:
        return states.new_zeros(())
    stride = lm.config.audio_stride
    lengths = [-(-s.prompt.spans[0].features.shape[0] // stride) for _, s in rows]
    pieces = [states[row, s.prompt.spans[0].start :][:n] for (row, s), n in zip(rows, lengths, strict=True)]
    logits = lm.text_logits(lm.norm(pad_sequence(pieces)))
    heard = torch.tensor([token for _, s in rows for token in s.heard])
    counts = [len(s.heard) for _, s in rows]
    blank = lm.layout.pad_text
    said = torch.log_softmax(logits.float(), -1)
    return F.ctc_loss(said, heard, torch.tensor(lengths), torch.tensor(counts), blank, zero_infinity=True)


def share_gradients(lm: OmniLM) -> None:
    """Average the gradients over all processes, in one message."""
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in lm.parameters()]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for p, piece in zip(lm.parameters(), torch.split(flat, [g.numel() for g in gradients]), strict=True):
        p.grad = piece.view_as(p)


def train(lm: OmniLM, mixture: Mixture, stages: Sequence[Stage], folder: Path, training: Training) -> None:
    """Train `lm` in place; `folder` gets `lm.pt` (resumed from when there) and a log for each process.

    Several processes: start each with torchrun's variables (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT).
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")
    folder.mkdir(parents=True, exist_ok=True)
    optimiser = make_optimiser(lm, training.weight_decay)
    at, first = 0, 0
    saved = load_state(folder / "lm.pt")
    if saved is not None:
        lm.load_state_dict(saved["lm"])
        if "optimiser" in saved:
            optimiser.load_state_dict(saved["optimiser"])
        at, first = saved["done"]["stage"], saved["done"]["step"]
    began = time.monotonic()
    with Progress(disable=rank > 0) as progress:
        for index in range(at, len(stages)):
            stage, begin = stages[index], first if index == at else 0
            bar = progress.add_task(stage.name, total=stage.steps, completed=begin)
            for step, batch in draw_batches(mixture, stage, training, index, begin, rank):
                row = take_step(lm, optimiser, batch, stage, step, training)
                if step % training.log_every == 0:
                    where = {"stage": stage.name, "step": step, "seconds": time.monotonic() - began}
                    log_row(folder / f"log-{rank}.jsonl", where | row)
                last = step + 1 == stage.steps
                if rank == 0 and (last or (step + 1) % training.save_every == 0):
                    done = {"stage": index + last, "step": 0 if last else step + 1}
                    state = {"lm": lm.state_dict(), "optimiser": optimiser.state_dict(), "done": done}
                    save_state(state, folder / "lm.pt")
                progress.update(bar, completed=step + 1)


def make_optimiser(lm: OmniLM, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101); norms and biases do not decay."""
    decayed = [p for p in lm.parameters() if p.ndim > 1]
    plain = [p for p in lm.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def draw_batches(
    mixture: Mixture, stage: Stage, training: Training, index: int, begin: int, rank: int
) -> Iterator[tuple[int, Batch]]:
    """The batches of a stage from step `begin` on; which ones depends on (seed, stage, rank, step) alone."""
    for start in range(begin - begin % GROUP, stage.steps, GROUP):
        group = mixture.batches(stage, training.batch, start, training.seed + index, rank, GROUP)
        for step, samples in enumerate(group, start):
            if begin <= step < stage.steps:
                generator = torch.Generator().manual_seed(hash((training.seed, index, rank, step)) % 2**62)
                yield step, collate(samples, mixture.layout, stage.corrupted, generator)


def take_step(
    lm: OmniLM, optimiser: torch.optim.Optimizer, batch: Batch, stage: Stage, step: int, training: Training
) -> dict[str, float]:
    """One step of the optimiser; returns the losses and the gradient's norm."""
    set_rate(optimiser, cosine_rate(step, stage.steps, stage.learning_rate, stage.warmup))
    with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16()):
        parts = losses(lm, batch)
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(parts["text"] + parts["audio"] + HEARD_WEIGHT * parts["heard"])
    if dist.is_initialized():
        share_gradients(lm)
    norm = torch.nn.utils.clip_grad_norm_(lm.parameters(), training.clip)
    optimiser.step()
    return {name: float(loss.item()) for name, loss in parts.items()} | {"norm": float(norm.item())}
