"""Training of the embedded codec: reconstruction losses, codebooks as moving averages, resumable."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from omni2.codec.istft import Codebook, IstftCodec, IstftConfig
from omni2.train.losses import EnvelopeLoss, SpectralLoss
from omni2.train.run import Stateful, cosine_rate, fast_bfloat16, follow, set_rate

STATE = "codec.pt"


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

    def state_dict(self) -> dict[str, Tensor]:
        """How often each code was taken lately, and the sum of what was; the vectors are the codebook's."""
        return {"count": self.count, "total": self.total}

    def load_state_dict(self, state_dict: dict[str, Tensor], /) -> None:
        """Take up what `state_dict` told."""
        self.count, self.total = state_dict["count"], state_dict["total"]

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


class CodecRun:
    """Everything that one training run changes."""

    def __init__(self, codec: IstftCodec, training: CodecTraining) -> None:
        self.codec, self.training = codec, training
        books = [book for book in codec.codebooks if isinstance(book, Codebook)]
        self.averages = [CodebookAverage(book, training.decay) for book in books]
        self.optimiser = torch.optim.AdamW(
            codec.parameters(), training.learning_rate, betas=(0.8, 0.99), weight_decay=0.01
        )
        self.spectral, self.envelopes = SpectralLoss(codec.sample_rate), EnvelopeLoss(codec.sample_rate)

    def step(self, step: int, wave: Tensor) -> dict[str, Tensor | list[float]]:
        """Learn from samples (B, frames * frame_size) → the losses, and the perplexity of each level."""
        training, codec = self.training, self.codec
        set_rate(self.optimiser, cosine_rate(step, training.steps, training.learning_rate, training.warmup, 0.01))
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16()):
            quantised, commitment, perplexities = quantise(codec, codec.latents(wave), self.averages)
            made = codec.synthesise(quantised).float()
        parts = {"loss": self.spectral(made, wave), "envelope": self.envelopes(made, wave), "commitment": commitment}
        loss = parts["loss"] + training.envelope * parts["envelope"] + training.commitment * commitment
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        self.optimiser.step()
        return {**parts, "perplexity": perplexities}

    def parts(self) -> dict[str, Stateful]:
        """What holds the run's state, by the names that a checkpoint has for it."""
        averages = {f"average{level}": average for level, average in enumerate(self.averages)}
        return {"codec": self.codec, "optimiser": self.optimiser, **averages}


def train_codec(
    speech: np.ndarray, folder: Path, training: CodecTraining, config: IstftConfig | None = None
) -> IstftCodec:
    """Train on int16 samples (n,); `folder` gets `codec.pt` (resumed from when there) and `codec.jsonl`."""
    torch.manual_seed(training.seed)
    codec = IstftCodec(config or IstftConfig())
    run = CodecRun(codec, training)
    cuts = partial(batches, speech, training, codec.frame_size)
    follow(training, folder / STATE, run.parts(), lambda step: run.step(step, cuts(step)))
    return codec
