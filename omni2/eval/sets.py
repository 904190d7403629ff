"""Questions and answers of others: a jsonl, json or parquet file, a folder of these, or a hub id, as VoiceBench's.

    {"prompt": "What is the capital of France?", "reference": "Paris", "audio": "sounds/1.wav"}

`reference` is one right answer or a list of them (`output` and `answer` are read as well); `audio`, if there is any, a
path beside the file, or bytes as `datasets` stores them.  Without it the prompt is typed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from omni2.errors import InputError
from omni2.eval.asking import together
from omni2.eval.recognise import normalise, wer
from omni2.eval.report import Figure, Table, share
from omni2.hub import is_hub_id
from omni2.omni import OmniModel

REFERENCES = ("reference", "output", "answer")
JUDGED = "right: a reference's words stand in the answer, after normalising; WER: against the nearest reference"


@dataclass(frozen=True)
class Case:
    """A question, right answers to it, and its sound: a file's bytes or path, None for typed ones."""

    question: str
    references: tuple[str, ...]
    sound: bytes | Path | None


@dataclass(frozen=True)
class Result:
    """What the model said to a case."""

    case: Case
    reply: str

    @property
    def is_right(self) -> bool:
        """Whether the words of a reference stand in the reply, one after the other, after `normalise`."""
        said = f" {normalise(self.reply)} "
        return any(f" {words} " in said for words in map(normalise, self.case.references) if words)

    @property
    def nearest(self) -> str:
        """The reference with the fewest errors."""
        return min(self.case.references, key=lambda text: wer([text], [self.reply]))


def cases(name: str, n: int) -> list[Case]:
    """The first `n` questions of a set: a path, or a hub id with an optional configuration and split (`id:sd-qa:usa`).

    Raises InputError: no such set, damaged, or without prompt or reference.
    """
    folder = Path(name) if Path(name).is_dir() else Path(name).parent
    found = [_case(record, folder) for record in islice(_records(name), n)]
    if not found:
        raise InputError(f"{name} is empty; give questions with prompt and reference")
    return found


def run(model: OmniModel, questions: Sequence[Case]) -> list[Result]:
    """Ask everything; the answers come as text."""

    def one(case: Case) -> Result:
        if case.sound is None:
            return Result(case, model.answer(text=case.question, reply="text").text)
        return Result(case, model.answer(case.sound, reply="text").text)

    return together(one, questions, "asking")


def table(name: str, results: Sequence[Result]) -> Table:
    """The share of right answers and the word error rate of all, and how they were judged."""
    key, count = f"qa.{set_name(name)}", len(results)
    rate = 100 * wer([one.nearest for one in results], [one.reply for one in results])
    figures = [
        Figure(key, f"{set_name(name)}: right", share([one.is_right for one in results]), "%", count),
        Figure(f"{key}.wer", f"{set_name(name)}: WER", rate, "%", count),
    ]
    wrong = (
        f"{one.case.question} → {one.reply} (right: {' | '.join(one.case.references)})"
        for one in results
        if not one.is_right
    )
    return Table(figures, [JUDGED], wrong)


def set_name(name: str) -> str:
    """How a set is called in tables: its configuration, or its file without folder and ending."""
    return name.split(":")[1] if _is_hub(name) and ":" in name else Path(name.split(":")[0]).stem


def _is_hub(name: str) -> bool:
    return not Path(name).exists() and is_hub_id(name.split(":")[0])


def _records(name: str) -> Iterator[Mapping[str, Any]]:
    from omni2.train.data.readers import records

    if not _is_hub(name):
        return records(name, "test")
    repository, _, rest = name.partition(":")
    config, _, split = rest.partition(":")
    return records(repository, split or "test", config or None)


def _case(record: Mapping[str, Any], folder: Path) -> Case:
    question = record.get("prompt") or record.get("question")
    right = next((record[key] for key in REFERENCES if record.get(key)), None)
    references = tuple(map(str, right)) if isinstance(right, list) else (str(right),)
    if not isinstance(question, str) or right is None or not any(map(normalise, references)):
        raise InputError(f"a question needs prompt and reference; there are {', '.join(record)}")
    return Case(question, tuple(filter(normalise, references)), _sound(record.get("audio"), folder))


def _sound(cell: object, folder: Path) -> bytes | Path | None:
    """Bytes as they are, paths beside the file; None for nothing."""
    data = (cell.get("bytes") or cell.get("path")) if isinstance(cell, dict) else cell
    if data is None or isinstance(data, bytes):
        return data
    if not isinstance(data, str) or not (folder / data).is_file():
        raise InputError(f"no sound at {data!r} in {folder}; give a path beside the file, or bytes")
    return folder / data
