"""Training samples of the language model: a prompt, then what to emit in all eight layers, and where it counts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omni2.prompt import Prompt
from omni2.tokens import AUDIO_LAYERS, LAYERS, TEXT_LAYER, TokenLayout, delay

IGNORE = -100


@dataclass(frozen=True)
class Sample:
    """`prompt`, then `targets` (8, S): what each layer has to emit at each step, `IGNORE` where nothing is learned.

    `heard` are the text ids of what the prompt's sound says, if it has any.
    """

    prompt: Prompt
    targets: Tensor
    heard: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.prompt) + self.targets.shape[1]


def make_sample(
    prompt: Prompt, text: Sequence[int], frames: Tensor | None, layout: TokenLayout, heard: Sequence[int] = ()
) -> Sample:
    """Text ids and, for spoken replies, codec frames (n, 7) → what the model has to say after `prompt`."""
    if frames is None:
        targets = torch.full((LAYERS, len(text) + 1), IGNORE)
    else:
        audio = delay(frames, layout, max(frames.shape[0] + LAYERS, len(text) + 1))
        targets = torch.cat([audio, torch.full((1, audio.shape[1]), IGNORE)])
    targets[-1, : len(text) + 1] = torch.tensor([*text, layout.eot])
    return Sample(prompt, targets, tuple(heard))


@dataclass(frozen=True)
class Batch:
    """Samples side by side: ids (B, 8, T) padded on the right, targets alike, aligned with the positions that emit.

    `counts` (3,) float32: how many text tokens and steps of audio are to be emitted, how many sounds were heard.
    """

    ids: Tensor
    targets: Tensor
    samples: list[Sample]
    counts: Tensor


def collate(
    samples: list[Sample], layout: TokenLayout, corrupted: float = 0.0, generator: torch.Generator | None = None
) -> Batch:
    """Inputs at an answer's step are the targets of the step before, `pad` where nothing is learned.

    A share `corrupted` of the codes fed (not of those to be emitted) is replaced by others, drawn from `generator`:
    so the speech learns to find back to its text after a wrong code of its own.
    """
    pads = torch.tensor([layout.pad_audio] * AUDIO_LAYERS + [layout.pad_text])[:, None]
    length = max(len(s) for s in samples) - 1
    ids = pads.expand(len(samples), LAYERS, length).clone()
    targets = torch.full_like(ids, IGNORE)
    for i, sample in enumerate(samples):
        n, steps = len(sample.prompt), sample.targets.shape[1]
        ids[i, :, :n] = sample.prompt.ids
        ids[i, :, n : n + steps - 1] = torch.where(sample.targets == IGNORE, pads, sample.targets)[:, :-1]
        targets[i, :, n - 1 : n - 1 + steps] = sample.targets
    if corrupted:
        hit = torch.rand(ids.shape, generator=generator) < corrupted
        hit[:, AUDIO_LAYERS:] = False
        wrong = torch.randint(layout.codebook_size, ids.shape, generator=generator)
        ids = torch.where(hit & (ids < layout.codebook_size), wrong, ids)
    emitted = [int((targets[:, layer] != IGNORE).sum()) for layer in (TEXT_LAYER, 0)]
    return Batch(ids, targets, samples, torch.tensor([*emitted, sum(bool(s.heard) for s in samples)]).float())
