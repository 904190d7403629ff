"""Where training rows come from: a pool in memory that is drawn from evenly, or streams of any size.

Both leave out the rows that are held out to measure the loss on, and give them through `held_out`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

import numpy as np

from omni2.errors import OmniError
from omni2.hub import is_hub_id
from omni2.train.data.questions import UNKNOWN_SHARE
from omni2.train.data.schema import Row, Task, unpack
from omni2.train.data.store import read_manifest, read_rows, stream
from omni2.train.stages import Kind, Stage

UNKNOWN = "unknown"  # the topic of questions out of scope
PLAIN_SHARE = 0.25  # of those are everyday sentences, not questions
HELD_OUT = 50  # one text in so many is held out

Place = Mapping[str, tuple[int, int]]  # of every stream: how many times it was read, and rows of this time


class Source(Protocol):
    """Rows, drawn one by one; `place` and `restore` are for sources that remember what was drawn."""

    def serves(self, kind: Kind) -> bool:
        """Whether there are rows for such tasks."""

    def draw(self, kind: Kind, stage: Stage, rng: np.random.Generator) -> Row:
        """A row with all that the task needs.  Raises OmniError if there is none."""

    def split(self, part: int, parts: int) -> "Source":
        """The share of one of several parts that draw side by side."""

    def held_out(self) -> "Source":
        """The rows that training never sees."""

    def place(self) -> Place:
        """Where each stream stands."""

    def restore(self, place: Place) -> None:
        """Go to where `place` was asked."""


def is_held_out(row: Mapping[str, Any], one_in: int = HELD_OUT) -> bool:
    """Whether training leaves the row out: by its text, so that all recordings of a text are on the same side."""
    text = "" if row["task"] == "listen" else row["question_text"] or row["answer_text"]
    return one_in > 0 and crc32((text or row["key"]).encode()) % one_in == 0


def usable(row: Row, kind: Kind, codes: bool) -> bool:
    """Whether a row has what a task needs; `codes` says whether its answer's codes are at hand."""
    heard = row.question_features is not None or row.question_audio is not None
    seen = row.picture_features is not None or row.picture is not None
    told = bool(row.answer_text) and not (kind.picture and row.question_text)  # without a question, the whole picture
    wave, text = row.question_audio is not None, bool(row.question_text)
    asked = {"sound": heard, "wave": wave, "text": text, "nothing": told}[kind.asked]
    return row.task in kind.rows and asked and (seen or not kind.picture) and (codes or kind.reply == "text")


class Pool:
    """Rows in memory.  An answer is drawn evenly among all, then one of its questions, then one recording of that.

    So an answer with many questions is not learned more than another.  Of pictures and of what a microphone hears the
    topic is drawn, then a row: their sources are balanced, and an answer fits many.  Questions of the topic "unknown"
    are drawn apart, `UNKNOWN_SHARE` of the time; everyday sentences are out of scope as well.  Codes of an answer are
    taken from any row with its text.
    """

    def __init__(self, rows: Iterable[Row], one_in: int = HELD_OUT, spoken: Mapping[str, Row] | None = None) -> None:
        self.rows, self.one_in = list(rows), one_in
        mine = {r.answer_text: r for r in self.rows if r.answer_codes is not None and r.answer_text}
        self.spoken = {**(spoken or {}), **mine}  # of every answer, a row that has its codes
        self.unknown = next((r.answer_text for r in self.rows if r.topic == UNKNOWN), "")
        kept = [r for r in self.rows if not is_held_out(vars(r), one_in)]
        self._rows: dict[Task, list[Row]] = defaultdict(list)
        for row in kept:
            self._rows[row.task].append(row)
        self._drawn: dict[tuple[Task, Kind, bool], list[list[list[Row]]]] = {}

    def serves(self, kind: Kind) -> bool:
        """See `Source`."""
        return any(self._groups(task, kind, unknown) for task in kind.rows for unknown in (False, True))

    def draw(self, kind: Kind, stage: Stage, rng: np.random.Generator) -> Row:
        """See `Source`; tasks of two kinds of rows take the first `stage.sentences` of the time."""
        first, second = kind.rows[0], kind.rows[-1]
        if first != second and self._groups(first, kind, False):
            other = any(self._groups(second, kind, unknown) for unknown in (False, True))
            if not other or rng.random() < stage.sentences:
                return self._one(self._groups(first, kind, False), rng)
        known, unknown = (self._groups(second, kind, out_of_scope) for out_of_scope in (False, True))
        if not known and not unknown:
            raise OmniError(f"the data hold no rows of {' or '.join(map(repr, kind.rows))} that can be used")
        if not unknown or (known and rng.random() >= UNKNOWN_SHARE):
            return self._one(known, rng)
        plain = self._groups("transcribe", replace(kind, rows=("transcribe",), reply="text"), False)
        if kind.asked in ("sound", "wave") and second == "answer" and plain and rng.random() < PLAIN_SHARE:
            return self._voiced(replace(self._one(plain, rng), answer_text=self.unknown))
        return self._one(unknown, rng)

    def _one(self, groups: list[list[list[Row]]], rng: np.random.Generator) -> Row:
        questions = groups[int(rng.integers(len(groups)))]
        takes = questions[int(rng.integers(len(questions)))]
        return self._voiced(takes[int(rng.integers(len(takes)))])

    def _voiced(self, row: Row) -> Row:
        """`row` with its answer's codes, if any row has them."""
        spoken = self.spoken.get(row.answer_text)
        if row.answer_codes is not None or spoken is None:
            return row
        return replace(row, answer_codes=spoken.answer_codes, answer_starts=spoken.answer_starts)

    def _groups(self, task: Task, kind: Kind, unknown: bool) -> list[list[list[Row]]]:
        """Rows of one task that a kind can use, by answer, then by question."""
        known = self._drawn.get((task, kind, unknown))
        if known is None:
            found: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
            for row in self._rows[task]:
                if (row.topic == UNKNOWN) == unknown and usable(row, kind, row.answer_text in self.spoken):
                    question = "" if task in ("listen", "see") else row.question_text
                    answer = row.topic if task in ("see", "listen") else row.answer_text
                    found[answer or row.label or question][question].append(row)
            known = [list(questions.values()) for questions in found.values()]
            self._drawn[task, kind, unknown] = known
        return known

    def split(self, part: int, parts: int) -> "Pool":
        """All parts draw from the whole pool."""
        return self

    def held_out(self) -> "Pool":
        """See `Source`."""
        return Pool((r for r in self.rows if is_held_out(vars(r), self.one_in)), 0, self.spoken)

    def place(self) -> Place:
        """Nothing is remembered."""
        return {}

    def restore(self, place: Place) -> None:
        """Nothing to do."""


