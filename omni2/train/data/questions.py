"""What the embedded model is taught to talk about: questions in text and their answers.

The sentences themselves lie in `text/*.json`, one file a topic, each a list of groups. A group is one answer with the
ways to ask for it (`train`, and `test` for evaluation only); with `columns` and `rows` it is a template, and every row
makes an intent of its own by filling the `{column}` marks. Nothing here depends on the present (time, date, weather):
such questions, like all others out of scope, are examples of `unknown()`.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

TEXT = Path(__file__).with_name("text")
FIRST = ("greetings", "identity", "jokes", "calendar", "arithmetic", "capitals", "facts")  # of the first embedded model
WIDER = (
    *("cities", "countries", "places", "sums", "counting", "opposites", "grammar", "spelling", "animals", "colors"),
    *("materials", "world", "body", "jobs", "units", "counts", "people", "food", "things", "dates"),
)
TOPICS = FIRST + WIDER
UNKNOWN = "I don't know that yet."
UNKNOWN_SHARE = 0.22  # of all questions, where there are such: they are the most different

MAX_ANSWER_CHARS = 52  # about 3.5 s in the answer voice, at 15 characters a second
MAX_QUESTION_CHARS = 58  # about 3.5 s in a brisk question voice
ANSWER_WORDS = range(3, 11)
QUESTION_WORDS = range(1, 13)
MIN_TRAIN = 8  # phrasings of one intent
MIN_TEST = 3

_SENTENCE = re.compile(r"[A-Z][A-Za-z', ]*[.?!]")
_MARK = re.compile(r"\{(\w+)\}")
_CONTRACTIONS = {"i'm": "i am", "you're": "you are", "don't": "do not", "can't": "cannot", "won't": "will not"}
_WITH_IS = ("what's", "who's", "where's", "when's", "how's", "it's", "that's", "here's", "there's")


class Group(TypedDict, total=False):
    """One entry of a text file; `columns` and `rows` make it a template, `test` may lack for out-of-scope groups."""

    answer: str
    train: list[str]
    test: list[str]
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Item:
    """One intent: an answer and the ways to ask for it.

    `train` and `test` share no phrasing, even after `normalise`.
    """

    topic: str
    answer: str
    train: tuple[str, ...]
    test: tuple[str, ...]


def corpus(topics: Iterable[str] = TOPICS) -> list[Item]:
    """The intents of `topics`, in their order and that of the files; groups with the same answer are one intent.

    `corpus(FIRST)` is the scope of the first embedded model, so its figures can still be measured.

    Raises:
        ValueError: a group of the text files is malformed.
    """
    items: dict[tuple[str, str], Item] = {}
    for topic in topics:
        for item in (item for group in _load(topic) for item in _expand(topic, group)):
            known = items.setdefault((topic, item.answer), item)
            if known is not item:
                train, test = _unique(known.train + item.train), _unique(known.test + item.test)
                items[topic, item.answer] = Item(topic, item.answer, train, test)
    return list(items.values())


def unknown() -> Item:
    """Everything out of scope as one intent, answered by `UNKNOWN`.

    Raises:
        ValueError: a group of the text file is malformed.
    """
    items = [item for group in _load("unknown") for item in _expand("unknown", {"answer": UNKNOWN, **group})]
    return Item(
        topic="unknown",
        answer=UNKNOWN,
        train=_unique(q for item in items for q in item.train),
        test=_unique(q for item in items for q in item.test),
    )


def expanded(topic: str, answer: str, ways: Iterable[str]) -> list[tuple[Item, list[str]]]:
    """The intents of the templates of `topic` whose answer is the template `answer`, each with `ways` filled alike.

    Raises:
        ValueError: no such template, or a malformed one.
    """
    groups = [group for group in _load(topic) if group.get("answer") == answer and "columns" in group]
    if not groups:
        raise ValueError(f"{topic}.json has no template {answer!r}")
    found = []
    for group in groups:
        for row, item in zip(group["rows"], _expand(topic, group), strict=True):
            cells = dict(zip(group["columns"], row, strict=True))
            found.append((item, [_fill(way, cells) for way in ways]))
    return found


def normalise(sentence: str) -> str:
    """Lower case, contractions of "is" and "am" spelled out, no punctuation, single spaces."""
    words = sentence.lower().replace(",", " ").rstrip(".?! ").split()
    words = [w.replace("'s", " is") if w in _WITH_IS else _CONTRACTIONS.get(w, w) for w in words]
    return " ".join(re.sub(r"[^a-z' ]", "", w) for w in words)


def check(items: Iterable[Item]) -> None:
    """Hold the corpus to what its readers rely on.

    Raises:
        ValueError: one line a finding: two intents share an answer or a question; a sentence is too long, or has
            digits or other characters than ASCII letters, apostrophes, commas and a final mark; a test phrasing equals
            a training one after `normalise`; an intent has too few phrasings.
    """
    items = list(items)
    findings: list[str] = []
    answers: dict[str, int] = {}
    owners: dict[str, int] = {}
    for index, item in enumerate(items):
        findings += _check_item(item)
        if answers.setdefault(normalise(item.answer), index) != index:
            findings.append(f"two intents answer {item.answer!r}")
        for question in (*item.train, *item.test):
            owner = owners.setdefault(normalise(question), index)
            if owner != index:
                findings.append(f"{question!r} asks for {items[owner].answer!r} and for {item.answer!r}")
    if findings:
        raise ValueError("\n".join(findings))


def _check_item(item: Item) -> list[str]:
    """Findings within one intent, one line each."""
    findings = []
    if len(item.train) < MIN_TRAIN or len(item.test) < MIN_TEST:
        findings.append(f"{len(item.train)} + {len(item.test)} phrasings for {item.answer!r}")
    if len(item.answer) > MAX_ANSWER_CHARS or len(item.answer.split()) not in ANSWER_WORDS:
        findings.append(f"length of answer {item.answer!r}")
    findings += [
        f"length of question {q!r}"
        for q in (*item.train, *item.test)
        if len(q) > MAX_QUESTION_CHARS or len(q.split()) not in QUESTION_WORDS
    ]
    findings += [f"characters of {s!r}" for s in (item.answer, *item.train, *item.test) if not _SENTENCE.fullmatch(s)]
    known = {normalise(q) for q in item.train}
    findings += [f"test question {q!r} is a training one" for q in item.test if normalise(q) in known]
    if len({normalise(q) for q in item.test}) < len(item.test):
        findings.append(f"a test question is there twice for {item.answer!r}")
    return findings


def _load(topic: str) -> list[Group]:
    """The groups of one text file."""
    groups: list[Group] = json.loads((TEXT / f"{topic}.json").read_text(encoding="ascii"))
    return groups


def _expand(topic: str, group: Group) -> list[Item]:
    """The intents of a group: one, or one for each row."""
    columns = group.get("columns", [])
    items = []
    for row in group.get("rows", [[]]):
        if len(row) != len(columns):
            raise ValueError(f"{topic}.json: row {row} does not have the columns {columns}")
        cells = dict(zip(columns, row, strict=True))
        items.append(
            Item(
                topic=topic,
                answer=_fill(group["answer"], cells),
                train=_unique(_fill(q, cells) for q in group.get("train", [])),
                test=_unique(_fill(q, cells) for q in group.get("test", [])),
            )
        )
    return items


def _fill(template: str, cells: dict[str, str]) -> str:
    """The template with its `{column}` marks replaced, starting with a capital."""
    try:
        sentence = _MARK.sub(lambda mark: cells[mark[1]], template)
    except KeyError as missing:
        raise ValueError(f"no column {missing} for {template!r}") from None
    return sentence[:1].upper() + sentence[1:]


def _unique(sentences: Iterable[str]) -> tuple[str, ...]:
    """The sentences in order, each once (a template with two equal numbers asks twice the same)."""
    return tuple(dict.fromkeys(sentences))
