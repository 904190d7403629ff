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
    prompt: Prompt,
    text: Sequence[int],
    frames: Tensor | None,
    layout: TokenLayout,
    heard: Sequence[int] = (),
    steps: Sequence[int] | None = None,
) -> Sample:
    """Text ids and, for spoken replies, codec frames (n, 7) → what the model has to say after `prompt`.

    `steps` says, rising, at which step each text id is emitted, and nothing (`pad`) between them; by default the ids
    follow each other from the first step on.
    """
    places = [*(range(len(text)) if steps is None else steps)]
    end = places[-1] + 1 if places else 0
    if frames is None:
        targets = torch.full((LAYERS, end + 1), IGNORE)
    else:
        audio = delay(frames, layout, max(frames.shape[0] + LAYERS, end + 1))
        targets = torch.cat([audio, torch.full((1, audio.shape[1]), IGNORE)])
    targets[-1, : end + 1] = layout.pad_text
    targets[-1, [*places, end]] = torch.tensor([*text, layout.eot])
    return Sample(prompt, targets, tuple(heard))


def paced(starts: Sequence[float], frame_rate: float, lead: int) -> list[int]:
    """Seconds at which the word of each text id begins → the step at which the id is emitted.

    That is `lead` steps before the word's first frame, and no two at once: an id waits for the one before it.
    """
    steps: list[int] = []
    for start in starts:
        wanted = max(int(start * frame_rate) - lead, 0)
        steps.append(max(wanted, steps[-1] + 1) if steps else wanted)
    return steps


@dataclass(frozen=True)
class Batch:
    """Samples side by side: ids (B, 8, T) padded on the right, targets alike, aligned with the positions that emit.

    `counts` (3,) float32: how many text tokens (but `pad`) and steps of audio are to be emitted, how many sounds heard.
    """

    ids: Tensor
    targets: Tensor
    samples: list[Sample]
    counts: Tensor


def _fed(targets: Tensor, pads: Tensor, layout: TokenLayout) -> Tensor:
    """What decoding feeds back of what was emitted: of the text's end, as of what is not learned, only `pad`."""
    text_end = (targets == layout.eot) & (torch.arange(LAYERS)[:, None] == TEXT_LAYER)
    return torch.where((targets == IGNORE) | text_end, pads, targets)


def collate(
    samples: list[Sample], layout: TokenLayout, corrupted: float = 0.0, generator: torch.Generator | None = None
) -> Batch:
    """Inputs at an answer's step are the targets of the step before as the engine feeds them, `pad` for the text's end
    and where nothing is learned.

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
        ids[i, :, n : n + steps - 1] = _fed(sample.targets, pads, layout)[:, :-1]
        targets[i, :, n - 1 : n - 1 + steps] = sample.targets
    if corrupted:
        hit = torch.rand(ids.shape, generator=generator) < corrupted
        hit[:, AUDIO_LAYERS:] = False
        wrong = torch.randint(layout.codebook_size, ids.shape, generator=generator)
        ids = torch.where(hit & (ids < layout.codebook_size), wrong, ids)
    text, sounds = targets[:, TEXT_LAYER], sum(bool(s.heard) for s in samples)
    words, steps = int(((text != IGNORE) & (text != layout.pad_text)).sum()), int((targets[:, 0] != IGNORE).sum())
    return Batch(ids, targets, samples, torch.tensor([words, steps, sounds]).float())
