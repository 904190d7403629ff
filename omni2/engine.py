"""The one decoding loop: all live conversations advance together, one step at a time.

    engine = Engine(lm)
    for step in engine.submit(prompt, Sampling()):    # closing the iterator frees its rows at once
        step.codes, step.text

A conversation owns one row of the batch (text, or speech with its own text) or two (speech in one, its text in the
other: batch-parallel decoding, arXiv 2408.16725).  Where `Sampling.seek` asks for a search, more rows find the text
first, and one of them goes on to speak it.  Rows have their own positions, so conversations join and leave between any
two steps.  Whoever waits for a step drives the loop; there is no thread of its own.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter

import torch
from torch import Tensor

from omni2.config import GREEDY, Pick, Sampling
from omni2.errors import BusyError, ContextLengthError, InputError
from omni2.model import LanguageModel, Rows
from omni2.pace import Pace
from omni2.prompt import Prompt
from omni2.sampling import sample
from omni2.search import Search, Text
from omni2.tokens import AUDIO_LAYERS, TEXT_LAYER
from omni2.turn import FinishReason, Row, Step, Turn

__all__ = ["Conversation", "Engine", "FinishReason", "Step"]

AUDIO, TEXT = attrgetter("audio"), attrgetter("text")  # of a `Sampling`
BUFFER = 64  # steps a conversation may be ahead of its reader (5.5 s of speech); then it waits, the others go on


class Conversation(Iterator[Step]):
    """The steps of one submitted prompt, decoded as they are asked for."""

    def __init__(self, engine: "Engine", turn: Turn) -> None:
        self._engine, self._turn = engine, turn

    def __next__(self) -> Step:
        step = self._engine.wait(self._turn)
        if step is None:
            raise StopIteration
        return step

    def likely(self, least: float) -> bool:
        """Whether the text that is searched for is found as likely as `least`, 0 to 1; told as soon as none can be.

        Without a search nothing is found, so that it is as likely as 0 alone.
        """
        return self._engine.searched(self._turn, math.log(least) if least else -math.inf)

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

    def submit(self, prompt: Prompt, sampling: Sampling | None = None, second: Prompt | None = None) -> Conversation:
        """Prefill `prompt` and join the batch; `second` puts the question in another way, for the search (see `Seek`).

        Raises ContextLengthError if it leaves no room for an answer, BusyError if no rows are free or (see `realtime`)
        no time, InputError for an impossible seed or a search that needs more rows than there are.
        """
        sampling = sampling or Sampling()
        limit = min(sampling.max_tokens or self.lm.config.block_size, self.lm.config.block_size)
        seek = sampling.seek or GREEDY
        ways = [prompt] if second is None or not prompt.written or len(second) >= limit else [prompt, second]
        search = None
        if prompt.written and seek != GREEDY:
            search = Search(seek.beams, self.layout.eot, (1.0, seek.cascade)[: len(ways)])
        if len(prompt) >= limit:
            raise ContextLengthError(f"the turn takes {len(prompt)} of {limit} positions; shorten it")
        try:
            generator = torch.Generator().manual_seed(sampling.seed)
        except (RuntimeError, ValueError, TypeError) as error:
            raise InputError(f"a seed is a whole number of at most 64 bits, not {sampling.seed}") from error
        count = seek.beams * len(ways) if search else 2 if prompt.paired else 1
        if search and count > self.slots:
            raise InputError(f"this search takes {count} rows, and there are {self.slots}; ask for fewer beams")
        with self._alone():
            if len(self._free) < count:
                raise BusyError(f"all {self.slots} rows are taken; try again later")
            if self.realtime and prompt.audio_out and not self.has_time():
                raise BusyError(f"with one more answer than these {self.live}, none would keep real time; try later")
            slots = [self._free.pop() for _ in range(count)]
            try:
                rows = self._prefill(ways, slots, search is not None)
            except BaseException:
                self._free += slots
                raise
            turn = Turn(rows, prompt, sampling, limit, generator, search, slots[len(rows) :])
            self._turns.append(turn)
        return Conversation(self, turn)

    def wait(self, turn: Turn) -> Step | None:
        """The next step of `turn`, decoding for all until it is there; None behind the last one.

        Between two steps of a search the lock is free, and others take what was decoded for them.
        """
        while True:
            with self._alone():
                if not turn.steps and not turn.finished:
                    self._advance()
                    self._reap()
                if turn.steps or turn.finished:
                    return turn.steps.popleft() if turn.steps else None

    def searched(self, turn: Turn, least: float) -> bool:
        """Whether a search finds a text for `turn` that scores `least`, decoding for all until that is known."""
        while True:
            with self._alone():
                if turn.search is not None and not turn.finished:
                    self._advance()
                    self._reap()
                if turn.search is None or turn.finished:
                    return turn.score >= least
                if turn.search.most < least:
                    return False

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
    def _prefill(self, ways: list[Prompt], slots: list[int], search: bool) -> list[Row]:
        """Run all positions but the last, once for both rows of a pair, and hand each row its last position.

        A search begins with a row of text for each way, all else has one way.
        """
        for way, slot in zip(ways, slots, strict=False):
            if length := len(way) - 1:
                x = self.lm.embed(way.ids.to(self.device)[None, :, :length], [way.spans])
                self.lm(x, self._rows([slot], [0]))
        if search:
            return [self._text_row(way, slot) for way, slot in zip(ways, slots, strict=False)]
        (prompt,) = ways
        rows = [self._first_row(prompt, slots[0])]
        if prompt.paired:
            self.cache.copy(slots[0], slots[1], len(prompt) - 1)
            rows.append(self._text_row(prompt, slots[1]))
        return rows

    def _first_row(self, prompt: Prompt, slot: int) -> Row:
        """A row at the last position of `prompt`."""
        return Row(slot, len(prompt) - 1, prompt.ids[:, -1].to(self.device))

    def _text_row(self, prompt: Prompt, slot: int) -> Row:
        """The same for the text alone."""
        return Row(slot, len(prompt) - 1, self._text_input(int(prompt.ids[TEXT_LAYER, -1])))

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
        searching, telling = [t for t in turns if t.search], [t for t in turns if not t.search]
        speaking, writing = [t for t in telling if t.audio_row], [t for t in telling if t.text_rows]
        asked = [place[id(row)] for turn in writing + searching for row in turn.text_rows]
        audio = self.lm.audio_logits(hidden[[place[id(t.audio_row)] for t in speaking]]) if speaking else hidden[:0]
        text = self.lm.text_logits(hidden[asked]) if asked else hidden[:0]
        codes, words = self._draw(speaking, audio, AUDIO), self._draw(writing, text[: len(writing)], TEXT)
        for turn in telling:
            self._take(turn, codes.get(id(turn)), words.get(id(turn)))
        at = len(writing)
        for turn in searching:
            at, begin = at + len(turn.rows), at
            self._branch(turn, text[begin:at])
        if self.pace is not None:
            self.pace.stepped(len(rows), time.perf_counter() - began)

    @staticmethod
    def _draw(turns: list[Turn], logits: Tensor, pick: Callable[[Sampling], Pick]) -> dict[int, Tensor]:
        """Ids by turn, from logits (turns, …, vocabulary): the greedy ones all at once."""
        best = logits.argmax(-1)
        return {
            id(turn): ids if pick(turn.sampling).greedy else sample(own, pick(turn.sampling), turn.generator)
            for turn, ids, own in zip(turns, best, logits, strict=True)
        }

    def _take(self, turn: Turn, codes: Tensor | None, word: Tensor | None) -> None:
        """Record a step of `turn`, prepare its rows' next inputs, and let it or its text row leave at the end."""
        heard = tuple(codes.tolist()) if codes is not None else None
        text = int(word) if word is not None else None
        if turn.found:
            text = turn.found.popleft()
            turn.text_ended = not turn.found
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

    def _branch(self, turn: Turn, logits: Tensor) -> None:
        """One step of a search: the first text to go on from another one keeps its rows, others get copies."""
        assert turn.search is not None
        search, ways = turn.search, len(turn.search.weights)
        texts = [turn.rows[at : at + ways] for at in range(0, len(turn.rows), ways)]
        grown = search.grow(logits.view(len(texts), ways, -1))
        kept = {parent for parent, _ in grown}
        turn.spare += [row.slot for parent, rows in enumerate(texts) if parent not in kept for row in rows]
        if grown:
            turn.rows = []
        for parent, token in grown:
            for row in texts[parent]:
                slot = row.slot
                if parent not in kept:
                    slot = turn.spare.pop()
                    self.cache.copy(row.slot, slot, row.position + 1)
                turn.rows.append(Row(slot, row.position + 1, self._text_input(token)))
            kept.discard(parent)
        if not grown or max(row.position for row in turn.rows) + 1 >= turn.limit:
            self._tell(turn, search.best())

    def _tell(self, turn: Turn, best: Text) -> None:
        """End a search with what it found: a written answer is whole with that, a spoken one is decoded along it."""
        text, turn.score = best.ids, best.score
        slots = {*turn.spare, *(row.slot for row in turn.rows)}
        if turn.prompt.audio_out:
            slots.remove(own := turn.rows[0].slot)
            turn.rows, turn.found = [self._first_row(turn.prompt, own)], deque(text)
        else:
            turn.rows = []
            turn.steps += [Step(None, token) for token in text[:-1]]
            turn.steps.append(Step(None, text[-1], "end" if text[-1] == self.layout.eot else "length"))
        turn.search, turn.spare = None, []
        self._free += slots
        if not turn.rows:
            self._leave(turn)

    def _leave(self, turn: Turn) -> None:
        if not turn.finished:
            turn.finished = True
            self._turns.remove(turn)
            self._free += [*turn.spare, *(row.slot for row in turn.rows)]
            turn.rows, turn.spare = [], []
