"""The stages of training: which weights learn what, from which mixture of tasks, how long and how fast."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from omni2.model import OmniLM
from omni2.prompt import Reply
from omni2.train.data import schema

# What comes in, then what goes out.  A: sound, T: text, V: picture; 1: what was asked, 2: what is answered.
Task = Literal[
    "A1T1", "A1T2", "A1A2", "T1T2", "T1A2", "T1A1", "VA1T2", "VA1A2", "VT1T2", "VT1A2", "VT2", "VA2", "listen"
]  # fmt: skip
Trained = Literal["adapters", "lm", "all", "lora", "ear"]

LORA = ".low_rank."  # in the names of the weights that `omni2.train.lora` adds


@dataclass(frozen=True)
class Kind:
    """What a task takes from the data: rows of which tasks, how the question is put, and how it is replied to.

    "sound" may be features already, a "wave" not: where the ear learns.
    """

    rows: tuple[schema.Task, ...]
    asked: Literal["sound", "wave", "text", "nothing"]
    reply: Reply
    picture: bool = False


KINDS: Mapping[Task, Kind] = {
    "A1T1": Kind(("transcribe", "answer"), "sound", "text"),
    "A1T2": Kind(("answer",), "sound", "text"),
    "A1A2": Kind(("answer",), "sound", "speech"),
    "T1T2": Kind(("answer",), "text", "text"),
    "T1A2": Kind(("answer",), "text", "speech"),
    "T1A1": Kind(("read", "answer"), "nothing", "speech"),
    "VA1T2": Kind(("see",), "sound", "text", True),
    "VA1A2": Kind(("see",), "sound", "speech", True),
    "VT1T2": Kind(("see",), "text", "text", True),
    "VT1A2": Kind(("see",), "text", "speech", True),
    "VT2": Kind(("see",), "nothing", "text", True),
    "VA2": Kind(("see",), "nothing", "speech", True),
    "listen": Kind(("listen",), "sound", "text"),
}
ABILITIES: Mapping[schema.Task, str] = {
    "answer": "answer",
    "transcribe": "transcribe",
    "read": "speak",
    "see": "see",
    "listen": "listen",
}


@dataclass(frozen=True)
class Stage:
    """One stage.

    trains         which weights: the adapters, all but these, all, only what `add_lora` added, or the audio encoder
                   and its adapter (all others: of the language model alone)
    mixture        shares of the tasks; they need not add up to one
    learning_rate  peak; it falls along a cosine to `floor` times it
    warmup         steps of linear rise
    heard          weight of the recognition loss (see `objective`)
    corrupted      share of wrong codes among those fed, against drifting speech
    sentences      share of rows of a task's first kind, where it takes two (what is transcribed, what is read)
    masked, loose  shares of the sounds that lose some frames (for an ear in training: are disguised), of the typed
                   questions that are put loosely
    restyled       share of the pictures, and of the sounds unless the ear learns, that take on something of another's
                   manner (see `mixture`)
    remembered     share of the questions that come behind an earlier turn, about something else
    averaged       share of the steps, the last ones, of whose weights the mean comes out (stochastic weight averaging,
                   Izmailov et al., arXiv 1803.05407)
    """

    name: str
    mixture: Mapping[Task, float]
    steps: int
    learning_rate: float
    warmup: int = 200
    floor: float = 0.02
    trains: Trained = "all"
    heard: float = 0.3
    corrupted: float = 0.0
    sentences: float = 0.6
    masked: float = 0.4
    loose: float = 0.5
    restyled: float = 0.0
    remembered: float = 0.0
    averaged: float = 0.0

    def abilities(self) -> frozenset[str]:
        """What a model can do that learned this."""
        remembers = {"history"} if self.remembered else set()
        return frozenset(ABILITIES[KINDS[task].rows[0]] for task in self.mixture) | remembers


def choose_weights(lm: OmniLM, stage: Stage) -> None:
    """Let the weights of the stage's group learn and freeze all others, and the adapters that no task makes use of."""
    kinds = [KINDS[task] for task in stage.mixture]
    used = {"audio_adapter.": any(k.asked == "sound" for k in kinds), "vision_adapter.": any(k.picture for k in kinds)}
    for name, weight in lm.named_parameters():
        adapter = next((prefix for prefix in used if name.startswith(prefix)), None)
        group: dict[Trained, bool] = {
            "adapters": adapter is not None,
            "lm": adapter is None,
            "all": True,
            "lora": LORA in name,
            "ear": name.startswith("audio_adapter."),
        }
        weight.requires_grad_(group[stage.trains] and (adapter is None or used[adapter]))
