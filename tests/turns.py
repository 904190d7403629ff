"""Turns of every kind, and what the toy answers to each."""

from functools import cache
from typing import Any

import numpy as np
from toys import photo, tiny_model, tone

from omni2 import Answer, Chunk, OmniModel, Pick, Sampling

HOT = Pick(2.0)
TURNS: dict[str, dict[str, Any]] = {
    "spoken": {"audio": tone()},
    "spoken, text": {"audio": tone(), "reply": "text"},
    "typed": {"text": "what is there"},
    "typed, text": {"text": "hello", "reply": "text"},
    "picture": {"image": photo()},
    "picture, text": {"image": photo(), "reply": "text"},
    "picture and sound": {"image": photo(), "audio": tone()},
    "picture and sound, text": {"image": photo(), "audio": tone(), "reply": "text"},
    "picture and text": {"image": photo(), "text": "what is it"},
    "picture and text, text": {"image": photo(), "text": "what is it", "reply": "text"},
    "drawn": {"text": "the cat", "sampling": Sampling(HOT, HOT, seed=4)},
}


@cache
def first_model() -> OmniModel:
    return tiny_model()


@cache
def expected(turn: str) -> tuple[str, bytes, str]:
    return told(first_model().answer(**TURNS[turn]))


def told(answer: Answer) -> tuple[str, bytes, str]:
    """What of an answer must be the same each time."""
    return answer.text, answer.audio.tobytes(), answer.finish_reason


def together(chunks: list[Chunk]) -> tuple[str, bytes, str | None]:
    audio = np.concatenate([chunk.audio for chunk in chunks])
    return "".join(chunk.text for chunk in chunks), audio.tobytes(), chunks[-1].finish_reason
