"""Training of the embedded codec's decoder alone: the encoder and the codes stay as they are, bit by bit.

What models learned of the codes stays true, so that the finished decoder may take the old one's place in any of them.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn

from omni2.bundle import CODEC
from omni2.codec.istft import IstftCodec
from omni2.train.discriminator import SpectrogramDiscriminator, deception, judgement
from omni2.train.losses import EnvelopeLoss, SpectralLoss
from omni2.train.run import Stateful, cosine_rate, fast_bfloat16, follow, load_state, save_state, set_rate
from omni2.weights import write

STATE, CODES = "decoder.pt", "codes.pt"
DECODER = ("mix", "upsample", "decoder", "decoder_norm", "head")  # all that encoding never looks at
EDGES = (4, 2)  # frames at the ends of a cut that the discriminator is not shown: part of their context is missing
PIECE = 500  # frames encoded at once


@dataclass(frozen=True)
class DecoderTraining:
    """Options of one training run.

    A step takes `batch` cuts of `seconds`.  `adversarial` is the size of the discriminator's gradient at the samples
    against the reconstruction's, 0 for none; it sets in at step `adversarial_from` and grows over `ramp` steps.  The
    discriminator begins from nothing and must catch up with a trained decoder: its rate is the higher one.
    """

    steps: int = 2000
    batch: int = 8
    seconds: float = 1.0
    learning_rate: float = 3e-4
    judge_rate: float = 1e-3
    warmup: int = 20
    envelope: float = 1.0
    adversarial: float = 0.1
    adversarial_from: int = 0
    ramp: int = 100
    channels: int = 16
    seed: int = 0
    save_every: int = 100
    log_every: int = 20


class Adversary:
    """The discriminator and its optimiser."""

    def __init__(self, training: DecoderTraining) -> None:
        self.judge = SpectrogramDiscriminator(channels=training.channels)
        self.optimiser = torch.optim.AdamW(self.judge.parameters(), training.judge_rate, betas=(0.5, 0.9))

    def step(self, made: Tensor, wave: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Learn from samples (B, n) each → gradient of the decoder's loss at `made` (B, n), and both losses."""
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16()):
            real, fake = self.judge(wave), self.judge(made)
            parts = {"judgement": judgement(real, fake), "deception": deception(real, fake)}
        (gradient,) = torch.autograd.grad(parts["deception"], made, retain_graph=True)
        weights = list(self.judge.parameters())
        for weight, slope in zip(weights, torch.autograd.grad(parts["judgement"], weights), strict=True):
            weight.grad = slope
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        self.optimiser.step()
        return gradient, parts


class DecoderRun:
    """Everything that one training run changes."""

    def __init__(self, codec: IstftCodec, training: DecoderTraining) -> None:
        torch.manual_seed(training.seed)
        self.codec, self.training = codec, training
        codec.requires_grad_(False)
        parts = nn.ModuleList(getattr(codec, name) for name in DECODER).requires_grad_(True)
        self.weights = list(parts.parameters())
        self.optimiser = torch.optim.AdamW(self.weights, training.learning_rate, betas=(0.8, 0.99), weight_decay=0.01)
        self.spectral, self.envelopes = SpectralLoss(codec.sample_rate), EnvelopeLoss(codec.sample_rate)
        self.adversary = Adversary(training)

    def step(self, step: int, codes: Tensor, wave: Tensor) -> dict[str, Tensor]:
        """Learn from codes (B, frames, 7) int64 of samples (B, frames * frame_size) → the losses."""
        training, size = self.training, self.codec.frame_size
        for optimiser, peak in (
            (self.optimiser, training.learning_rate),
            (self.adversary.optimiser, training.judge_rate),
        ):
            set_rate(optimiser, cosine_rate(step, training.steps, peak, training.warmup))
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16()):
            made = self.codec.synthesise(self.codec.dequantise(codes))
        heard = made.detach().requires_grad_()
        parts = {"loss": self.spectral(heard, wave), "envelope": self.envelopes(heard, wave)}
        (gradient,) = torch.autograd.grad(parts["loss"] + training.envelope * parts["envelope"], heard)
        if training.adversarial and step >= training.adversarial_from:
            inner = slice(EDGES[0] * size, -EDGES[1] * size)
            other, losses = self.adversary.step(heard[:, inner], wave[:, inner])
            share = training.adversarial * min(1.0, (step - training.adversarial_from + 1) / training.ramp)
            gradient[:, inner] += share * gradient[:, inner].norm() / other.norm().clamp(min=1e-12) * other
            parts |= losses
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(made, gradient)
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimiser.step()
        return parts

    def parts(self) -> dict[str, Stateful]:
        """What holds the run's state, by the names that a checkpoint has for it."""
        judge, its = self.adversary.judge, self.adversary.optimiser
        return {"codec": self.codec, "optimiser": self.optimiser, "judge": judge, "judge_optimiser": its}


def train_decoder(speech: np.ndarray, folder: Path, codec: IstftCodec, training: DecoderTraining) -> IstftCodec:
    """Train the decoder of `codec`, in place, on int16 samples (n,) at its rate.

    `folder` gets `decoder.pt` and `codes.pt` (resumed from when there), `decoder.jsonl`, and the codec as it is so far,
    float16, in `codec.safetensors`, ready to replace that file of a model's folder.
    """
    run, folder = DecoderRun(codec, training), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    known = load_state(folder / CODES)
    codes = encoded(codec, speech) if known is None else known["codes"]
    if known is None:
        save_state({"codes": codes}, folder / CODES)
    follow(
        training,
        folder / STATE,
        run.parts(),
        lambda step: run.step(step, *batch(codes, speech, codec, training, step)),
        lambda: write(folder / CODEC, codec, torch.float16),
    )
    return codec


def encoded(codec: IstftCodec, speech: np.ndarray) -> Tensor:
    """Codes (frames, 7) int16 of int16 samples (n,), n cut to whole frames; made once, as they never change."""
    size = codec.frame_size
    pieces = range(0, len(speech) // size * size, PIECE * size)
    waves = (speech[at : min(at + PIECE * size, pieces.stop)] for at in pieces)
    return torch.cat(
        [codec.encode(samples(wave)).to(torch.int16) for wave in track(waves, description="codes", total=len(pieces))]
    )


def batch(
    codes: Tensor, speech: np.ndarray, codec: IstftCodec, training: DecoderTraining, step: int
) -> tuple[Tensor, Tensor]:
    """Codes (batch, frames, 7) int64 and their samples (batch, frames * frame_size), drawn from (seed, step)."""
    rng, size = np.random.default_rng((training.seed, step)), codec.frame_size
    n = math.ceil(training.seconds * codec.sample_rate / size)
    starts = rng.integers(0, len(codes) - n + 1, training.batch)
    waves = [samples(speech[at * size : (at + n) * size]) for at in starts]
    return torch.stack([codes[at : at + n] for at in starts]).long(), torch.stack(waves)


def samples(speech: np.ndarray) -> Tensor:
    """int16 (n,) → float32 (n,) in [-1, 1]."""
    return torch.from_numpy(speech.astype(np.float32) / 32768)
