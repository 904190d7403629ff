"""Building: nothing is lost or repeated however often it is killed, and nothing of the evaluation gets in."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from toys import HEARD, LAYOUT, photo, tiny_bundle, tone
from typer.testing import CliRunner

from omni2.cli import app
from omni2.encoder import frames_of
from omni2.errors import InputError, OmniError
from omni2.train.data import encode, leaks, own, pipeline, speak
from omni2.train.data.encode import Encode
from omni2.train.data.leaks import Guard, check
from omni2.train.data.own import own_rows
from omni2.train.data.pipeline import Skipped, make, repeat
from omni2.train.data.questions import corpus
from omni2.train.data.schema import Row, keyed, pack
from omni2.train.data.sound import flac
from omni2.train.data.speak import Speak, draw_voice
from omni2.train.data.store import read_columns, read_manifest, read_rows, shard, shards, write_shard
from omni2.train.data.voices import TRAINING

BEEP = (  # a program that speaks: a square wave, 400 samples a letter
    "import io,sys,wave;t=sys.stdin.read().strip();w=wave.open(o:=io.BytesIO(),'wb');"
    "w.setparams((1,2,16000,0,'NONE',''));w.writeframes(bytes([0,64,0,192])*(200*len(t)));w.close();sys.stdout.buffer.write(o.getvalue())"
)
VOICE = f"command:{shlex.join([sys.executable, '-c', BEEP])}"


class Tone:
    """A voice whose pitch tells the text's length; it may refuse, or die."""

    def say(self, text: str) -> tuple[np.ndarray, int]:
        if text == "...":
            raise InputError("nothing to pronounce in '...'")
        return tone(0.4, 200 + 10 * len(text)), 16_000


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tiny_bundle()
    monkeypatch.setattr(speak, "voice", lambda name: Tone())
    monkeypatch.setattr(encode, "load_bundle", lambda name: bundle)
    for cached in (encode.load_parts, encode._codes, speak._answer):
        cached.cache_clear()


def samples(n: int) -> list[Row]:
    return [keyed(Row("", "answer", "toy", "MIT", question_text=f"question {i}", answer_text="yes")) for i in range(n)]


def same(rows: list[Row], others: list[Row]) -> bool:
    """Whether two folders hold the same rows in any order, to the last bit."""
    one, other = ({row.key: pack(row) for row in each} for each in (rows, others))
    return len(one) == len(rows) and one == other


def test_text_becomes_speech_then_features_and_codes(toys: None, tmp_path: Path) -> None:
    manifest = make(samples(5), tmp_path / "sound", [Speak(("hibari", "espeak-us"), "hibari")], size=2)
    assert manifest["rows"] == 5
    spoken = list(read_rows(tmp_path / "sound"))
    assert {row.voice for row in spoken} <= {"hibari", "espeak-us"}
    assert all(row.question_audio and row.answer_audio and row.question_seconds > 0.3 for row in spoken)
    make(read_rows(tmp_path / "sound"), tmp_path / "features", [Encode("toy")], size=3)
    for row, sound in zip(read_rows(tmp_path / "features"), spoken, strict=True):
        assert row.key == sound.key
        assert row.question_features.shape == (frames_of(round(row.question_seconds * 16_000)), HEARD)
        assert row.question_features.dtype == torch.float16
        assert row.answer_codes.shape[1] == 7
        assert row.answer_codes.max() < LAYOUT.codebook_size
        assert row.question_audio is row.answer_audio is None
    make(samples(5), tmp_path / "once", [Speak(("hibari", "espeak-us"), "hibari"), Encode("toy")], size=4)
    assert same(list(read_rows(tmp_path / "once")), list(read_rows(tmp_path / "features")))


def test_each_task_gets_the_sounds_it_needs(toys: None) -> None:
    step = Speak(("hibari",), "hibari", augmented=False)
    text = {"question_text": "hello", "answer_text": "hello"}
    assert step(Row("a", "transcribe", "s", "MIT", question_text="hello")).answer_audio is None
    read = step(Row("b", "read", "s", "MIT", **text))
    assert (read.question_audio, read.voice) == (None, "hibari")
    assert read.answer_audio is not None
    typed = Speak((), None)(Row("c", "answer", "s", "MIT", **text))
    assert typed == Row("c", "answer", "s", "MIT", **text)
    recorded = Row(
        "d", "transcribe", "s", "MIT", voice="x", question_text="hello", question_audio=flac(tone(0.5), 16_000)
    )
    assert step(recorded).voice == "x"
    assert step(recorded).question_seconds == pytest.approx(0.5)
    coded = Row("e", "answer", "s", "MIT", **text, answer_codes=torch.zeros(2, 7, dtype=torch.int64))
    assert step(coded).answer_audio is None


