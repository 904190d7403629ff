"""Draws training samples: a task of the stage, a row for it, its prompt and what has to be said."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from omni2.config import ModelConfig
from omni2.errors import OmniError
from omni2.prompt import Prompt, PromptBuilder
from omni2.tokens import TokenLayout
from omni2.train.data.schema import Row
from omni2.train.data.timing import guessed_starts
from omni2.train.samples import Sample, make_sample, paced
from omni2.train.sources import Source
from omni2.train.stages import KINDS, Kind, Stage, Task

CUT = 0.3  # of the earlier turns about something else end amid the answer, as interrupted ones do
UNKNOWN_QUESTION = 0.5  # of the earlier turns come without their question in words, as spoken ones do
MIXED = 0.3  # both parameters of a beta distribution
TRIES = 20  # to draw a sample that fits the model's context
SMALL = frozenset(("a", "an", "the", "of", "is", "are", "do", "does", "can", "you", "me", "tell", "please", "what"))
Which = Literal["question_features", "picture_features"]
Hear = Callable[[Row, np.random.Generator | None], Tensor]  # a row's mels, disguised by the generator
FILLERS = ("please", "okay", "so", "hey Omni,", "Omni,", "well,", "quick question,", "one more thing,")


class Mixture:
    """The samples of a stage.

    `config` is the model's; with a `text_lead` the words of spoken replies are put where the voice says them, at
    `frame_rate` frames a second.  `encode` gives a row the encoder features that it lacks, `hear` the mels of its sound
    for a stage that trains the ear.
    """

    def __init__(
        self,
        source: Source,
        tokenizer: Tokenizer,
        layout: TokenLayout,
        config: ModelConfig,
        frame_rate: float,
        encode: Callable[[Row], Row] | None = None,
        hear: Hear | None = None,
    ) -> None:
        self.source, self.tokenizer, self.layout, self.encode_row = source, tokenizer, layout, encode
        self.hear = hear
        self.config, self.frame_rate = config, frame_rate
        self.builder = PromptBuilder(layout, config.audio_stride, config.text_lead)

    def of(self, source: Source) -> "Mixture":
        """The same with the rows of `source`."""
        return Mixture(source, self.tokenizer, self.layout, self.config, self.frame_rate, self.encode_row, self.hear)

    def encode(self, text: str) -> list[int]:
        """Text → ids."""
        return self.tokenizer.encode(text).ids

    def possible(self, stage: Stage) -> Stage:
        """`stage` without the tasks that there are no rows for.  Raises OmniError if none is left for its steps."""
        serves = self.source.serves
        served = {task: share for task, share in stage.mixture.items() if share and serves(wanted(task, stage))}
        if not served and stage.steps:
            sounds = " with their sounds (--keep)" if stage.trains == "ear" else ""
            raise OmniError(
                f"the data hold no rows for the stage {stage.name!r}, which needs {', '.join(stage.mixture)}{sounds}"
            )
        return replace(stage, mixture=served)

    def draw(self, stage: Stage, rng: np.random.Generator) -> Sample:
        """One sample.  Raises OmniError: no rows for a task, or all longer than the model's context."""
        tasks = list(stage.mixture)
        shares = np.array([stage.mixture[task] for task in tasks])
        for _ in range(TRIES):
            task = tasks[rng.choice(len(tasks), p=shares / shares.sum())]
            sample = self.sample(task, self.source.draw(wanted(task, stage), stage, rng), stage, rng)
            if len(sample) <= self.config.block_size:
                return sample
        raise OmniError(f"{TRIES} samples in a row are longer than the {self.config.block_size} positions of the model")

    def sample(self, task: Task, row: Row, stage: Stage, rng: np.random.Generator) -> Sample:
        """The sample of one task about one row."""
        kind, build = KINDS[task], self.builder
        row = self._encoded(row, wanted(task, stage))
        heard = self.encode(row.question_text) if kind.asked == "sound" and task != "listen" else []
        audio, image, typed = None, None, None
        if kind.asked == "sound":
            audio = self._sound(row, wanted(task, stage), stage, rng)
        elif kind.asked == "text":
            typed = self.encode(loosened(row.question_text, stage.loose, rng))
        if kind.picture:
            image = self._restyled(row, "picture_features", kind, stage, rng)
        past = self._past(row, stage, rng) if row.task == "answer" else []
        prompt: Prompt
        if image is not None:
            prompt = build.picture(image, audio, typed, kind.reply)
        elif task == "T1A1":
            prompt = build.reading(self.encode(row.answer_text))
        elif audio is None:
            prompt = build.typed(typed or [], kind.reply, history=past)
        elif task == "listen":
            prompt = build.listening(audio)
        elif task == "A1T1":
            prompt = build.transcription(audio)
        else:
            prompt = build.spoken(audio, kind.reply, history=past)
        said = self.encode(row.answer_text)
        if task == "A1T1":
            said = heard
        elif task == "listen":
            said = [self.layout.irq if row.label == "irq" else self.layout.n_irq]
        frames = row.answer_codes if prompt.audio_out else None
        steps = self._pace(row) if frames is not None and self.config.text_lead else None
        return make_sample(prompt, said, frames, self.layout, heard, steps)

    def _sound(self, row: Row, kind: Kind, stage: Stage, rng: np.random.Generator) -> Tensor:
        """What stands for a row's sound: features, or mels where the encoder learns."""
        if stage.trains != "ear":
            return masked(self._restyled(row, "question_features", kind, stage, rng), stage.masked, rng)
        if self.hear is None:
            raise OmniError(f"the stage {stage.name!r} trains the audio encoder, and none was given")
        return self.hear(row, rng if rng.random() < stage.masked else None)

    def _encoded(self, row: Row, kind: Kind) -> Row:
        """`row` with the features that such a task needs; a sound that nobody hears is left alone."""
        if self.encode_row is None:
            return row
        if kind.asked == "sound":
            return self.encode_row(row)
        return replace(self.encode_row(replace(row, question_audio=None)), question_audio=row.question_audio)

    def _restyled(self, row: Row, which: Which, kind: Kind, stage: Stage, rng: np.random.Generator) -> Tensor:
        """The features of a row's sound or picture, in a share of the cases in the manner of another row's."""
        features = _features(row, getattr(row, which))
        if not stage.restyled or rng.random() >= stage.restyled:
            return features
        other = self._encoded(self.source.draw(kind, stage, rng), kind)
        return restyled(features, _features(other, getattr(other, which)), rng)

    def _past(self, row: Row, stage: Stage, rng: np.random.Generator) -> list[tuple[list[int], list[int]]]:
        """What was said before a question: the turn it follows up, or at times another, of no concern to it."""
        turns = list(row.history)
        if not turns and stage.remembered and rng.random() < stage.remembered and self.source.serves(KINDS["T1T2"]):
            other = self.source.draw(KINDS["T1T2"], stage, rng)
            words = other.answer_text.split()
            heard = int(rng.integers(1, len(words) + 1)) if rng.random() < CUT else len(words)
            turns = [(other.question_text, " ".join(words[:heard]))]
        asked = [question if rng.random() >= UNKNOWN_QUESTION else "" for question, _ in turns]
        return [(self.encode(q) if q else [], self.encode(answer)) for q, (_, answer) in zip(asked, turns, strict=True)]

    def _pace(self, row: Row) -> list[int]:
        """The steps at which the text ids of a spoken answer are emitted."""
        assert row.answer_codes is not None
        text, seconds = row.answer_text, len(row.answer_codes) / self.frame_rate
        starts = row.answer_starts or guessed_starts(text, seconds)
        ends = [end for _, end in self.tokenizer.encode(text).offsets]
        words = [max(len(text[:end].split()) - 1, 0) for end in ends]
        return paced([starts[word] for word in words], self.frame_rate, self.config.text_lead)

    def batches(self, stage: Stage, size: int, step: int, seed: int, part: int, group: int) -> list[list[Sample]]:
        """`group` batches for the steps from `step` on, drawn from (seed, part, step), like lengths together."""
        rng = np.random.default_rng((seed, part, step))
        drawn = sorted((self.draw(stage, rng) for _ in range(size * group)), key=len)
        chunks = [drawn[i : i + size] for i in range(0, len(drawn), size)]
        order = np.random.default_rng((seed, step)).permutation(group)  # the same in all processes: none waits for long
        return [chunks[i] for i in order]


