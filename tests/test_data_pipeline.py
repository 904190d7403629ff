"""Building: nothing is lost or repeated however often it is killed."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from building import VOICE, same, samples, stand_in

from omni2.train.data import leaks, pipeline
from omni2.train.data.pipeline import Skipped, make, repeat
from omni2.train.data.schema import Row, keyed
from omni2.train.data.speak import Speak
from omni2.train.data.store import read_columns, read_rows, shard, shards
from omni2.train.data.voices import TRAINING


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)


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
        "import sys; from pathlib import Path; from building import VOICE, samples\n"
        "from omni2.train.data.pipeline import make; from omni2.train.data.speak import Speak\n"
        "make(samples(60), Path(sys.argv[1]), [Speak((VOICE,), None)], size=2, workers=2)"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(leaks.__file__).parents[3]), *sys.path])
    cut, environment = tmp_path / "cut", os.environ | {"PYTHONPATH": paths}
    command = [sys.executable, "-c", code, str(cut)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as run:
        deadline = time.monotonic() + 240
        while len(shards(cut)) < 3 and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        run.kill()
        run.communicate(timeout=120)  # the pipe closes when the last of its processes has ended
    assert 3 <= len(shards(cut)) < 30
    step = Speak((VOICE,), None)
    make(samples(60), cut, [step])
    make(samples(60), tmp_path / "whole", [step])
    assert same(list(read_rows(cut)), list(read_rows(tmp_path / "whole")))
