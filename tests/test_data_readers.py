"""Other people's data, in small files laid out as theirs."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Audio, Features, Value, load_dataset
from PIL import Image
from toys import photo, tone

from omni2.errors import InputError
from omni2.tokens import AUDIO_LAYERS, DelayLine
from omni2.train.data import readers
from omni2.train.data.pipeline import Skipped
from omni2.train.data.readers import Table, parse_snac, speech_folder
from omni2.train.data.schema import Row
from omni2.train.data.sound import flac


def jsonl(path: Path, records: list[object]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def rows(table: Table) -> list[Row]:
    found = list(table.rows())
    assert all(isinstance(row, Row) for row in found), found
    return found


def said(table: Table) -> list[tuple[str, str]]:
    return [(row.question_text, row.answer_text) for row in rows(table)]


def test_plain_tables_of_any_format_and_columns(tmp_path: Path) -> None:
    records = [{"q": "Who?", "a": "Me."}, {"q": " Where? ", "a": "Here."}]
    expected = [("Who?", "Me."), ("Where?", "Here.")]
    lines = jsonl(tmp_path / "t.jsonl", records)
    (tmp_path / "t.json").write_text(json.dumps(records))
    (tmp_path / "folder").mkdir()
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "folder" / "t.parquet")
    for name in (lines, str(tmp_path / "t.json"), str(tmp_path / "folder")):
        assert said(Table(name, question="q", answer="a")) == expected
    first = rows(Table(lines, question="q", answer="a", licence="CC0"))[0]
    assert (first.task, first.source, first.licence, first.voice) == ("answer", "t.jsonl", "CC0", "")
    assert rows(Table(lines, question="q", answer="a"))[0].licence == "unknown"
    with pytest.raises(InputError, match="has the columns q, a"):
        list(Table(lines).rows())


def test_open_orca_and_moss_are_known(tmp_path: Path) -> None:
    orca = {"id": "1", "system_prompt": "Be brief.", "question": "Who?", "response": "Me."}
    assert said(Table(jsonl(tmp_path / "o.jsonl", [orca]))) == [("Who?", "Me.")]
    assert rows(Table(str(tmp_path / "o.jsonl")))[0].licence == "MIT"
    plain = "MOSS is an AI. [Human]: Who are you?<eoh> [MOSS]: I am MOSS.<eoa> [Human]: Why?<eoh> [MOSS]: So.<eoa>"
    chat = {"turn_1": {"Human": "<|Human|>: Hi there.<eoh>\n", "MOSS": "<|MOSS|>: Hello!<eom>\n"}}
    assert said(Table(jsonl(tmp_path / "2.jsonl", [{"plain_text": plain}]))) == [("Who are you?", "I am MOSS.")]
    assert said(Table(jsonl(tmp_path / "3.jsonl", [{"chat": chat}]))) == [("Hi there.", "Hello!")]


def test_what_cannot_be_said_is_skipped_with_its_reason(tmp_path: Path) -> None:
    records = [
        {"question": "Fine?", "answer": "Fine."},
        {"question": "Long?", "answer": "word " * 101},
        {"question": "Code?", "answer": "print[0] = {}"},
        {"question": "", "answer": "Nothing asked."},
        {"question": "No answer?", "answer": " "},
        {"question": None, "answer": "None asked."},
        {"answer": "A column lacks."},
    ]
    table = Table(jsonl(tmp_path / "t.jsonl", records))
    found = list(table.rows())
    assert [type(one) for one in found] == [Row] + [Skipped] * 6
    reasons = [one.reason for one in found if isinstance(one, Skipped)]
    for reason, word in zip(
        reasons, ("101 words", "read aloud", "no question", "no answer", "None", "question"), strict=True
    ):
        assert word in reason
    assert len({one.key for one in found}) == 7
    (tmp_path / "t.jsonl").write_text('{"question": "Cut')
    with pytest.raises(InputError, match="cannot read"):
        list(table.rows())


def test_snac_strings_come_in_the_order_of_the_layers() -> None:
    frames = parse_snac("# 10 11 12 13 14 15 16 # 20 21 22 23 24 25 26 #")
    assert frames.tolist() == [[10, 11, 14, 12, 13, 15, 16], [20, 21, 24, 22, 23, 25, 26]]
    line, decoded = DelayLine(), []
    layers = [[10 * (k + 1) + j for k in range(2)] for j in range(AUDIO_LAYERS)]  # what the layers emit, undelayed
    for step in range(2 + AUDIO_LAYERS):
        decoded.append(
            line.push([layers[j][step - j - 1] if 0 <= step - j - 1 < 2 else -1 for j in range(AUDIO_LAYERS)])
        )
    assert [list(frame) for frame in decoded if frame] == frames.tolist()
    for wrong in ("", "# 1 2 3", "# a b c d e f g"):
        with pytest.raises(InputError, match="no sequence of frames"):
            parse_snac(wrong)


def test_voice_assistant_rows(tmp_path: Path) -> None:
    sound = flac(tone(0.3), 22_050)
    record = {
        "split_name": "qa", "index": "7", "round": "0", "question": "Who?", "answer": "Me.",
        "question_audio": {"bytes": sound, "path": ""}, "answer_snac": "# 1 2 3 4 5 6 7 # 1 2 3 4 5 6 7",
    }  # fmt: skip
    pq.write_table(pa.Table.from_pylist([record, record | {"answer_snac": "# 1 2"}]), tmp_path / "va.parquet")
    row, broken = Table(str(tmp_path / "va.parquet")).rows()
    assert isinstance(row, Row)
    assert (row.question_text, row.answer_text, row.topic, row.licence) == ("Who?", "Me.", "qa", "Apache-2.0")
    assert row.question_audio == sound
    assert torch.equal(row.answer_codes, parse_snac(record["answer_snac"]))
    assert row.answer_seconds == pytest.approx(2 * 0.0853, abs=1e-3)
    assert isinstance(broken, Skipped)


def test_pictures_with_conversations(tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.fromarray(photo()).save(out, "PNG")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(out.getvalue())
    talk = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}]
    more = [*talk, {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]
    caption = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "A cat on a mat."}]
    records = [
        {"id": "1", "image": "images/1.png", "conversations": more},
        {"id": "2", "image": "images/1.png", "conversations": caption},
        {"id": "3", "image": "images/lost.png", "conversations": talk},
    ]
    (tmp_path / "allava.json").write_text(json.dumps(records))
    asked, described, lost = Table(str(tmp_path / "allava.json")).rows()
    assert (asked.task, asked.question_text, asked.answer_text) == ("see", "What is it?", "A cat.")
    assert asked.picture == out.getvalue()
    assert (described.question_text, described.answer_text) == ("", "A cat on a mat.")
    assert "lost.png is not in" in lost.reason
    (tmp_path / "deeper").mkdir()
    deep = jsonl(tmp_path / "deeper" / "a.jsonl", records[:1])
    assert rows(Table(deep))[0].picture == out.getvalue()
    assert "is not in" in next(Table(deep, pictures=tmp_path / "elsewhere").rows()).reason


def test_speech_folders(tmp_path: Path) -> None:
    libri = tmp_path / "LibriSpeech" / "84" / "121123"
    libri.mkdir(parents=True)
    (libri / "84-121123-0000.flac").write_bytes(flac(tone(0.3), 16_000))
    (libri / "84-121123.trans.txt").write_text("84-121123-0000 GO DO YOU HEAR\n84-121123-0001 LOST\n")
    tts = tmp_path / "LibriTTS" / "103" / "1241"
    tts.mkdir(parents=True)
    (tts / "103_1241_000000_000001.wav").write_bytes(flac(tone(0.3), 24_000))
    (tts / "103_1241_000000_000001.normalized.txt").write_text("Matthew Cuthbert is surprised.\n")
    one, lost, two = speech_folder(tmp_path)
    assert (one.task, one.question_text, one.voice) == ("transcribe", "Go do you hear.", "LibriSpeech-84")
    assert lost == Skipped("LibriSpeech/84-121123-0001", "84-121123-0001.flac is missing")
    assert (two.question_text, two.voice) == ("Matthew Cuthbert is surprised.", "LibriTTS-103")
    assert len(two.sha256) == 64
    with pytest.raises(InputError, match="LibriSpeech"):
        list(speech_folder(tmp_path / "nothing"))


def test_a_hub_set_is_streamed_and_its_files_stay_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = {"question": "Who?", "answer": "Me.", "sound": {"bytes": b"x", "path": ""}}
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "t.parquet")
    features = Features({"question": Value("string"), "answer": Value("string"), "sound": Audio()})
    files = [str(tmp_path / "t.parquet")]
    stored = load_dataset("parquet", data_files=files, split="train", streaming=True, features=features)
    asked: list[object] = []

    def load(name: str, **options: object) -> object:
        asked.append((name, options))
        return stored

    monkeypatch.setattr(readers, "load_dataset", load)
    table = Table("someone/questions", split="test")
    assert said(table) == [("Who?", "Me.")]
    assert rows(table)[0].source == "someone/questions"
    assert asked[0] == ("someone/questions", {"split": "test", "streaming": True})


def test_equal_samples_have_equal_keys_wherever_they_stand(tmp_path: Path) -> None:
    record = {"question": "Who?", "answer": "Me."}
    one = rows(Table(jsonl(tmp_path / "t.jsonl", [{"question": "X?", "answer": "Y."}, record, record])))
    assert one[1].key == one[2].key != one[0].key
    assert np.unique([row.key for row in one]).size == 2