def test_pictures_become_features(toys: None) -> None:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(photo()).save(out, "PNG")
    row = Encode("toy")(Row("a", "see", "s", "MIT", answer_text="a cat", picture=out.getvalue()))
    assert row.picture is None
    assert row.picture_features.dtype == torch.float16
    assert Encode("toy", keep=True)(Row("a", "see", "s", "MIT", picture=out.getvalue())).picture == out.getvalue()
    with pytest.raises(InputError, match="not a picture"):
        Encode("toy")(Row("a", "see", "s", "MIT", picture=b"no picture at all"))


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [0, 1, 3, 4, 7, 10])
def test_killed_at_any_row_nothing_is_lost_or_repeated(toys: None, tmp_path: Path, after: int) -> None:
    step = Speak(("hibari", "flite-slt"), None)
    make(samples(11), tmp_path / "whole", [step], size=4)
    left = after

    def dying(row: Row) -> Row:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return step(row)

    with pytest.raises(Killed):
        make(samples(11), tmp_path / "cut", [dying], size=4)
    kept = [path.read_bytes() for path in shards(tmp_path / "cut")]
    manifest = make(samples(11), tmp_path / "cut", [step], size=4)
    assert [path.read_bytes() for path in shards(tmp_path / "cut")][: len(kept)] == kept
    assert same(list(read_rows(tmp_path / "whole")), list(read_rows(tmp_path / "cut")))
    assert manifest["rows"] == 11


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_a_shard_is_written(
    toys: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    write = pipeline.write_shard

    def dying(rows: list[Row], path: Path) -> None:
        if path.name == "rows-00001.parquet":
            path.with_suffix(".part").write_bytes(b"half a shard")
            if when == "after":
                write(rows, path)
            raise Killed
        write(rows, path)

    monkeypatch.setattr(pipeline, "write_shard", dying)
    with pytest.raises(Killed):
        make(samples(9), tmp_path, [Speak(("hibari",), None)], size=4)
    monkeypatch.setattr(pipeline, "write_shard", write)
    assert make(samples(9), tmp_path, [Speak(("hibari",), None)], size=4)["rows"] == 9
    assert Counter(c["key"] for c in read_columns(tmp_path, "key")) == Counter(row.key for row in samples(9))
    assert not list(tmp_path.glob("*.part"))


def test_a_grown_source_and_more_passes_add_only_what_lacks(toys: None, tmp_path: Path) -> None:
    step = Speak(TRAINING, None)
    make(samples(4), tmp_path, [step])
    before = shard(tmp_path, 0).read_bytes()
    made = []
    make(repeat(lambda: samples(6), 2), tmp_path, [lambda row: made.append(row) or step(row)])
    assert len(made) == 2 + 6
    assert shard(tmp_path, 0).read_bytes() == before
    rows = list(read_rows(tmp_path))
    assert Counter(row.question_text for row in rows) == {f"question {i}": 2 for i in range(6)}
    make(repeat(lambda: samples(6), 2), tmp_path, [lambda row: pytest.fail("made again")])


def test_what_cannot_be_used_is_listed_and_not_tried_again(toys: None, tmp_path: Path) -> None:
    bad = keyed(Row("", "transcribe", "toy", "MIT", question_text="..."))

    def source() -> Iterator[Row | Skipped]:
        yield bad
        yield Skipped("toy/broken", "no answer")
        yield from samples(2)

    assert make(source(), tmp_path, [Speak(("hibari",), None)])["rows"] == 2
    lines = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert {line["key"]: line["reason"] for line in lines} == {
        bad.key: "nothing to pronounce in '...'",
        "toy/broken": "no answer",
    }
    with (tmp_path / "skipped.jsonl").open("a") as file:
        file.write('{"key": "toy/cut')  # as a kill leaves it
    make(source(), tmp_path, [lambda row: pytest.fail("tried again")])
    assert len((tmp_path / "skipped.jsonl").read_text().splitlines()) == 2


def test_nothing_at_all_makes_an_empty_folder(tmp_path: Path) -> None:
    assert make([], tmp_path, [])["rows"] == 0


@pytest.mark.slow
def test_several_processes_make_the_same_rows(tmp_path: Path) -> None:
    step = Speak((VOICE,), VOICE)
    make(samples(6), tmp_path / "one", [step], size=2)
    make(samples(6), tmp_path / "two", [step], size=2, workers=2)
    assert same(list(read_rows(tmp_path / "one")), list(read_rows(tmp_path / "two")))


@pytest.mark.slow
def test_kill_minus_nine_leaves_no_process_and_loses_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from test_data_pipeline import VOICE, samples\n"
        "from omni2.train.data.pipeline import make; from omni2.train.data.speak import Speak\n"
        "make(samples(60), Path(sys.argv[1]), [Speak((VOICE,), None)], size=2, workers=2)"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(leaks.__file__).parents[3]), *sys.path])
    cut, environment = tmp_path / "cut", os.environ | {"PYTHONPATH": paths}
    command = [sys.executable, "-c", code, str(cut)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as run:
        while len(shards(cut)) < 3 and run.poll() is None:
            time.sleep(0.05)
        run.kill()
        run.communicate(timeout=120)  # the pipe closes when the last of its processes has ended
    assert 3 <= len(shards(cut)) < 30
    step = Speak((VOICE,), None)
    make(samples(60), cut, [step])
    make(samples(60), tmp_path / "whole", [step])
    assert same(list(read_rows(cut)), list(read_rows(tmp_path / "whole")))


def test_a_row_does_not_depend_on_its_neighbours(toys: None) -> None:
    step = Speak(TRAINING, None)
    rows = samples(6)
    alone = {row.key: pack(step(row)) for row in rows}
    assert {row.key: pack(step(row)) for row in reversed(rows)} == alone
    other = replace(step, seed=1)
    assert sum(pack(other(row)) == alone[row.key] for row in rows) == 0


def test_half_of_the_voices_are_natural_ones() -> None:
    rng = np.random.default_rng(0)
    names = ["hibari", *(f"espeak-{i}" for i in range(9))]
    drawn = Counter(draw_voice(names, rng) for _ in range(1000))
    assert 480 < drawn["hibari"] < 620
    assert draw_voice(["espeak-us"], rng) == "espeak-us"


# ---- what belongs to evaluation


def test_reserved_voices_are_refused_at_once() -> None:
    with pytest.raises(InputError, match="kept for evaluation"):
        Speak(("hibari", "piper-joe"), None)
    with pytest.raises(InputError, match="kept for evaluation"):
        Speak((), "festival-kal")
    with pytest.raises(InputError, match="no voice 'siri'"):
        Speak(("siri",), None)


def leaking(tmp_path: Path) -> tuple[Path, dict[str, Row]]:
    """A file kept for evaluation, and rows that must not be trained on."""
    kept = tmp_path / "kept" / "bell.wav"
    kept.parent.mkdir()
    kept.write_bytes(b"a recording")
    tested = corpus()[0].test[0].lower()
    return kept, {
        "voice": Row("1", "answer", "toy", "MIT", voice="flite-kal", question_text="hm"),
        "phrasing": Row("2", "transcribe", "toy", "MIT", question_text=tested),
        "read aloud": Row("3", "read", "toy", "MIT", answer_text=tested),
        "file": Row("4", "transcribe", "toy", "MIT", question_text="hm", sha256=leaks.digest(kept)),
    }


@pytest.mark.parametrize("which", ["voice", "phrasing", "read aloud", "file"])
def test_evaluation_data_are_neither_built_nor_overlooked(tmp_path: Path, which: str) -> None:
    kept, rows = leaking(tmp_path)
    guard = Guard([kept.parent])
    assert "evaluation" in guard.reason(rows[which])
    assert make([*samples(2), rows[which]], tmp_path / "built", [], guard=guard)["rows"] == 2
    assert check(tmp_path / "built", guard) == 2
    (tmp_path / "foreign").mkdir()
    write_shard([*samples(2), rows[which]], shard(tmp_path / "foreign", 0))
    pipeline.summarise(tmp_path / "foreign")
    with pytest.raises(OmniError, match=f"row {rows[which].key}: .*evaluation"):
        check(tmp_path / "foreign", guard)


def test_check_finds_damage_and_doubles(tmp_path: Path) -> None:
    make(samples(4), tmp_path, [], size=2)
    guard = Guard()
    assert check(tmp_path, guard) == 4
    write_shard(samples(2), shard(tmp_path, 1))
    with pytest.raises(OmniError, match=r"rows-00001.parquet is not what the manifest says; row .* twice"):
        check(tmp_path, guard)
    write_shard(samples(1), shard(tmp_path, 2))
    with pytest.raises(OmniError, match="not in the manifest"):
        check(tmp_path, guard)
    with pytest.raises(OmniError, match="does not exist"):
        Guard([tmp_path / "nowhere"])


# ---- this package's own sources


def test_the_corpus_gives_training_phrasings_only() -> None:
    items = corpus()
    rows = own_rows("corpus", phrasings=3)
    tested = {text for item in items for text in item.test}
    known = {(text, item.answer) for item in items for text in item.train}
    assert {(row.question_text, row.answer_text) for row in rows if row.topic != "unknown"} <= known
    assert not tested & {row.question_text for row in rows}
    assert max(Counter(row.answer_text for row in rows if row.topic != "unknown").values()) == 3
    assert Counter(row.topic == "unknown" for row in rows)[True] == 30
    assert len({row.key for row in rows}) == len(rows)
    answers = own_rows("answers")
    assert {row.answer_text for row in answers} >= {item.answer for item in items}
    assert {row.task for row in answers} == {"read"}


def test_dictionary_sentences_hold_some_out(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["".join(letters) for letters in product("aeiou", "klmnr", "aeiou", "st", "eo")]
    lists: dict[str, Callable[[], list[str]]] = {
        "examples": lambda: [f"The {word} sleeps." for word in words],
        "definitions": lambda: [f"A {word} is a thing." for word in words],
    }
    for module in (own, leaks):
        for name, made in lists.items():
            monkeypatch.setattr(module, name, made)
    monkeypatch.setattr(leaks, "WORDNET", Path(__file__))
    leaks.reserved_texts.cache_clear()
    guard = Guard()
    for name, task in (("sentences", "transcribe"), ("definitions", "read")):
        rows = own_rows(name)
        assert len(rows) == 300  # of 500
        assert {row.task for row in rows} == {task}
        texts = lists["examples" if task == "transcribe" else "definitions"]()
        refused = [text for text in texts if guard.reason(Row("k", "transcribe", "s", "MIT", question_text=text))]
        assert not {row.question_text for row in rows} & {*refused}
    leaks.reserved_texts.cache_clear()


# ---- the command line


def test_build_encode_and_check_from_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tiny_bundle()
    monkeypatch.setattr(encode, "load_bundle", lambda name: bundle)
    encode.load_parts.cache_clear()
    table = tmp_path / "qa.jsonl"
    table.write_text("".join(json.dumps({"question": f"Who is {i}?", "answer": "Nobody."}) + "\n" for i in range(3)))
    sound, out = str(tmp_path / "sound"), str(tmp_path / "out")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["data", *arguments])

    voices = ["--voice", VOICE, "--answer-voice", VOICE, "--workers", "1"]
    done = run("build", str(table), sound, "--licence", "CC0", "--limit", "2", *voices)
    assert done.exit_code == 0, done.output
    assert "2 rows" in done.output
    assert "CC0" in done.output
    done = run("encode", sound, out, "--model", "toy", "--workers", "1")
    assert done.exit_code == 0, done.output
    assert all(row.answer_codes is not None and row.question_features is not None for row in read_rows(Path(out)))
    assert read_manifest(Path(out))["voices"] == {VOICE: 2}
    done = run("check", sound, out, "--against", str(table))
    assert done.exit_code == 0, done.output
    assert "2 rows, none kept for evaluation" in done.output
    assert run("encode", sound, sound).exit_code == 2
    done = run("build", str(tmp_path / "nothing"), str(tmp_path / "x"), "--workers", "1")
    assert (done.exit_code, "no table in" in done.output) == (2, True)


@pytest.mark.parametrize("command", ["build", "interruption", "encode", "check", "speech"])
def test_every_command_has_help(command: str) -> None:
    done = CliRunner().invoke(app, ["data", command, "--help"])
    assert done.exit_code == 0
