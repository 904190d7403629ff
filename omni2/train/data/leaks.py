"""Keeps what a model is measured with out of what it is trained on: voices, phrasings, sentences, files.

Files are known by their SHA-256: a recording that was cut or encoded again is not recognised.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq

from omni2.errors import OmniError
from omni2.train.data.followups import followups
from omni2.train.data.questions import corpus, normalise, unknown
from omni2.train.data.reserved import made_texts
from omni2.train.data.schema import Row
from omni2.train.data.sentences import WORDNET, definitions, examples, split
from omni2.train.data.store import digest, read_manifest, read_rows, shards
from omni2.train.data.voices import RESERVED

SHOWN = 5  # findings in an error message
PACKAGE = Path(__file__).parents[2]
EVALUATION = (PACKAGE / "eval", PACKAGE / "assets" / "drawings")  # bundled recordings and pictures
CODE = {".py", ".pyc", ".json", ".md"}


class Guard:
    """Says of a row why it must not be trained on.  `files` are evaluation files and folders besides the bundled ones.

    Raises OmniError: one of `files` does not exist.
    """

    def __init__(self, files: Iterable[Path] = ()) -> None:
        missing = [str(path) for path in files if not path.exists()]
        if missing:
            raise OmniError(f"{missing[0]} does not exist; give the files and folders kept for evaluation")
        self.hashes = {digest(path) for folder in (*EVALUATION, *files) for path in _files(folder)}

    def reason(self, row: Row) -> str:
        """Why `row` belongs to evaluation, "" if it does not."""
        if row.voice in RESERVED:
            return f"the voice {row.voice} is kept for evaluation"
        if row.sha256 and row.sha256 in self.hashes:
            return "its recording or picture is kept for evaluation"
        text = row.question_text or row.answer_text
        if text and normalise(text) in reserved_texts():
            return f"{text!r} is kept for evaluation"
        return ""


def _files(folder: Path) -> list[Path]:
    """Every sound, picture and data file in a folder, or the file itself."""
    if folder.is_file():
        return [folder]
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix not in CODE]


@cache
def reserved_texts() -> frozenset[str]:
    """All test phrasings of the corpus, the texts made to measure with, the held-out dictionary sentences; normalised.

    The sentences only where the dictionary is installed: without it none can be trained on either.
    """
    texts = [text for item in (*corpus(), unknown()) for text in item.test] + made_texts()
    texts += [one.question for one in followups("test")]
    if WORDNET.exists():
        texts += split(definitions())[1] + split(examples())[1]
    return frozenset(normalise(text) for text in texts)


def check(folder: Path, guard: Guard) -> int:
    """Hold every row of `folder` against `guard` and its files against their manifest; returns the number of rows.

    Raises OmniError, with the first findings: a row that belongs to evaluation, a key that is there twice, a shard
    that the manifest does not list or whose hash is another.
    """
    findings, keys = _damaged(folder), set[str]()
    for row in read_rows(folder, ["voice", "sha256", "question_text", "answer_text"]):
        reason = guard.reason(row)
        if reason:
            findings.append(f"row {row.key}: {reason}")
        if row.key in keys:
            findings.append(f"row {row.key} is there twice")
        keys.add(row.key)
    if findings:
        more = f"; and {len(findings) - SHOWN} more" if len(findings) > SHOWN else ""
        raise OmniError(f"{folder}: {'; '.join(findings[:SHOWN])}{more}")
    return len(keys)


def _damaged(folder: Path) -> list[str]:
    listed = {one["file"]: one for one in read_manifest(folder).get("shards", [])}
    findings = [f"{name} is missing" for name in listed if not (folder / name).exists()]
    for path in shards(folder):
        one = listed.get(path.name)
        if one is None:
            findings.append(f"{path.name} is not in the manifest; finish the build")
        elif one["sha256"] != digest(path) or one["rows"] != pq.read_metadata(path).num_rows:
            findings.append(f"{path.name} is not what the manifest says")
    return findings
