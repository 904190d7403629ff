"""Right answers: unseen phrasings in unseen voices, typed ones, out of scope, in noise, in a room, over a telephone."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from omni2.eval.asking import Condition, Wave, each, spoken, together
from omni2.eval.report import Figure, Table, by, share
from omni2.omni import OmniModel
from omni2.train.data.followups import followups
from omni2.train.data.questions import FIRST, UNKNOWN, Item, corpus, normalise, unknown
from omni2.train.data.voices import RESERVED

Mode = Literal["speech", "text", "typed"]  # spoken question and spoken answer, spoken and text, typed and text
HARD: dict[Condition, str] = {"noise": "10 dB noise", "room": "room", "telephone": "telephone band"}
SILENCE = np.zeros(0, np.float32)


@dataclass(frozen=True)
class Case:
    """One question of the test: what is asked, in which voice, the right answer, and the turns before."""

    topic: str
    question: str
    voice: str
    answer: str
    history: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Result:
    """What a model said to a case: the text, and the sound (samples,) at its own rate, empty for text."""

    case: Case
    mode: Mode
    condition: Condition
    reply: str
    sound: Wave

    @property
    def is_right(self) -> bool:
        """Whether reply and answer are the same words."""
        return normalise(self.reply) == normalise(self.case.answer)

    @property
    def is_refusal(self) -> bool:
        """Whether the reply is what the model is to say to questions out of its scope."""
        return normalise(self.reply) == normalise(UNKNOWN)


@dataclass(frozen=True)
class Asked:
    """All results of one evaluation: in scope, out of it, of the first version's scope alone, and behind a turn."""

    inside: list[Result]
    outside: list[Result]
    first: list[Result]
    items: Sequence[Item] = field(default_factory=corpus)
    following: list[Result] = field(default_factory=list)

    def of(self, mode: Mode, condition: Condition = "clean") -> list[Result]:
        """The results in scope of a mode and a condition."""
        return [one for one in self.inside if (one.mode, one.condition) == (mode, condition)]


def cases(items: Sequence[Item], n: int, seed: int = 0) -> list[Case]:
    """`n` questions: intents evenly, phrasings and reserved voices at random."""
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(items)) for _ in range(-(-n // len(items)))])[:n]
    return [
        Case(items[i].topic, str(rng.choice(items[i].test)), str(rng.choice(RESERVED)), items[i].answer) for i in order
    ]


def following(n: int, topics: Collection[str], seed: int = 3) -> list[Case]:
    """`n` questions about `topics` that need the turn before, in phrasings never trained on, in reserved voices."""
    rng = np.random.default_rng(seed)
    ones = followups("test", topics=topics)
    drawn = [ones[i] for i in rng.permutation(len(ones))[:n]]
    return [Case(one.topic, one.question, str(rng.choice(RESERVED)), one.answer, (one.before,)) for one in drawn]


def ask(model: OmniModel, questions: Sequence[Case], mode: Mode, condition: Condition = "clean") -> list[Result]:
    """Ask every case in one mode."""
    if mode != "typed":
        for case in each(questions, f"preparing sound, {condition}"):
            spoken(case.voice, case.question, condition)

    def one(case: Case) -> Result:
        if mode == "typed":
            said = model.answer(text=case.question, reply="text", history=case.history)
        else:
            said = model.answer(spoken(case.voice, case.question, condition), reply=mode, history=case.history)
        return Result(case, mode, condition, said.text, said.audio)

    return together(one, questions, f"asking, {mode}, {condition}")


def ask_all(model: OmniModel, n: int, items: Sequence[Item] | None = None) -> Asked:
    """`n` questions in scope in every mode and condition, as many outside, half as many of the first and behind a turn.

    The scope is `items`, by default the whole corpus.  Raises AbilityError if the model does not answer.
    """
    items = corpus() if items is None else items
    inside = cases(items, n)
    outside = cases([unknown()], n, seed=1)
    earlier = corpus(FIRST)
    first = cases(earlier, max(n // 2, 1), seed=2) if len(earlier) < len(items) else []
    modes: tuple[Mode, ...] = ("speech", "text", "typed")
    results = [result for mode in modes for result in ask(model, inside, mode)]
    for condition in HARD:
        results += ask(model, inside, "speech", condition)
    beyond = ask(model, outside, "speech") + ask(model, outside, "typed")
    behind = following(max(n // 2, 1), {item.topic for item in items}) if "history" in model.abilities else []
    return Asked(results, beyond, ask(model, first, "speech"), items, ask(model, behind, "speech"))


def table(asked: Asked, model: OmniModel) -> Table:
    """The figures of `ask_all`, shares in percent; topics and voices are details."""
    items, heard = asked.items, asked.of("speech")
    sets = {
        "qa.spoken": ("spoken questions answered in speech, right", heard),
        "qa.first": ("… of the first version's scope", asked.first),
        "qa.text": ("spoken questions answered in text, right", asked.of("text")),
        "qa.typed": ("typed questions, right", asked.of("typed")),
        **{f"qa.{one}": (f"spoken, {name}, right", asked.of("speech", one)) for one, name in HARD.items()},
        "qa.followups": ("spoken follow-ups to the turn before, right", asked.following),
    }
    absent = {"qa.first", "qa.followups"}  # where there is nothing to ask
    figures = [
        Figure("qa.answers", "answers in scope", len(items)),
        Figure("qa.topics", "topics", len({item.topic for item in items})),
        *(_right(key, what, results) for key, (what, results) in sets.items() if results or key not in absent),
    ]
    for mode, name, key in (("speech", "spoken", "qa.unknown"), ("typed", "typed", "qa.unknown.typed")):
        refused = [one.is_refusal for one in asked.outside if one.mode == mode]
        figures.append(Figure(key, f"out of scope, {name}, told so", share(refused), "%", len(refused)))
    refused = [one.is_refusal for one in heard]
    figures.append(Figure("qa.refused", "in scope, told unknown", share(refused), "%", len(refused)))
    for kind, groups in (
        ("topic", by(heard, lambda one: one.case.topic)),
        ("voice", by(heard, lambda one: one.case.voice)),
    ):
        figures += [_right(f"qa.{kind}.{name}", f"{kind} {name}, right", ones, True) for name, ones in groups.items()]
    return Table(figures, wrong=wrong([*asked.inside, *asked.first, *asked.outside, *asked.following], model))


def wrong(results: Sequence[Result], model: OmniModel) -> Iterator[str]:
    """Every wrong answer with its question, voice, what the model understood, and what was said instead of what."""
    for one in results:
        if one.is_right:
            continue
        understood = ""
        if one.mode != "typed" and "transcribe" in model.abilities:
            understood = f" [{model.transcribe(spoken(one.case.voice, one.case.question, one.condition))}]"
        place = "typed" if one.mode == "typed" else f"{one.case.voice}, {one.condition}, {one.mode}"
        yield f"{place}: {one.case.question}{understood} → {one.reply} (right: {one.case.answer})"


def _right(key: str, what: str, results: Sequence[Result], detail: bool = False) -> Figure:
    return Figure(key, what, share([one.is_right for one in results]), "%", len(results), detail)
