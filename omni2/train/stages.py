"""The stages of training: what is learned in which mixture, how long and how fast."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Task = Literal["A1T1", "A1T2", "T1T2", "A1A2", "T1A2", "T1A1"]


@dataclass(frozen=True)
class Stage:
    """One stage: shares of the tasks (they need not add up to one), steps of the optimiser, peak learning rate.

    `corrupted` is the share of wrong codes among those fed, against drifting speech; `sentences` the share of everyday
    sentences among what is transcribed.
    """

    name: str
    mixture: Mapping[Task, float]
    steps: int
    learning_rate: float
    warmup: int = 200
    corrupted: float = 0.0
    sentences: float = 0.6


UNDERSTAND = Stage("understand", {"A1T1": 0.4, "A1T2": 0.35, "T1T2": 0.25}, steps=1200, learning_rate=1e-3)
SPEAK = Stage(
    "speak",
    {"A1A2": 0.25, "T1A2": 0.08, "T1A1": 0.05, "A1T2": 0.32, "A1T1": 0.14, "T1T2": 0.16},
    steps=800,
    learning_rate=1e-3,
)
# Speech of known answers is learned soon, understanding new phrasings and voices is not: most of the time goes there.
GENERALISE = Stage(
    "generalise",
    {"A1A2": 0.13, "T1A2": 0.05, "T1A1": 0.04, "A1T2": 0.44, "A1T1": 0.16, "T1T2": 0.18},
    steps=2400,
    learning_rate=1e-3,
    warmup=50,
)
STEADY = Stage(
    "steady",
    {"A1A2": 0.22, "T1A2": 0.06, "T1A1": 0.04, "A1T2": 0.38, "A1T1": 0.18, "T1T2": 0.12},
    steps=900,
    learning_rate=6e-4,
    warmup=20,
    corrupted=0.1,
)