class Stream:
    """Rows of folders and hub ids, read again and again in an order drawn from (seed, turn); each kind reads alone."""

    def __init__(self, names: Sequence[str], seed: int, part: int = 0, parts: int = 1, held: bool = False) -> None:
        self.names, self.seed, self.part, self.parts, self.held = tuple(names), seed, part, parts, held
        self._place: dict[str, tuple[int, int]] = {}
        self._open: dict[str, Iterator[dict[str, Any]]] = {}

    def serves(self, kind: Kind) -> bool:
        """See `Source`; what lies on the hub is not looked into and taken to hold rows of all tasks."""
        tasks = {task for name in self.names if not is_hub_id(name) for task in read_manifest(Path(name))["tasks"]}
        return any(map(is_hub_id, self.names)) or bool(tasks & {*kind.rows})

    def draw(self, kind: Kind, stage: Stage, rng: np.random.Generator) -> Row:
        """See `Source`; rows come in the stream's order."""
        name = "+".join(kind.rows)
        first = self._place.get(name, (0, 0))[0]
        while True:
            rows = self._open.get(name) or self._read(name)
            for columns in rows:
                turn, taken = self._place[name]
                self._place[name] = (turn, taken + 1)
                if columns["task"] in kind.rows and is_held_out(columns) == self.held:
                    row = unpack(columns)
                    if usable(row, kind, row.answer_codes is not None):
                        return row
            self._place[name] = (self._place[name][0] + 1, 0)
            del self._open[name]
            if self._place[name][0] > first + 1:
                raise OmniError(f"{', '.join(self.names)}: no rows of {' or '.join(map(repr, kind.rows))} can be used")

    def _read(self, name: str) -> Iterator[dict[str, Any]]:
        """The rows of a stream from its place on."""
        turn, taken = self._place.setdefault(name, (0, 0))
        dataset = stream(self.names, seed=self.seed, rank=self.part, world=self.parts)
        dataset.set_epoch(turn)
        self._open[name] = islice(iter(dataset), taken, None)
        return self._open[name]

    def split(self, part: int, parts: int) -> "Stream":
        """Every part reads other rows."""
        return Stream(self.names, self.seed, part, parts, self.held)

    def held_out(self) -> "Stream":
        """See `Source`."""
        return Stream(self.names, self.seed, self.part, self.parts, held=True)

    def place(self) -> Place:
        """See `Source`."""
        return dict(self._place)

    def restore(self, place: Place) -> None:
        """See `Source`; the rows before it are read once more, and dropped."""
        self._open.clear()
        self._place = {name: (turn, taken) for name, (turn, taken) in place.items()}


def open_source(names: Sequence[str], streamed: bool, seed: int) -> Source:
    """The rows of folders (and, if `streamed`, hub ids).  Raises OmniError: nothing there."""
    if not names:
        raise OmniError("no data to train on; make some with `omni2 data build` and give the folder as --data")
    if streamed or any(map(is_hub_id, names)):
        return Stream(names, seed)
    return Pool(row for name in names for row in read_rows(Path(name)))
