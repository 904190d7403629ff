"""Texts made to measure with, besides the test phrasings and the held-out dictionary sentences: none is trained on."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache

import numpy as np

from omni2.train.data.questions import ANSWER_WORDS, corpus, normalise, unknown
from omni2.train.data.things import phrasings

NEW = 200  # sentences kept
DRAWS = 200  # tried for each sentence, at most
MOST = 0.25  # of the sentences may begin as one topic's answers
NEAR = (
    "Stop the car.", "Omni, don't stop.", "We stopped at noon.", "Top of the morning.", "Hop on me.", "Omni, carry on.",
    "Stop and think.", "A stop on many roads.", "Store money.", "Omni is talking.", "Stow a pony.", "Stop Tony.",
)  # fmt: skip


@cache
def new_sentences() -> tuple[str, ...]:
    """`NEW` sentences out of the words of the corpus' answers, none of which is an answer or a question of it."""
    items = [*corpus(), unknown()]
    known = {normalise(text) for item in items for text in (item.answer, *item.train, *item.test)}
    groups = defaultdict(list)
    for item in items:
        groups[item.topic].append(item.answer)
    return tuple(recombined(list(groups.values()), known, NEW))


def recombined(groups: Sequence[Sequence[str]], known: set[str], count: int, seed: int = 0) -> list[str]:
    """Up to `count` sentences that begin as one of the given sentences and, behind a shared word, end as another.

    Where they are joined, both have the same two words, or both are of one template (as long, and alike elsewhere too):
    "The capital of France is Paris." and "The capital of Italy is Rome." give "The capital of France is Rome."  The
    group of the first is drawn evenly, and at most `MOST` of the sentences begin as one group's.  No sentence is in
    `known` (normalised), is there twice, or has more or fewer words than answers have.
    """
    rng = np.random.default_rng(seed)
    sentences = [sentence.split() for group in groups for sentence in group]
    having: dict[str, list[tuple[list[str], int]]] = defaultdict(list)  # word → where it stands within a sentence
    for words in sentences:
        for place in range(1, len(words) - 1):
            having[words[place]].append((words, place))
    found: dict[str, str] = {}
    taken: Counter[int] = Counter()
    for _ in range(DRAWS * count):
        number = int(rng.integers(len(groups)))
        group = groups[number]
        first = group[int(rng.integers(len(group)))].split()
        if len(first) < min(ANSWER_WORDS) or taken[number] >= MOST * count:
            continue
        place = int(rng.integers(1, len(first) - 1))
        second, other = having[first[place]][rng.integers(len(having[first[place]]))]
        sentence = [*first[: place + 1], *second[other + 1 :]]
        joined = first[place - 1] == second[other - 1] or _alike(first, second)
        if not joined or second == first or len(sentence) not in ANSWER_WORDS:
            continue
        plain = normalise(" ".join(sentence))
        if plain not in known and plain not in found:
            found[plain] = " ".join(sentence)
            taken[number] += 1
        if len(found) == count:
            break
    return list(found.values())


def _alike(first: list[str], second: list[str]) -> bool:
    """Whether two sentences are of one template: as long, and with two or more words in the same place."""
    return len(first) == len(second) and sum(map(str.__eq__, first, second)) >= 2


def made_texts() -> list[str]:
    """All of this file's texts, and the phrasings that pictures are asked about with in tests."""
    about = [text for kind in ("name", "colour", "count") for text in phrasings(kind, "test")]
    return [*new_sentences(), *NEAR, *about]
