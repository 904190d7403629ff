"""Rows on disk: parquet shards in a folder, read whole, by column or streaming, and a manifest that sums them up."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import IterableDataset, load_dataset
from datasets.distributed import split_dataset_by_node
from torch import Tensor

from omni2.errors import InputError, OmniError
from omni2.hub import is_hub_id
from omni2.train.data.schema import FEATURES, Row, pack, unpack

MANIFEST = "manifest.json"
SHUFFLE_BUFFER = 2048  # rows held in memory to shuffle a stream


def shards(folder: Path) -> list[Path]:
    """The shards of a folder, in order."""
    return sorted(folder.glob("rows-*.parquet"))


def shard(folder: Path, number: int) -> Path:
    """Where shard `number` lies."""
    return folder / f"rows-{number:05d}.parquet"


def write_shard(rows: Iterable[Row], path: Path) -> None:
    """Write one shard; a kill leaves it whole or absent."""
    table = pa.Table.from_pylist([pack(row) for row in rows], schema=FEATURES.arrow_schema)
    part = path.with_suffix(".part")
    pq.write_table(table, part, row_group_size=64)  # small groups: a stream holds one at a time
    part.replace(path)


def read_rows(folder: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """All rows of a folder in order; with `columns` only those fields are read, and what every row must have.

    Raises OmniError if the folder holds none.
    """
    needed = None
    if columns is not None:
        widths = {name.replace("features", "width") for name in columns}
        needed = sorted({*columns, *widths & set(FEATURES), "key", "task", "source", "licence", "label"})
    kept: WeakValueDictionary[bytes, Tensor] = WeakValueDictionary()
    for row in map(unpack, _scan(folder, needed)):
        yield _shared(row, kept)


def _shared(row: Row, kept: "WeakValueDictionary[bytes, Tensor]") -> Row:
    """`row` with the features that an earlier row about the same picture, or with the same spoken question, has."""
    if row.picture_features is None:
        return row

    def known(features: Tensor) -> Tensor:
        return kept.setdefault(sha256(features.numpy().tobytes()).digest(), features)

    row = replace(row, picture_features=known(row.picture_features))
    return row if row.question_features is None else replace(row, question_features=known(row.question_features))


def read_columns(folder: Path, *names: str) -> Iterator[dict[str, Any]]:
    """These columns of all rows, as stored.  Raises OmniError if the folder holds no shards."""
    yield from _scan(folder, list(names))


def _scan(folder: Path, names: list[str] | None) -> Iterator[dict[str, Any]]:
    files = shards(folder)
    if not files:
        raise OmniError(f"no shards in {folder}; make them with `omni2 data build`")
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(64, columns=names):
                yield from batch.to_pylist()


def stream(
    names: str | Path | Sequence[str | Path],
    *,
    seed: int | None = None,
    rank: int = 0,
    world: int = 1,
    buffer: int = SHUFFLE_BUFFER,
) -> IterableDataset:
    """The rows of folders and hub ids as an endless-memory stream of columns; `unpack` makes a `Row` of each.

    With a `seed`, shards and rows are shuffled (`set_epoch` changes the order).  Of `world` processes, each gets its
    own share.  The stream's `state_dict` and `load_state_dict` take it up in the middle.
    Raises OmniError: neither a folder with shards nor to be had from the hub.
    """
    files: list[str] = []
    for name in [names] if isinstance(names, str | Path) else names:
        files += _files(name)
    dataset = load_dataset("parquet", data_files=files, split="train", streaming=True, features=FEATURES)
    if seed is not None:
        dataset = dataset.shuffle(seed=seed, buffer_size=buffer)
    return split_dataset_by_node(dataset, rank, world) if world > 1 else dataset


def _files(name: str | Path) -> list[str]:
    """The shards behind a folder's path or a hub id."""
    if is_hub_id(name):
        return [f"hf://datasets/{name}/**/rows-*.parquet"]
    files = [str(path) for path in shards(Path(name))]
    if not files:
        raise OmniError(f"no shards in {name}; make them with `omni2 data build`, or give a folder or a hub id")
    return files


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        whole = sha256()
        while piece := file.read(1 << 20):
            whole.update(piece)
    return whole.hexdigest()


def summarise(folder: Path) -> dict[str, Any]:
    """Count what the shards of `folder` hold and write it as `manifest.json`, which is returned.

    rows, hours of questions and of answers; rows by task, source, licence, voice and label; of every shard rows, bytes
    and SHA-256.  Shards already listed with the same size are not hashed again.
    """
    known = {one["file"]: one for one in read_manifest(folder).get("shards", [])}
    counts = {name: Counter[str]() for name in ("task", "source", "licence", "voice", "label")}
    seconds: Counter[str] = Counter()
    rows = read_columns(folder, *counts, "question_seconds", "answer_seconds") if shards(folder) else ()
    for row in rows:
        for name, counter in counts.items():
            counter[row[name]] += 1
        seconds["questions"] += row["question_seconds"]
        seconds["answers"] += row["answer_seconds"]
    listed = []
    for path in shards(folder):
        size = path.stat().st_size
        one = known.get(path.name)
        if one is None or one["bytes"] != size:
            one = {"file": path.name, "rows": pq.read_metadata(path).num_rows, "bytes": size, "sha256": digest(path)}
        listed.append(one)
    manifest: dict[str, Any] = {
        "rows": sum(one["rows"] for one in listed),
        "hours": {name: round(value / 3600, 4) for name, value in seconds.items()},
        **{f"{name}s": {k: n for k, n in sorted(counter.items()) if k} for name, counter in counts.items()},
        "shards": listed,
    }
    part = folder / f"{MANIFEST}.part"
    part.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    part.replace(folder / MANIFEST)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `summarise` wrote, empty where it has not.  Raises InputError if the file is damaged."""
    file = folder / MANIFEST
    if not file.exists():
        return {}
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is damaged; delete it and build again: {error}") from error
    return manifest
