"""Training of the embedded codec: reconstruction losses, codebooks as moving averages, resumable."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from omni2.codec.istft import Codebook, IstftCodec, IstftConfig
from omni2.train.losses import EnvelopeLoss, SpectralLoss
from omni2.train.run import cosine_rate, fast_bfloat16, load_state, log_row, save_state, set_rate


@dataclass(frozen=True)
class CodecTraining:
    """Options of one training run."""

    steps: int = 3000
    batch: int = 16
    frames: int = 12
    learning_rate: float = 1e-3
    warmup: int = 300
    commitment: float = 0.5
    envelope: float = 1.0
    decay: float = 0.99
    seed: int = 0
    save_every: int = 250
    log_every: int = 50


class CodebookAverage:
    """Moving average of the vectors assigned to each code; codes that die are drawn anew from the batch."""

    def __init__(self, book: Codebook, decay: float) -> None:
        self.book, self.decay = book, decay
        self.count = torch.zeros(book.vectors.shape[0])
        self.total = book.vectors.clone()

    def update(self, z: Tensor, codes: Tensor) -> None:
        """z (n, codebook_width) float32, codes (n,)."""
        size = self.count.numel()
        count = torch.bincount(codes, minlength=size).float()
        total = torch.zeros_like(self.total).index_add_(0, codes, z)
        self.count.lerp_(count, 1 - self.decay)
        self.total.lerp_(total, 1 - self.decay)
        fair = z.shape[0] / size
        dead = (self.count < 0.1 * fair).nonzero()[:, 0]  # all of them in the first batch
        if len(dead):
            fresh = z[torch.randint(z.shape[0], (len(dead),))]
            fresh = fresh + 0.05 * z.std(0) * torch.randn_like(fresh)
            self.count[dead] = fair
            self.total[dead] = fresh * fair
        self.book.vectors.copy_(self.total / self.count[:, None])


def quantise(codec: IstftCodec, latents: Tensor, averages: list[CodebookAverage]) -> tuple[Tensor, Tensor, list[float]]:
    """Straight-through residual quantisation: latents (B, C, T) → quantised, commitment loss, perplexity a level."""
    rest, total, commitment = latents, torch.zeros_like(latents), latents.new_zeros(())
    perplexities = []
    for average in averages:
        book = average.book
        z = book.project(rest).float()
        codes = book.nearest(z.detach())
        q = F.embedding(codes, book.vectors)
        commitment = commitment + F.mse_loss(z, q)
        with torch.no_grad():
            average.update(z.detach().reshape(-1, z.shape[-1]), codes.reshape(-1))
            p = torch.bincount(codes.reshape(-1), minlength=book.vectors.shape[0]).float()
            p = p / p.sum()
            perplexities.append(float((-(p * (p + 1e-9).log()).sum()).exp()))
        level = book.expand(z + (q - z).detach())
        rest, total = rest - level, total + level
    return total, commitment, perplexities


def batches(speech: np.ndarray, training: CodecTraining, frame_size: int, step: int) -> Tensor:
    """(batch, frames * frame_size) float32 of random cuts, drawn from (seed, step)."""
    rng = np.random.default_rng((training.seed, step))
    n = training.frames * frame_size
    starts = rng.integers(0, len(speech) - n, training.batch)
    cut = np.stack([speech[s : s + n] for s in starts]).astype(np.float32) / 32768
    return torch.from_numpy(cut)


def train_codec(
    speech: np.ndarray, folder: Path, training: CodecTraining, config: IstftConfig | None = None
) -> IstftCodec:
    """Train on int16 samples (n,); `folder` gets `codec.pt` (resumed from when there) and `log.jsonl`."""
    torch.manual_seed(training.seed)
    codec = IstftCodec(config or IstftConfig())
    books = [book for book in codec.codebooks if isinstance(book, Codebook)]
    averages = [CodebookAverage(book, training.decay) for book in books]
    optimiser = torch.optim.AdamW(codec.parameters(), training.learning_rate, betas=(0.8, 0.99), weight_decay=0.01)
    spectral, envelopes = SpectralLoss(codec.sample_rate), EnvelopeLoss(codec.sample_rate)
    folder.mkdir(parents=True, exist_ok=True)
    first, saved, began = 0, load_state(folder / "codec.pt"), time.monotonic()
    if saved is not None:
        codec.load_state_dict(saved["codec"])
        optimiser.load_state_dict(saved["optimiser"])
        for average, (count, total) in zip(averages, saved["averages"], strict=True):
            average.count, average.total = count, total
        first = saved["step"]
    for step in track(range(first, training.steps), description="codec", total=training.steps, completed=first):
        set_rate(optimiser, cosine_rate(step, training.steps, training.learning_rate, training.warmup, 0.01))
        wave = batches(speech, training, codec.frame_size, step)
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16()):
            quantised, commitment, perplexities = quantise(codec, codec.latents(wave), averages)
            made = codec.synthesise(quantised).float()
        parts = {"loss": spectral(made, wave), "envelope": envelopes(made, wave), "commitment": commitment}
        loss = parts["loss"] + training.envelope * parts["envelope"] + training.commitment * commitment
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimiser.step()
        if step % training.log_every == 0:
            row = {name: part.item() for name, part in parts.items()}
            row |= {"step": step, "perplexity": perplexities, "seconds": time.monotonic() - began}
            log_row(folder / "log.jsonl", row)
        if (step + 1) % training.save_every == 0 or step + 1 == training.steps:
            state = {"step": step + 1, "codec": codec.state_dict(), "optimiser": optimiser.state_dict()}
            state["averages"] = [(a.count, a.total) for a in averages]
            save_state(state, folder / "codec.pt")
    return codec
