"""Training samples of the language model: a prompt, then what to emit in all eight layers, and where it counts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from omni2.model import Placed, Span, place
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
class Aims:
    """What is to be emitted, (n, ...), and where: places (n,) among the batch's positions, row after row."""

    at: Tensor
    what: Tensor


@dataclass(frozen=True)
class Heard:
    """The sounds of a batch whose words are known: places (frames, n) of their positions, padded; the ids of all words
    one behind the other; how many positions and how many ids each sound has."""

    at: Tensor
    ids: Tensor
    lengths: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """Samples side by side: ids (B, 8, T) padded on the right, the features among them (float16), and what to learn.

    `counts` (3,) float32: how many text tokens (but `pad`) and steps of audio are to be emitted, how many sounds heard.
    """

    ids: Tensor
    features: list[Placed]
    text: Aims
    audio: Aims
    heard: Heard
    counts: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same there."""
        return _each(self, lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The same in pages that a GPU reads beside other work; `DataLoader` asks for it."""
        return _each(self, Tensor.pin_memory)


T = TypeVar("T")


def _each(value: T, change: Callable[[Tensor], Tensor]) -> T:
    """`value` with all tensors in it changed."""
    changed: Any = value
    if isinstance(value, Tensor):
        changed = change(value)
    elif isinstance(value, list):
        changed = [_each(one, change) for one in value]
    elif is_dataclass(value):
        kind: Any = type(value)
        changed = kind(*(_each(getattr(value, field.name), change) for field in fields(value)))
    return cast(T, changed)


def _fed(targets: Tensor, pads: Tensor, layout: TokenLayout) -> Tensor:
    """What decoding feeds back of what was emitted: of the text's end, as of what is not learned, only `pad`."""
    text_end = (targets == layout.eot) & (torch.arange(LAYERS)[:, None] == TEXT_LAYER)
    return torch.where((targets == IGNORE) | text_end, pads, targets)


def collate(
    samples: list[Sample],
    layout: TokenLayout,
    stride: int,
    corrupted: float = 0.0,
    generator: torch.Generator | None = None,
) -> Batch:
    """Inputs at an answer's step are the targets of the step before as the engine feeds them, `pad` for the text's end
    and where nothing is learned; `stride` is that of the model's audio adapter.

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
    placed = place([s.prompt.spans for s in samples], stride)
    features = [replace(one, features=one.features.half()) for one in placed]
    text, audio = _aims(targets[:, TEXT_LAYER]), _aims(targets[:, :AUDIO_LAYERS].transpose(1, 2))
    heard = _heard(samples, stride, length)
    words = int((text.what != layout.pad_text).sum())
    return Batch(ids, features, text, audio, heard, torch.tensor([words, len(audio.at), len(heard.counts)]).float())


def _aims(targets: Tensor) -> Aims:
    """Targets (B, T, ...) → those that are none of `IGNORE`."""
    flat = targets.flatten(0, 1)
    at = (flat.flatten(1)[:, 0] if flat.ndim > 1 else flat).ne(IGNORE).nonzero()[:, 0]
    return Aims(at, flat[at])


def _heard(samples: list[Sample], stride: int, length: int) -> Heard:
    """The sounds with known words in a batch of rows that are `length` positions long."""
    spoken = [(row, s, sound(s.prompt.spans)) for row, s in enumerate(samples) if s.heard]
    lengths = tuple(-(-span.features.shape[0] // stride) for _, _, span in spoken)
    places = [torch.arange(n) + row * length + span.start for n, (row, _, span) in zip(lengths, spoken, strict=True)]
    at = pad_sequence(places) if places else torch.zeros(0, 0, dtype=torch.int64)
    ids = torch.tensor([token for _, s, _ in spoken for token in s.heard], dtype=torch.int64)
    return Heard(at, ids, lengths, tuple(len(s.heard) for _, s, _ in spoken))


def sound(spans: Sequence[Span]) -> Span:
    """The one span of sound in a prompt that has sound."""
    return next(span for span in spans if span.modality == "audio")
