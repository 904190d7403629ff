"""What the decoding loop keeps of each conversation, and what it tells of a step."""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from omni2.config import Sampling
from omni2.prompt import Prompt
from omni2.search import Search

FinishReason = Literal["end", "length"]


@dataclass(frozen=True)
class Step:
    """What one step decoded: layer-local audio ids (7) in spoken replies, a text id until the text has ended.

    The last step of a conversation says why it was the last.  `eot` and `eoa` are told as they were decoded.
    """

    codes: tuple[int, ...] | None
    text: int | None
    finish_reason: FinishReason | None = None


@dataclass(eq=False)
class Row:
    """One row of the batch: its slot in the cache, the position of its next input and that input (8,)."""

    slot: int
    position: int
    ids: Tensor


@dataclass(eq=False)
class Turn:
    """The state of one conversation inside the engine.

    While its text is searched for, rows write some side by side, each with one for every way in which the question is
    put, and slots in `spare` wait for more; what was found is `found`, and how likely it is `score`, a logarithm.
    """

    rows: list[Row]
    prompt: Prompt
    sampling: Sampling
    limit: int
    generator: torch.Generator
    search: Search | None = None
    spare: list[int] = field(default_factory=list)
    found: deque[int] = field(default_factory=deque)
    score: float = -math.inf
    steps: deque[Step] = field(default_factory=deque)
    text_ended: bool = False
    finished: bool = False

    @property
    def audio_row(self) -> Row | None:
        """The row whose audio heads are read."""
        return self.rows[0] if self.prompt.audio_out and self.search is None else None

    @property
    def text_rows(self) -> list[Row]:
        """The rows whose text head is read: all in a search, else the last one, until the text is known or ended."""
        if self.search is not None:
            return self.rows
        return [] if self.text_ended or self.found else self.rows[-1:]
