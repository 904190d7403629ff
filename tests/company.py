"""Conversations of a toy: what each says when it is alone, to compare with what it says in company."""

from functools import cache

from toys import DRAWN, LAYOUT, prompts, run, tiny_lm

from omni2.config import Sampling, Seek
from omni2.engine import Conversation, Engine, Step
from omni2.errors import BusyError
from omni2.prompt import PromptBuilder

LM = tiny_lm()
PROMPTS = prompts()
CHOICES = {"greedy": Sampling(), "drawn": DRAWN, "searched": Sampling(seek=Seek(3))}
BUILD = PromptBuilder(LAYOUT)
EARLY = "picture and speech"  # a pair whose text ends long before its speech


@cache
def alone(kind: str, choice: str) -> tuple[Step, ...]:
    """What a conversation says when it has the engine for itself."""
    return tuple(run(Engine(LM), PROMPTS[kind], CHOICES[choice]))


def free(engine: Engine) -> int:
    """How many one-row conversations still fit."""
    taken: list[Conversation] = []
    try:
        while True:
            taken.append(engine.submit(BUILD.typed([1])))
    except BusyError:
        return len(taken)
    finally:
        for conversation in taken:
            conversation.close()
