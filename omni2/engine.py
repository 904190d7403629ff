"""The one decoding loop: all live conversations advance together, one step at a time.

    engine = Engine(lm)
    for step in engine.submit(prompt, Sampling()):    # closing the iterator frees its rows at once
        step.codes, step.text

A conversation owns one row of the batch (text, or speech with its own text) or two (speech in one, its text in the
other: batch-parallel decoding, arXiv 2408.16725).  Rows have their own positions, so conversations join and leave
between any two steps.  Whoever waits for a step drives the loop; there is no thread of its own.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Literal

import torch
from torch import Tensor

from omni2.config import Pick, Sampling
from omni2.errors import BusyError, ContextLengthError, InputError
from omni2.model import LanguageModel, Rows
from omni2.pace import Pace
from omni2.prompt import Prompt
from omni2.sampling import sample
from omni2.tokens import AUDIO_LAYERS, TEXT_LAYER

FinishReason = Literal["end", "length"]
AUDIO, TEXT = attrgetter("audio"), attrgetter("text")  # of a `Sampling`
BUFFER = 64  # steps a conversation may be ahead of its reader (5.5 s of speech); then it waits, the others go on


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
    """The state of one conversation inside the engine."""

    rows: list[Row]
    prompt: Prompt
    sampling: Sampling
    limit: int
    generator: torch.Generator
    steps: deque[Step] = field(default_factory=deque)
    text_ended: bool = False
    finished: bool = False

    @property
    def audio_row(self) -> Row | None:
        """The row whose audio heads are read."""
        return self.rows[0] if self.prompt.audio_out else None

    @property
    def text_row(self) -> Row | None:
        """The row whose text head is read: the last one, until the text has ended."""
        return None if self.text_ended else self.rows[-1]


class Conversation(Iterator[Step]):
    """The steps of one submitted prompt, decoded as they are asked for."""

    def __init__(self, engine: "Engine", turn: Turn) -> None:
        self._engine, self._turn = engine, turn

    def __next__(self) -> Step:
        step = self._engine.wait(self._turn)
        if step is None:
            raise StopIteration
        return step

    def close(self) -> None:
        """Stop decoding, at the latest with the end of the step under way, and free the rows; safe to call twice."""
        self._engine.cancel(self._turn)

    def sounded(self, work: float, sound: float) -> None:
        """Tell the engine that so many seconds of this answer's sound took so many seconds of work."""
        if self._engine.pace is not None:
            self._engine.pace.sounded(work, sound)


