"""Other people's data as rows: tables of questions and answers, spoken questions, pictures, read-aloud speech.

The layout of a table is known by its columns:

    question, answer                              any text set; other column names can be given
    system_prompt, question, response             Open-Orca
    plain_text or chat                            MOSS-002, MOSS-003: the first turn of each conversation
    question_audio, answer, answer_snac           VoiceAssistant-400K
    image, conversations                          ALLaVA-4V, LLaVA: the first turn, or the caption
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from datasets import Audio, Image, load_dataset
from torch import Tensor

from omni2.errors import InputError
from omni2.hub import is_hub_id
from omni2.tokens import FRAME_ORDER
from omni2.train.data.pipeline import Skipped
from omni2.train.data.schema import Row, keyed

Record = Mapping[str, Any]

TRANSCRIPTS = ("*.trans.txt", "*.normalized.txt")  # of LibriSpeech, of LibriTTS
TABLES = (".json", ".jsonl", ".parquet")
SNAC_FRAME = 2048 / 24_000  # seconds

_TURN = re.compile(r"\[Human\]:(.*?)(?:<eoh>\s*)?\[MOSS\]:(.*?)(?:<eoa>|\[Human\]:|$)", re.DOTALL)
_MARK = re.compile(r"<\|\w+\|>:?|<eo[a-z]>")
_UNSPEAKABLE = re.compile(r"[{}\[\]<>|\\^~`#*_=]|https?:")


@dataclass(frozen=True)
class Table:
    """How to read a table.

    `question` and `answer` name the columns of a plain text set.  Text of more words is left out, and so is what cannot
    be read aloud (code, tables, links).  `pictures` is the folder that a picture's path begins in; by default the
    table's own or the one above.
    """

    name: str
    split: str = "train"
    question: str = "question"
    answer: str = "answer"
    licence: str = ""
    max_question_words: int = 60
    max_answer_words: int = 100
    pictures: Path | None = None

    def rows(self) -> Iterator[Row | Skipped]:
        """One row a record; `Skipped` for records that cannot be used.

        Raises InputError: no such table, damaged, or of a layout that is not known.
        """
        layout: Callable[[Record], Row] | None = None
        for index, record in enumerate(records(self.name, self.split)):
            layout = layout or self._layout(record)
            try:
                row = layout(record)
                self._check(row)
            except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
                yield Skipped(f"{self.name}/{self.split}/{index}", f"{type(error).__name__}: {error}")
                continue
            yield keyed(row)

    def _layout(self, record: Record) -> Callable[[Record], Row]:
        """How records with these columns are read."""
        layouts: list[tuple[set[str], Callable[[Record], Row]]] = [
            ({"answer_snac", "answer"}, self._voice_assistant),
            ({"system_prompt", "question", "response"}, self._open_orca),
            ({"plain_text"}, self._moss),
            ({"chat"}, self._moss),
            ({"conversations"}, self._picture),
            ({self.question, self.answer}, self._plain),
        ]
        for columns, layout in layouts:
            if columns <= record.keys():
                return layout
        raise InputError(
            f"{self.name} has the columns {', '.join(record)}; name those of question and answer (--question, --answer)"
        )

    def _check(self, row: Row) -> None:
        for text, most in ((row.question_text, self.max_question_words), (row.answer_text, self.max_answer_words)):
            if len(text.split()) > most:
                raise InputError(f"{len(text.split())} words, more than {most}")
            if _UNSPEAKABLE.search(text):
                raise InputError("text that cannot be read aloud")
        if not row.answer_text:
            raise InputError("no answer")

    def _answer(self, question: str, answer: str, licence: str) -> Row:
        if not question.strip():
            raise InputError("no question")
        source, terms = self._origin(licence)
        return Row("", "answer", source, terms, question_text=question.strip(), answer_text=answer.strip())

    def _origin(self, licence: str) -> tuple[str, str]:
        """The table's name without its folder, and its licence."""
        name = self.name if is_hub_id(self.name) else Path(self.name).name
        return name, self.licence or licence

    def _plain(self, record: Record) -> Row:
        return self._answer(record[self.question], record[self.answer], "unknown")

    def _open_orca(self, record: Record) -> Row:
        return self._answer(record["question"], record["response"], "MIT")

    def _moss(self, record: Record) -> Row:
        if "chat" in record:
            turn = record["chat"]["turn_1"]
            question, answer = (_MARK.sub("", turn[who]) for who in ("Human", "MOSS"))
        else:
            found = _TURN.search(record["plain_text"])
            if not found:
                raise InputError("no turn of [Human] and [MOSS]")
            question, answer = found.groups()
        return self._answer(question, answer, "CC-BY-4.0")

    def _voice_assistant(self, record: Record) -> Row:
        source, terms = self._origin("Apache-2.0")
        sound = _file(record["question_audio"])
        codes = parse_snac(record["answer_snac"])
        return Row(
            "",
            "answer",
            source,
            terms,
            topic=str(record.get("split_name") or ""),
            sha256=sha256(sound).hexdigest(),
            voice=source,
            question_text=record["question"].strip(),
            question_audio=sound,
            answer_text=record["answer"].strip(),
            answer_codes=codes,
            answer_seconds=len(codes) * SNAC_FRAME,
        )

    def _picture(self, record: Record) -> Row:
        source, terms = self._origin("CC-BY-NC-4.0")
        turns: dict[str, str] = {}
        for turn in record["conversations"]:
            turns.setdefault(turn["from"], turn["value"])
        data = self._read_picture(record["image"])
        question = turns["human"].replace("<image>", "").strip()
        answer = turns["gpt"].strip()
        hashed = sha256(data).hexdigest()
        return Row("", "see", source, terms, sha256=hashed, question_text=question, picture=data, answer_text=answer)

    def _read_picture(self, picture: object) -> bytes:
        if not isinstance(picture, str):
            return _file(picture)
        table = Path(self.name)
        folders = [self.pictures] if self.pictures else [table.parent, table.parent.parent]
        for folder in folders:
            if (folder / picture).is_file():
                return (folder / picture).read_bytes()
        raise InputError(f"{picture} is not in {' or '.join(map(str, folders))}")


