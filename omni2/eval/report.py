"""Figures and tables: what every evaluation ends in, as Markdown and as JSON."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omni2.errors import InputError
from omni2.eval.targets import RELEASED, TARGETS, Target

MARKS = ("<!-- nano-table -->", "<!-- /nano-table -->")
T = TypeVar("T")


@dataclass(frozen=True)
class Figure:
    """One number: its `key` among targets and published figures, what it is, its unit ("%", "s" …), of how many cases.

    A `detail` stays out of the table of `omni2 eval all`.
    """

    key: str
    what: str
    value: float
    unit: str = ""
    count: int | None = None
    detail: bool = False

    @property
    def target(self) -> Target | None:
        """What is to be reached, if anything is."""
        return TARGETS.get(self.key)

    @property
    def reached(self) -> bool | None:
        """Whether it is; None without a target."""
        return None if self.target is None else self.target.reached(self.value)

    def __str__(self) -> str:
        digits = 1 if self.unit == "%" else 0 if self.value == int(self.value) or self.value >= 100 else 3
        return f"{self.value:.{digits}f} {self.unit}".strip()


CELLS: Mapping[str, Callable[[Figure], str]] = {
    "what": lambda one: one.what if one.count is None else f"{one.what} ({one.count})",
    "figure": str,
    "target": lambda one: str(one.target or ""),
    "reached": lambda one: {None: "", True: "yes", False: "**no**"}[one.reached],
    "released models": lambda one: RELEASED.get(one.key, ""),
}


@dataclass(frozen=True)
class Table:
    """The figures of one evaluation, notes to stand under them, and a line for each wrong answer, made when read."""

    figures: list[Figure]
    notes: list[str] = field(default_factory=list)
    wrong: Iterable[str] = ()


def joined(tables: Sequence[Table]) -> Table:
    """One table of several, without details."""
    return Table(
        [figure for table in tables for figure in table.figures if not figure.detail],
        [note for table in tables for note in table.notes],
        (line for table in tables for line in table.wrong),
    )


def markdown(table: Table, columns: Sequence[str] = ()) -> str:
    """The table in Markdown, and its notes as a list; by default without columns that would be empty."""
    cells = {name: [cell(figure) for figure in table.figures] for name, cell in CELLS.items()}
    shown = columns or [name for name, column in cells.items() if any(column)]
    rows = [shown, ["---"] * len(shown), *zip(*(cells[name] for name in shown), strict=True)] if shown else []
    notes = ["", *(f"- {note}" for note in table.notes)] if table.notes else []
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), *notes]).strip("\n")


def refreshed(old: str, table: Table) -> str:
    """`old`, what `markdown` gave of more, with the rows and notes of `table` in the place of its own.

    A row takes the place of that of the same name, one without stays out; the notes take that of all whose first word
    is theirs.  Where `old` has no rows, all are put.
    """
    rows, notes = _parts(old.splitlines())
    if not rows:
        return markdown(table)
    new_rows, new_notes = _parts(markdown(table, [name for name in _row(rows[0]) if name in CELLS]).splitlines())
    new = dict(_named(new_rows))
    shown = [new.get(name, line) for name, line in _named(rows)]
    kinds = by(new_notes, _kind)
    told = [kinds.get(kind, its) for kind, its in by(notes, _kind).items()]
    return "\n".join([*shown, *([""] if told else []), *(note for its in told for note in its)])


def _parts(lines: Sequence[str]) -> tuple[list[str], list[str]]:
    """The rows of a table, and the notes below it."""
    return [line for line in lines if line.startswith("|")], [line for line in lines if line.startswith("-")]


def _kind(note: str) -> str:
    return note.split()[1]


def _named(rows: Sequence[str]) -> Iterator[tuple[tuple[str, str], str]]:
    """Each row with a name: what it is about, and where that begins with … the row before."""
    above = ""
    for row in rows:
        what = re.sub(r" \(\d[^()]*\)$", "", _row(row)[0])
        above = above if what.startswith("…") else what
        yield (above, what), row


def _row(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def as_json(table: Table) -> dict[str, Any]:
    """The table as an object of JSON: all figures with their targets, and the notes."""
    figures = [
        {
            "key": figure.key,
            "what": figure.what,
            "value": figure.value,
            "unit": figure.unit,
            "count": figure.count,
            "target": str(figure.target) if figure.target else None,
            "reached": figure.reached,
            "released": RELEASED.get(figure.key),
        }
        for figure in table.figures
    ]
    return {"type": "evaluation", "figures": figures, "notes": table.notes}


def share(hits: Sequence[bool]) -> float:
    """The true ones in percent; 0 of none."""
    return 100 * sum(hits) / max(len(hits), 1)


def by(items: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    """The items under their keys, in the order of appearance."""
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def put_table(file: Path, change: Callable[[str], str]) -> None:
    """Change what stands between the marks in `file`.  Raises InputError if they are not there."""
    old = file.read_text(encoding="utf-8")
    start, end = MARKS
    if start not in old or end not in old:
        raise InputError(f"{file} has no {start} … {end}")
    before, _, rest = old.partition(start)
    table, _, after = rest.partition(end)
    file.write_text(f"{before}{start}\n{change(table)}\n{end}{after}", encoding="utf-8")
