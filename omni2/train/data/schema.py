"""What a training sample is: one turn a row, the same columns whatever the task.

    answer      a question, spoken and typed, and its answer in words and codes
    transcribe  speech and its words
    read        a sentence and the same sentence spoken by the answer voice
    see         as answer, with a picture; without a question the answer describes it
    listen      the last seconds of a microphone and whether to stop: `label`

A row of "answer" or "see" without `answer_codes` may find them in the row of "read" with the same `answer_text`: an
answer given to many questions is spoken once.  Columns that a row does not use are None (bytes, tensors) or "" (text).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from typing import Any, Literal, get_args

import numpy as np
import torch
from datasets import Features, List, Value
from torch import Tensor

from omni2.errors import InputError

Task = Literal["answer", "transcribe", "read", "see", "listen"]
Label = Literal["", "irq", "n-irq"]

CODES = 7  # of a frame, in codebook order

FEATURES = Features(
    {
        "key": Value("string"),
        "task": Value("string"),
        "source": Value("string"),
        "licence": Value("string"),
        "topic": Value("string"),
        "sha256": Value("string"),
        "voice": Value("string"),
        "question_text": Value("string"),
        "question_audio": Value("binary"),
        "question_seconds": Value("float32"),
        "question_features": Value("binary"),
        "question_width": Value("int32"),
        "picture": Value("binary"),
        "picture_features": Value("binary"),
        "picture_width": Value("int32"),
        "answer_text": Value("string"),
        "answer_audio": Value("binary"),
        "answer_seconds": Value("float32"),
        "answer_codes": List(List(Value("int16"))),
        "answer_starts": List(Value("float32")),
        "label": Value("string"),
        "history": List(List(Value("string"))),
    }
)
HEAVY = frozenset({"question_audio", "question_features", "picture", "picture_features", "answer_audio"})


@dataclass(frozen=True)
class Row:
    """One turn.

    key                unique among the rows of a folder; says which sample of the source it is
    source, licence    where it comes from, and under which terms
    topic              a group within the source, "" if it has none
    sha256             of the recording or picture file the row was made from, "" for a row without
    voice              who asks, "" for a question that is only typed; of "read" rows who answers
    question_audio     an encoded sound file (FLAC, mono, 16 kHz when made here), kept until there are features
    question_features  (frames, width) float16, 50 frames a second, of the audio encoder
    picture            an encoded picture file, kept until there are features
    picture_features   (positions, width) float16 of the vision encoder
    answer_audio       a sound file (FLAC, mono, 24 kHz when made here), kept until there are codes
    answer_codes       (n, 7) int64 of the codec, in codebook order
    answer_starts      seconds into the answer's sound at which each of its words (between blanks) begins, if known
    label              of "listen" rows alone
    history            the turns before this one, each a question in words and its answer
    *_seconds          lengths of the sounds, 0 without
    """

    key: str
    task: Task
    source: str
    licence: str
    topic: str = ""
    sha256: str = ""
    voice: str = ""
    question_text: str = ""
    question_audio: bytes | None = None
    question_seconds: float = 0.0
    question_features: Tensor | None = None
    picture: bytes | None = None
    picture_features: Tensor | None = None
    answer_text: str = ""
    answer_audio: bytes | None = None
    answer_seconds: float = 0.0
    answer_codes: Tensor | None = None
    answer_starts: tuple[float, ...] | None = None
    label: Label = ""
    history: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.task not in get_args(Task):
            raise InputError(f"no task {self.task!r}; there are {', '.join(get_args(Task))}")
        if (self.task == "listen") != bool(self.label) or self.label not in get_args(Label):
            raise InputError(f"a row of {self.task!r} with the label {self.label!r}")
        if self.answer_starts is not None and len(self.answer_starts) != len(self.answer_text.split()):
            raise InputError(f"{len(self.answer_starts)} starts of words for {self.answer_text!r}")


def keyed(row: Row, turn: int = 0) -> Row:
    """`row` with a key made of its source and contents: the same sample has it again, two of a source never share it.

    `turn` tells apart the rows of a sample that is spoken several times.
    """
    said = [text for turn in row.history for text in turn]
    contents = "\0".join((row.task, row.topic, row.question_text, row.answer_text, row.sha256, row.label, *said))
    name = f"{row.source}/{sha256(contents.encode()).hexdigest()[:20]}"
    return replace(row, key=f"{name}#{turn}" if turn else name)


def pack(row: Row) -> dict[str, Any]:
    """The columns of a row, as `FEATURES` declares them."""
    columns = {field.name: getattr(row, field.name) for field in fields(row)}
    for part in ("question", "picture"):
        tensor: Tensor | None = columns[f"{part}_features"]
        columns[f"{part}_width"] = 0 if tensor is None else tensor.shape[1]
        if tensor is not None:
            columns[f"{part}_features"] = tensor.detach().to("cpu", torch.float16).contiguous().numpy().tobytes()
    if row.answer_codes is not None:
        columns["answer_codes"] = row.answer_codes.tolist()
    return columns


def unpack(columns: Mapping[str, Any]) -> Row:
    """A row out of its columns; those that were not read count as empty.

    Raises InputError: features or codes whose sizes do not fit.
    """
    known = {field.name for field in fields(Row)}
    values = {name: value for name, value in columns.items() if name in known and value is not None}
    for part in ("question", "picture"):
        name = f"{part}_features"
        if name in values:
            values[name] = _matrix(values[name], int(columns[f"{part}_width"]), str(columns["key"]))
    if "answer_codes" in values:
        codes = torch.tensor(values["answer_codes"], dtype=torch.int64).reshape(-1, len(values["answer_codes"][0]))
        if codes.shape[1] != CODES:
            raise InputError(f"frames of {codes.shape[1]} codes in row {columns['key']}, not of {CODES}")
        values["answer_codes"] = codes
    if "answer_starts" in values:
        values["answer_starts"] = tuple(values["answer_starts"])
    values["history"] = tuple((question, answer) for question, answer in values.get("history", ()))
    return Row(**values)


def _matrix(data: bytes, width: int, key: str) -> Tensor:
    if width <= 0 or len(data) % (2 * width):
        raise InputError(f"{len(data)} bytes of float16 features in row {key} are no rows of {width}")
    return torch.from_numpy(np.frombuffer(data, np.float16).reshape(-1, width).copy())
