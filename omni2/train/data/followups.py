"""Questions that only the turn before them makes sense of: "What is the capital of France?", then "And of Italy?".

`text/followups.json` names templates of the corpus (their `topics` and `answer`) and the ways to go on with another
row of the same template.  The turn before is a question of that template about something else, and its answer.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypedDict

import numpy as np

from omni2.train.data.questions import TEXT, TOPICS, Item, expanded

Part = Literal["train", "test"]


class Family(TypedDict):
    """One entry of the file: where the template stands, and how one goes on."""

    topics: list[str]
    answer: str
    train: list[str]
    test: list[str]


@dataclass(frozen=True)
class FollowUp:
    """`question` behind the turn `before` (a question and its answer) has the one right `answer`."""

    topic: str
    question: str
    answer: str
    before: tuple[str, str]


@cache
def families() -> tuple[Family, ...]:
    """All families, in the file's order."""
    return tuple(json.loads((TEXT / "followups.json").read_text(encoding="ascii")))


def followups(part: Part, seed: int = 0, topics: Collection[str] = TOPICS) -> list[FollowUp]:
    """Every way to go on about every row of every family, of `topics`; the turns before are drawn from `seed`.

    Those of "test" are phrasings that those of "train" do not have, behind questions of the corpus' test phrasings.
    """
    rng = np.random.default_rng([seed, len(part)])
    found = []
    for family in families():
        rows: list[tuple[Item, list[str]]] = []
        for topic in (topic for topic in family["topics"] if topic in topics):
            rows += expanded(topic, family["answer"], family[part])
        for at, (item, ways) in enumerate(rows):
            for way in ways:
                other = rows[(at + int(rng.integers(1, len(rows)))) % len(rows)][0]
                asked = other.train if part == "train" else other.test
                before = (asked[int(rng.integers(len(asked)))], other.answer)
                found.append(FollowUp(item.topic, way, item.answer, before))
    return found
