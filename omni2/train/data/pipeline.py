"""Rows in, rows out, into shards: in several processes, taken up where it stopped, refusing what belongs to evaluation.

make(own_rows("corpus"), Path("data/corpus"), [Speak(TRAINING, ANSWER), Encode("nano")], workers=2)
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from omni2.errors import InputError, OmniError
from omni2.train.data.leaks import Guard
from omni2.train.data.schema import Row, keyed, pack, unpack
from omni2.train.data.store import read_columns, shard, shards, summarise, write_shard

SIZE = 256  # rows a shard
SKIPPED = "skipped.jsonl"

Step = Callable[[Row], Row]


@dataclass(frozen=True)
class Skipped:
    """A sample that becomes no row, and why."""

    key: str
    reason: str


Job = tuple[list[dict[str, Any]], tuple[Step, ...], Path]  # columns, not rows: tensors would travel as open files


def make(
    rows: Iterable[Row | Skipped],
    folder: Path,
    steps: Sequence[Step],
    *,
    workers: int = 1,
    size: int = SIZE,
    total: int | None = None,
    guard: Guard | None = None,
) -> dict[str, Any]:
    """Send `rows` through `steps` into shards of `folder` and return its manifest.

    Rows whose keys `folder` already holds are passed over, so a killed run loses at most the shards it was writing,
    and goes on with the same result: steps depend on the row alone.  Rows that `guard` refuses or that a step finds
    unusable are listed in `skipped.jsonl` and not tried again.  `total` is for the progress bar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.part"):
        stale.unlink()
    guard = Guard() if guard is None else guard
    done = {one["key"] for one in read_columns(folder, "key")} if shards(folder) else set()
    done |= _skipped_keys(folder)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        (folder / SKIPPED).open("a", encoding="utf-8") as skipped,
        Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as progress,
    ):
        bar = progress.add_task(folder.name, total=total)

        def skip(one: Skipped) -> None:
            skipped.write(json.dumps({"key": one.key, "reason": one.reason}) + "\n")
            skipped.flush()
            progress.advance(bar)

        def fresh() -> Iterator[Row]:
            for row in rows:
                if row.key in done:
                    progress.advance(bar)
                    continue
                done.add(row.key)
                reason = row.reason if isinstance(row, Skipped) else guard.reason(row)
                if isinstance(row, Row) and not reason:
                    yield row
                else:
                    skip(Skipped(row.key, reason))

        for made, dropped in _run(_jobs(fresh(), folder, tuple(steps), size), workers):
            progress.advance(bar, made)
            for one in dropped:
                skip(one)
    return summarise(folder)


def repeat(source: Callable[[], Iterable[Row | Skipped]], passes: int) -> Iterator[Row | Skipped]:
    """All samples of a source, then all again under other keys, `passes` times: to be spoken in other voices."""
    for turn in range(passes):
        for row in source():
            if isinstance(row, Row):
                yield keyed(row, turn)
            elif not turn:
                yield row


def _jobs(rows: Iterator[Row], folder: Path, steps: tuple[Step, ...], size: int) -> Iterator[Job]:
    number = 1 + max((int(path.stem.split("-")[1]) for path in shards(folder)), default=-1)
    while chunk := list(islice(rows, size)):
        yield [pack(row) for row in chunk], steps, shard(folder, number)
        number += 1


def _run(jobs: Iterator[Job], workers: int) -> Iterator[tuple[int, list[Skipped]]]:
    """What `_work` returns for each job, in any order; at most two jobs a worker are held in memory."""
    if workers == 1:
        yield from map(_work, jobs)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin) as pool:
        waiting: set[Future[tuple[int, list[Skipped]]]] = set()
        while True:
            waiting |= {pool.submit(_work, job) for job in islice(jobs, 2 * workers - len(waiting))}
            if not waiting:
                return
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                try:
                    yield future.result()
                except BrokenProcessPool as error:
                    raise OmniError("a process died, perhaps for want of memory; use fewer workers") from error


def end_with_parent() -> None:
    """End this process as soon as its parent has: whoever killed that may start the next run into the same folder."""
    Thread(target=_follow, daemon=True).start()


def _begin() -> None:
    torch.set_num_threads(1)
    end_with_parent()


def _follow() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(job: Job) -> tuple[int, list[Skipped]]:
    """Make one shard: how many rows it got, and those it did not."""
    rows, steps, path = job
    made, dropped = [], []
    for columns in rows:
        try:
            row = unpack(columns)
            for step in steps:
                row = step(row)
            made.append(row)
        except InputError as error:
            dropped.append(Skipped(columns["key"], " ".join(str(error).split())))
    if made:
        write_shard(made, path)
    return len(made), dropped


def _skipped_keys(folder: Path) -> set[str]:
    """Keys in `skipped.jsonl`; a last line cut short by a kill is not one."""
    file = folder / SKIPPED
    if not file.exists():
        return set()
    text = file.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole, encoding="utf-8")
    return {json.loads(line)["key"] for line in whole.splitlines()}