def wanted(task: Task, stage: Stage) -> Kind:
    """What a task takes from the data in a stage."""
    kind = KINDS[task]
    return replace(kind, asked="wave") if kind.asked == "sound" and stage.trains == "ear" else kind


def _features(row: Row, features: Tensor | None) -> Tensor:
    if features is None:
        raise OmniError(f"row {row.key} has no encoder features; build the data with --model")
    return features.float()


def masked(features: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Features (T, width) with up to two stretches of at most 8 frames set to zero, in a `share` of the cases."""
    if rng.random() >= share:
        return features
    features = features.clone()
    for _ in range(rng.integers(1, 3)):
        start = int(rng.integers(features.shape[0]))
        features[start : start + int(rng.integers(1, 9))] = 0
    return features + 0.05 * features.std() * torch.from_numpy(rng.standard_normal(features.shape, np.float32))


def restyled(features: Tensor, other: Tensor, rng: np.random.Generator) -> Tensor:
    """Features (T, width) whose mean and deviation in each channel move towards those of `other` (any length, width).

    The hand that draws and the voice that speaks show in these statistics (MixStyle, Zhou et al., arXiv 2104.02008),
    what is drawn or said in the rest.
    Up to half of the way, most often a little or half: the paper's beta distribution.
    """
    share = float(rng.beta(MIXED, MIXED)) / 2
    mean, deviation = features.mean(0), features.std(0, correction=0)
    towards = torch.lerp(deviation, other.std(0, correction=0), share)
    return (features - mean) / (deviation + 1e-5) * towards + torch.lerp(mean, other.mean(0), share)


def loosened(text: str, share: float, rng: np.random.Generator) -> str:
    """A question as people type it: in a `share` of the cases small words, capitals or the mark are missing."""
    if rng.random() >= share:
        return text
    words = [w for w in text.split() if w.lower() not in SMALL or rng.random() < 0.75] or text.split()
    if rng.random() < 0.2:
        words.insert(0, FILLERS[int(rng.integers(len(FILLERS)))])
    joined = " ".join(words)
    if rng.random() < 0.4:
        joined = joined.lower()
    return joined.rstrip(".?!") if rng.random() < 0.4 else joined