class Engine:
    """Decodes any number of prompts on `slots` rows of one model; safe to use from several threads.

    With a `pace` it knows how much of real time its answers take; `realtime` refuses the spoken answer that would make
    them all late.
    """

    def __init__(self, lm: LanguageModel, slots: int = 16, pace: Pace | None = None, realtime: bool = False) -> None:
        self.lm, self.layout = lm, lm.layout
        self.device, self.cache, self.slots = lm.device, lm.cache(slots), slots
        self._free = list(reversed(range(slots)))
        self._turns: list[Turn] = []
        self._closed: deque[Turn] = deque()  # to be taken out by whoever holds the lock
        self.steps = 0  # made so far
        self.pace, self.realtime = pace, realtime
        self._lock = threading.Lock()  # not reentrant: closed amid a step, a turn must stay whole until its end

    @property
    def live(self) -> int:
        """Conversations that hold rows."""
        return len(self._turns)

    def has_time(self, joining: int = 1) -> bool:
        """Whether so many more spoken answers, of two rows each, leave all in real time; one alone always may try."""
        if self.pace is None or not self._turns:
            return True
        rows, speaking = self._busy()
        return self.pace.allows(rows + 2 * joining, speaking + joining)

    def load(self) -> float:
        """The share of real time that the answers under way need: 1 is just in time, 0 not known."""
        return self.pace.load(*self._busy()) if self.pace is not None else 0.0

    def _busy(self) -> tuple[int, int]:
        """Rows under way, and spoken answers."""
        turns = [*self._turns]
        return sum(len(turn.rows) for turn in turns), sum(turn.prompt.audio_out for turn in turns)

    def submit(self, prompt: Prompt, sampling: Sampling | None = None) -> Conversation:
        """Prefill `prompt` and join the batch.

        Raises ContextLengthError if it leaves no room for an answer, BusyError if no rows are free or (see `realtime`)
        no time, InputError for an impossible seed.
        """
        sampling = sampling or Sampling()
        limit = min(sampling.max_tokens or self.lm.config.block_size, self.lm.config.block_size)
        if len(prompt) >= limit:
            raise ContextLengthError(f"the turn takes {len(prompt)} of {limit} positions; shorten it")
        try:
            generator = torch.Generator().manual_seed(sampling.seed)
        except (RuntimeError, ValueError, TypeError) as error:
            raise InputError(f"a seed is a whole number of at most 64 bits, not {sampling.seed}") from error
        with self._alone():
            count = 2 if prompt.paired else 1
            if len(self._free) < count:
                raise BusyError(f"all {self.slots} rows are taken; try again later")
            if self.realtime and prompt.audio_out and not self.has_time():
                raise BusyError(f"with one more answer than these {self.live}, none would keep real time; try later")
            slots = [self._free.pop() for _ in range(count)]
            try:
                rows = self._prefill(prompt, slots)
            except BaseException:
                self._free += slots
                raise
            turn = Turn(rows, prompt, sampling, limit, generator)
            self._turns.append(turn)
        return Conversation(self, turn)

    def wait(self, turn: Turn) -> Step | None:
        """The next step of `turn`, decoding for all until it is there; None behind the last one."""
        with self._alone():
            while not turn.steps and not turn.finished:
                self._advance()
                self._reap()
            return turn.steps.popleft() if turn.steps else None

    def cancel(self, turn: Turn) -> None:
        """Take `turn` out of the batch; what it had decoded ahead is thrown away.

        Never waits: the garbage collector may close a conversation in the midst of a step, in the thread that makes it.
        If a step is under way, its end takes the turn out.
        """
        self._closed.append(turn)
        self._tidy()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock; what was closed before or meanwhile is taken out."""
        try:
            with self._lock:
                self._reap()
                yield
        finally:
            self._tidy()

    def _tidy(self) -> None:
        """Take out what was closed, unless another call holds the lock: that one will."""
        while self._closed and self._lock.acquire(blocking=False):
            try:
                self._reap()
            finally:
                self._lock.release()

    def _reap(self) -> None:
        """Take out what was closed; the lock is held."""
        while self._closed:
            turn = self._closed.popleft()
            turn.steps.clear()
            self._leave(turn)

    @torch.inference_mode()
    def _prefill(self, prompt: Prompt, slots: list[int]) -> list[Row]:
        """Run all positions but the last, once for both rows of a pair, and hand each row its last position."""
        ids, length = prompt.ids.to(self.device), len(prompt) - 1
        if length:
            x = self.lm.embed(ids[None, :, :length], [prompt.spans])
            self.lm(x, self._rows(slots[:1], [0]))
        rows = [Row(slots[0], length, ids[:, -1])]
        if prompt.paired:
            self.cache.copy(slots[0], slots[1], length)
            rows.append(Row(slots[1], length, self._text_input(int(ids[TEXT_LAYER, -1]))))
        return rows

    def _rows(self, slots: list[int], starts: list[int]) -> Rows:
        return Rows(self.cache, torch.tensor(slots, device=self.device), torch.tensor(starts, device=self.device))

    def _text_input(self, text: int) -> Tensor:
        """The input of a row without sound: `pad` in the audio layers."""
        return torch.tensor([*[self.layout.pad_audio] * AUDIO_LAYERS, text], device=self.device)

    @torch.inference_mode()
    def _advance(self) -> None:
        """One step of every conversation whose reader keeps up: one forward pass, then each takes its logits."""
        self.steps += 1
        began = time.perf_counter()
        turns = [turn for turn in self._turns if len(turn.steps) < BUFFER]
        rows = [row for turn in turns for row in turn.rows]
        x = self.lm.embed(torch.stack([row.ids for row in rows])[:, :, None])
        hidden = self.lm(x, self._rows([r.slot for r in rows], [r.position for r in rows]))[:, 0]
        place = {id(row): i for i, row in enumerate(rows)}
        speaking = [turn for turn in turns if turn.audio_row]
        writing = [turn for turn in turns if turn.text_row]
        audio = self.lm.audio_logits(hidden[[place[id(t.audio_row)] for t in speaking]]) if speaking else ()
        text = self.lm.text_logits(hidden[[place[id(t.text_row)] for t in writing]]) if writing else ()
        codes, words = self._draw(speaking, audio, AUDIO), self._draw(writing, text, TEXT)
        for turn in turns:
            self._take(turn, codes.get(id(turn)), words.get(id(turn)))
        if self.pace is not None:
            self.pace.stepped(len(rows), time.perf_counter() - began)

    @staticmethod
    def _draw(turns: list[Turn], logits: Tensor | tuple[()], pick: Callable[[Sampling], Pick]) -> dict[int, Tensor]:
        """Ids by turn, from logits (turns, …, vocabulary): the greedy ones all at once."""
        if not isinstance(logits, Tensor):
            return {}
        best = logits.argmax(-1)
        return {
            id(turn): ids if pick(turn.sampling).greedy else sample(own, pick(turn.sampling), turn.generator)
            for turn, ids, own in zip(turns, best, logits, strict=True)
        }

    def _take(self, turn: Turn, codes: Tensor | None, word: Tensor | None) -> None:
        """Record a step of `turn`, prepare its rows' next inputs, and let it or its text row leave at the end."""
        heard = tuple(codes.tolist()) if codes is not None else None
        text = int(word) if word is not None else None
        fed = self.layout.pad_text if text is None or text == self.layout.eot else text
        for row in turn.rows:
            row.position += 1
            row.ids = self._text_input(fed)
        if codes is not None:
            turn.rows[0].ids[:AUDIO_LAYERS] = codes
        if text == self.layout.eot:
            turn.text_ended = True
            if len(turn.rows) > 1:
                self._free.append(turn.rows.pop().slot)
        ended = turn.text_ended if heard is None else heard[-1] == self.layout.eoa
        reason: FinishReason | None = "end" if ended else None
        if not ended and turn.rows[0].position + 1 >= turn.limit:
            reason = "length"
        turn.steps.append(Step(heard, text, reason))
        if reason:
            self._leave(turn)

    def _leave(self, turn: Turn) -> None:
        if not turn.finished:
            turn.finished = True
            self._turns.remove(turn)
            self._free += [row.slot for row in turn.rows]
            turn.rows = []