def parse_snac(text: str) -> Tensor:
    """VoiceAssistant-400K's codes, "# a b c d e f g # …", seven a frame in the order of the audio layers.

    → (n, 7) int64 in codebook order.  Raises InputError: not whole frames.
    """
    frames = [frame.split() for frame in text.split("#") if frame.strip()]
    if {len(frame) for frame in frames} != {len(FRAME_ORDER)} or not all(map(str.isdecimal, chain(*frames))):
        raise InputError(f"{text[:40]!r} is no sequence of frames of {len(FRAME_ORDER)} codes")
    return torch.tensor([[int(code) for code in frame] for frame in frames])[:, list(FRAME_ORDER)]


def records(name: str, split: str, config: str | None = None) -> Iterator[Record]:
    """The records of a json, jsonl or parquet file, of a folder of these, or of a hub id; sounds and pictures as files.

    `split` and `config` (of those that the set has) are for hub ids.
    Raises InputError: no such file or set, or damaged.
    """
    path = Path(name)
    if is_hub_id(name):
        yield from _hub_records(name, split, config)
        return
    files = (
        [path] if path.is_file() else sorted(p for p in path.glob("*") if p.suffix in (".json", ".jsonl", ".parquet"))
    )
    if not files:
        raise InputError(f"no table in {name}; give a json, jsonl or parquet file, a folder of them, or a hub id")
    for file in files:
        try:
            if file.suffix == ".parquet":
                with pq.ParquetFile(file) as table:
                    for batch in table.iter_batches(64):
                        yield from batch.to_pylist()
            elif file.suffix == ".json":
                yield from json.loads(file.read_text(encoding="utf-8"))
            else:
                with file.open(encoding="utf-8") as lines:
                    yield from (json.loads(line) for line in lines if line.strip())
        except (ValueError, OSError) as error:
            raise InputError(f"cannot read {file}: {' '.join(str(error).split())}") from error


def _hub_records(name: str, split: str, config: str | None) -> Iterator[Record]:
    dataset = load_dataset(name, split=split, streaming=True, **({"name": config} if config else {}))
    for column, feature in (dataset.features or {}).items():
        if isinstance(feature, Audio | Image):
            dataset = dataset.cast_column(column, type(feature)(decode=False))
    yield from dataset


def _file(cell: object) -> bytes:
    """The bytes of a sound or picture column: as `datasets` stores them, or plain."""
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(data, bytes):
        raise InputError("a sound or picture column without bytes")
    return data


def is_speech_folder(folder: Path) -> bool:
    """Whether `speech_folder` can read it."""
    return any(next(folder.rglob(pattern), None) for pattern in TRANSCRIPTS)


def speech_folder(folder: Path) -> Iterator[Row | Skipped]:
    """Recordings with their words, laid out as LibriSpeech (`*.trans.txt`) or LibriTTS (`*.normalized.txt`).

    LibriSpeech's words are in capitals; they become lower case with a capital at the start and a full stop.
    Raises InputError: neither layout.
    """
    transcripts, texts = (sorted(folder.rglob(pattern)) for pattern in TRANSCRIPTS)
    if not transcripts and not texts:
        raise InputError(f"no *.trans.txt (LibriSpeech) and no *.normalized.txt (LibriTTS) below {folder}")
    for file in transcripts:
        for line in file.read_text(encoding="utf-8").splitlines():
            name, _, words = line.partition(" ")
            yield _recording(file.parent / f"{name}.flac", words.capitalize() + ".", "LibriSpeech")
    for file in texts:
        name = file.name.removesuffix(".normalized.txt")
        yield _recording(file.with_name(f"{name}.wav"), file.read_text(encoding="utf-8").strip(), "LibriTTS")


def _recording(file: Path, text: str, source: str) -> Row | Skipped:
    key = f"{source}/{file.stem}"
    if not file.is_file():
        return Skipped(key, f"{file.name} is missing")
    data = file.read_bytes()
    row = Row(
        "",
        "transcribe",
        source,
        "CC-BY-4.0",
        sha256=sha256(data).hexdigest(),
        voice=f"{source}-{file.stem.replace('_', '-').split('-')[0]}",
        question_text=text,
        question_audio=data,
    )
    return keyed(row)
