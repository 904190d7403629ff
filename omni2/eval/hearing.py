"""How surely questions are answered: nats of the right answer, and whether greedy decoding would give just that.

Nothing is decoded: the model reads the right answer and tells at each token how likely it was.  That is quick, and
models whose shares of right answers are as good as equal differ in nats.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from omni2.eval.asking import Condition, each, spoken, together
from omni2.eval.questions import HARD, Case, cases
from omni2.eval.report import Figure, Table, by, share
from omni2.omni import OmniModel
from omni2.train.data.questions import Item, unknown
from omni2.train.samples import Sample, collate, make_sample

BATCH = 32  # questions side by side


@dataclass(frozen=True)
class Result:
    """How likely the right answer of a case was: its nats, and whether each of its tokens was the likeliest one."""

    case: Case
    nats: float
    is_right: bool


def sample(model: OmniModel, case: Case, condition: Condition | None) -> Sample:
    """The case asked in its voice, or typed where `condition` is None, with the right answer as text behind it."""
    encode = model.bundle.tokenizer.encode
    if condition is None:
        prompt = model.prompts.typed(encode(case.question).ids)
    else:
        prompt = model.prompts.spoken(model.hear(spoken(case.voice, case.question, condition)).features, "text")
    return make_sample(prompt, encode(case.answer).ids, None, model.bundle.lm.layout)


@torch.no_grad()
def forced(model: OmniModel, asked: Sequence[Case], condition: Condition | None, name: str) -> list[Result]:
    """What the model thinks of the right answers.  Raises CheckpointError if its weights are compiled ones."""
    lm = model.bundle.trainable()
    if condition is not None:  # voices are not to be asked by several threads
        for case in each(asked, f"preparing sound, {name}"):
            spoken(case.voice, case.question, condition)
    samples = together(lambda case: sample(model, case, condition), asked, f"hearing, {name}")
    pairs = sorted(zip(asked, samples, strict=True), key=lambda pair: len(pair[1]))  # like lengths together
    results = []
    for part in [pairs[i : i + BATCH] for i in range(0, len(pairs), BATCH)]:
        batch = collate([one for _, one in part], lm.layout, lm.config.audio_stride).to(lm.embedding.weight.device)
        hidden = lm(lm.put(batch.ids, batch.features))
        logits = lm.text_logits(hidden.flatten(0, 1)[batch.text.at]).float()
        nats = F.cross_entropy(logits, batch.text.what, reduction="none")
        missed = logits.argmax(-1) != batch.text.what
        rows = batch.text.at // hidden.shape[1]
        for row, (case, _) in enumerate(part):
            results.append(Result(case, float(nats[rows == row].sum()), not bool(missed[rows == row].any())))
    return results


def run(model: OmniModel, items: Sequence[Item], n: int) -> Table:
    """The figures of `n` questions in scope, spoken; of a third as many in each hard place, typed, and out of scope."""
    inside, few = cases(items, n, seed=41), max(n // 3, 1)
    outside = cases([unknown()], few, seed=42)
    sets: dict[str, tuple[str, list[Case], Condition | None]] = {
        "spoken": ("spoken questions", inside, "clean"),
        **{place: (f"spoken, {name}", inside[:few], place) for place, name in HARD.items()},
        "typed": ("typed questions", inside[:few], None),
        "unknown": ("out of scope, spoken", outside, "clean"),
        "unknown.typed": ("out of scope, typed", outside, None),
    }
    figures = []
    for key, (what, asked, condition) in sets.items():
        results = forced(model, asked, condition, what)
        figures += _figures(key, what, results)
        if key == "spoken":
            voices = by(results, lambda one: one.case.voice).items()
            details = [
                figure for voice, ones in voices for figure in _figures(f"spoken.{voice}", f"… {voice}", ones, True)
            ]
    return Table(figures + details)


def _figures(key: str, what: str, results: Sequence[Result], detail: bool = False) -> list[Figure]:
    right, nats = share([one.is_right for one in results]), sum(one.nats for one in results) / len(results)
    return [
        Figure(f"hearing.{key}", f"{what}, right", right, "%", len(results), detail),
        Figure(f"hearing.{key}.nats", f"{what}, nats an answer", nats, "nats", len(results), detail),
    ]
