"""Draws training samples: a task, a question of the corpus, one of its recordings, the answer's text and codes."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from omni2.errors import OmniError
from omni2.prompt import PromptBuilder
from omni2.tokens import TokenLayout
from omni2.train.data.questions import Item
from omni2.train.data.shards import Spoken
from omni2.train.samples import Sample, make_sample
from omni2.train.stages import Stage, Task

UNKNOWN_SHARE = 0.15  # of all questions are out of scope
PLAIN_SHARE = 0.25  # of those are everyday sentences, not questions
MASKED_SHARE = 0.4  # of the recordings lose some frames
LOOSE_SHARE = 0.5  # of the typed questions lose small words, capitals or their mark, or begin with a filler
SMALL = frozenset(("a", "an", "the", "of", "is", "are", "do", "does", "can", "you", "me", "tell", "please", "what"))
FILLERS = ("please", "okay", "so", "hey Omni,", "Omni,", "well,", "quick question,", "one more thing,")


class Mixture:
    """The samples of a stage; `frames` maps an answer's text to its codec frames (n, 7) and may be empty before speech.

    Intents are drawn evenly, then a phrasing, then a recording of it; the last item is the out-of-scope one.
    `sentences` are recordings of everyday sentences: there to be transcribed, and out of scope as well.
    """

    def __init__(
        self,
        items: Sequence[Item],
        spoken: Sequence[Spoken],
        frames: Mapping[str, Tensor],
        tokenizer: Tokenizer,
        layout: TokenLayout,
        audio_stride: int,
        sentences: Sequence[Spoken] = (),
    ) -> None:
        self.items, self.frames, self.tokenizer, self.layout = items, frames, tokenizer, layout
        self.builder = PromptBuilder(layout, audio_stride)
        self.recordings: dict[str, list[Spoken]] = defaultdict(list)
        for one in (*spoken, *sentences):
            self.recordings[one.text].append(one)
        self.sentences = [one.text for one in sentences]

    def encode(self, text: str) -> list[int]:
        """Text → ids."""
        return self.tokenizer.encode(text).ids

    def draw(self, stage: Stage, rng: np.random.Generator) -> Sample:
        """One sample."""
        tasks = list(stage.mixture)
        shares = np.array([stage.mixture[task] for task in tasks])
        task = tasks[rng.choice(len(tasks), p=shares / shares.sum())]
        if task == "A1T1" and self.sentences and rng.random() < stage.sentences:
            return self.sample(task, self.items[-1], self._sentence(rng), rng)
        scope = len(self.items) - 1
        item = self.items[scope if rng.random() < UNKNOWN_SHARE else int(rng.integers(scope))]
        if item is self.items[-1] and self.sentences and rng.random() < PLAIN_SHARE:
            return self.sample(task, item, self._sentence(rng), rng)
        phrasings = item.train
        if task.startswith("A1"):
            phrasings = tuple(text for text in item.train if text in self.recordings) or item.train
        phrasing = phrasings[int(rng.integers(len(phrasings)))]
        return self.sample(task, item, phrasing, rng)

    def _sentence(self, rng: np.random.Generator) -> str:
        return self.sentences[int(rng.integers(len(self.sentences)))]

    def sample(self, task: Task, item: Item, phrasing: str, rng: np.random.Generator) -> Sample:
        """The sample of one task about one question."""
        reply, frames, heard = "text" if task.endswith("T2") else "speech", None, self.encode(phrasing)
        if task.startswith("A1"):
            takes = self.recordings.get(phrasing)
            if not takes:
                raise OmniError(f"{phrasing!r} was never recorded; run `omni2 data questions`")
            audio = masked(takes[rng.integers(len(takes))].features.float(), rng)
            prompt = self.builder.transcription(audio) if task == "A1T1" else self.builder.spoken(audio, reply)  # type: ignore[arg-type]
        elif task == "T1A1":
            prompt = self.builder.reading(self.encode(item.answer))
        else:
            prompt = self.builder.typed(self.encode(loosened(phrasing, rng)), reply)  # type: ignore[arg-type]
        if prompt.audio_out:
            frames = self.frames[item.answer]
        said = heard if task == "A1T1" else self.encode(item.answer)
        return make_sample(prompt, said, frames, self.layout, heard if task.startswith("A1") else ())

    def batches(self, stage: Stage, size: int, step: int, seed: int, rank: int, group: int) -> list[list[Sample]]:
        """`group` batches for the steps from `step` on, drawn from (seed, rank, step), like lengths together."""
        rng = np.random.default_rng((seed, rank, step))
        drawn = sorted((self.draw(stage, rng) for _ in range(size * group)), key=len)
        chunks = [drawn[i : i + size] for i in range(0, len(drawn), size)]
        order = np.random.default_rng((seed, step)).permutation(group)  # the same in all processes: none waits for long
        return [chunks[i] for i in order]


def masked(features: Tensor, rng: np.random.Generator) -> Tensor:
    """Features (T, width) with up to two stretches of at most 8 frames set to zero, in `MASKED_SHARE` of the cases."""
    if rng.random() >= MASKED_SHARE:
        return features
    features = features.clone()
    for _ in range(rng.integers(1, 3)):
        start = int(rng.integers(features.shape[0]))
        features[start : start + int(rng.integers(1, 9))] = 0
    return features + 0.05 * features.std() * torch.from_numpy(rng.standard_normal(features.shape, np.float32))


def loosened(text: str, rng: np.random.Generator) -> str:
    """A question as people type it: in `LOOSE_SHARE` of the cases small words, capitals or the mark are missing."""
    if rng.random() >= LOOSE_SHARE:
        return text
    words = [w for w in text.split() if w.lower() not in SMALL or rng.random() < 0.75] or text.split()
    if rng.random() < 0.2:
        words.insert(0, FILLERS[int(rng.integers(len(FILLERS)))])
    joined = " ".join(words)
    if rng.random() < 0.4:
        joined = joined.lower()
    return joined.rstrip(".?!") if rng.random() < 0.4 else joined
