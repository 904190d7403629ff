"""This package's own sources: the corpus of `nano`, its answers, dictionary sentences to transcribe and to read."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import chain

import numpy as np

from omni2.train.data.followups import FollowUp, followups
from omni2.train.data.questions import TOPICS, UNKNOWN_SHARE, Item, corpus, normalise, unknown
from omni2.train.data.reserved import new_sentences, recombined
from omni2.train.data.schema import Row, Task, keyed
from omni2.train.data.sentences import definitions, examples, shuffled, split

RECOMBINED = 4000
UNKNOWN_TIMES = 600  # the out-of-scope intent has so many times the phrasings of another
SOURCES = ("corpus", "followups", "answers", "sentences", "examples", "definitions", "recombined")


def own_rows(name: str, phrasings: int | None = None, seed: int = 0, topics: Collection[str] = TOPICS) -> list[Row]:
    """The rows of one of `SOURCES`, not yet spoken, in an order drawn from `seed`; of the corpus only `topics`.

    corpus       "answer": all intents, at most `phrasings` of each; answers without sound
    followups    "answer": questions that only the turn before makes sense of, with that turn
    answers      "read": every answer of the corpus
    sentences    "transcribe": everyday sentences, but for those held out (WordNet's examples)
    examples     "read": the same everyday sentences, for the answer voice
    definitions  "read": longer sentences for it (WordNet's definitions)
    recombined   "read": sentences that begin as one answer and end as another

    Raises OmniError: the dictionary is not installed.
    """
    if name == "corpus":
        rows = [row for item in (*corpus(topics), unknown()) for row in _questions(item, phrasings)]
    elif name == "followups":
        rows = [_following(one) for one in followups("train", seed, topics)]
    elif name == "answers":
        rows = [_row("read", "nano", "MIT", item.answer, item.topic) for item in (*corpus(topics), unknown())]
    elif name == "sentences":
        rows = [_row("transcribe", "WordNet", "WordNet-3.0", text) for text in split(examples())[0]]
    elif name == "recombined":
        rows = [_row("read", "nano", "MIT", text) for text in _recombined()]
    else:
        texts = examples() if name == "examples" else definitions()
        rows = [_row("read", "WordNet", "WordNet-3.0", text) for text in split(texts)[0]]
    return _mixed(rows, seed)


def _mixed(rows: list[Row], seed: int) -> list[Row]:
    """`rows` in random order, those out of scope so much sooner that of the first they are `UNKNOWN_SHARE`."""
    outside = np.array([row.topic == "unknown" for row in rows])
    odds = UNKNOWN_SHARE / (1 - UNKNOWN_SHARE) * np.sum(~outside) / max(np.sum(outside), 1)
    # Drawn without replacement by weight: the smallest of exponential variates come first.
    variates = np.random.default_rng(seed).exponential(size=len(rows)) / np.where(outside, odds, 1.0)
    return [rows[i] for i in np.argsort(variates)]


def _recombined() -> list[str]:
    topics: dict[str, list[str]] = defaultdict(list)
    for item in corpus():
        topics[item.topic].append(item.answer)
    known = {normalise(text) for text in (*chain(*topics.values()), *new_sentences())}
    return recombined(list(topics.values()), known, RECOMBINED, seed=1)


def _questions(item: Item, phrasings: int | None) -> Iterator[Row]:
    most = None if phrasings is None else phrasings * (UNKNOWN_TIMES if item.topic == "unknown" else 1)
    for text in shuffled(list(item.train), 0)[:most]:
        yield keyed(Row("", "answer", "nano", "MIT", topic=item.topic, question_text=text, answer_text=item.answer))


def _following(one: FollowUp) -> Row:
    row = Row("", "answer", "nano", "MIT", topic=one.topic, question_text=one.question, answer_text=one.answer)
    return keyed(replace(row, history=(one.before,)))


def _row(task: Task, source: str, licence: str, text: str, topic: str = "") -> Row:
    answer = text if task == "read" else ""
    return keyed(Row("", task, source, licence, topic=topic, question_text=text, answer_text=answer))
