"""Many questions at once: every one answered once, as alone, whatever was done before; damage is told line by line."""

import json
import wave
from pathlib import Path

import pytest
from toys import tiny_model, tone, write_tone

from omni2.batch import RESULTS, Item, finished, items, run
from omni2.config import Sampling
from omni2.errors import InputError


def questions(folder: Path, n: int = 5) -> Path:
    (folder / "sub").mkdir(parents=True)
    for i in range(n):
        write_tone(folder / ("sub" if i % 2 else "") / f"{i}.wav", 0.3, 300 + 50 * i)
    (folder / "notes.txt").write_text("not a sound")
    return folder


def test_a_folder_is_answered_as_one_by_one(tmp_path: Path) -> None:
    todo, model = items(questions(tmp_path / "in")), tiny_model()
    assert [item.id for item in todo] == ["0.wav", "2.wav", "4.wav", "sub--1.wav", "sub--3.wav"]
    results = {result["id"]: result for result in run(model, todo, tmp_path / "out", at_once=3)}
    assert results.keys() == {item.id for item in todo}
    for item in todo:
        alone = model.answer(item.audio)
        assert results[item.id]["text"] == alone.text
        if alone.audio.size:
            with wave.open(str(tmp_path / "out" / results[item.id]["sound"])) as sound:
                assert sound.getnframes() == alone.audio.size
    assert finished(tmp_path / "out") == results
    assert not [*(tmp_path / "out").glob("*.part")]


def test_a_killed_run_goes_on_and_repeats_nothing(tmp_path: Path) -> None:
    todo, model, out = items(questions(tmp_path / "in")), tiny_model(), tmp_path / "out"
    started = run(model, todo, out, at_once=1)
    first = [next(started), next(started)]
    started.close()  # type: ignore[attr-defined]
    with (out / RESULTS).open("a", encoding="utf-8") as lines:
        lines.write('{"id": "4.wav", "te')
    rest = [result["id"] for result in run(model, todo, out, at_once=2)]
    assert sorted([*rest, *(result["id"] for result in first)]) == sorted(item.id for item in todo)
    lines = [json.loads(line)["id"] for line in (out / RESULTS).read_text("utf-8").splitlines()]
    assert sorted(lines) == sorted(item.id for item in todo)
    assert not [*run(model, todo, out)]


def test_sampling_holds_for_every_answer(tmp_path: Path) -> None:
    todo, model = items(questions(tmp_path / "in", 2)), tiny_model()
    short = Sampling(max_tokens=24)
    results = [*run(model, todo, tmp_path / "out", sampling=short)]
    assert {result["finish_reason"] for result in results} == {"length"}
    told = {result["id"]: result["text"] for result in results}
    assert told == {item.id: model.answer(item.audio, sampling=short).text for item in todo}


def test_what_cannot_be_answered_is_told_and_stops_nothing(tmp_path: Path) -> None:
    folder = questions(tmp_path / "in", 2)
    (folder / "bad.wav").write_bytes(b"noise")
    results = {result["id"]: result for result in run(tiny_model(), items(folder), tmp_path / "out", at_once=2)}
    assert "error" in results["bad.wav"]
    assert "text" in results["0.wav"]
    assert len(results) == 3


def test_a_manifest_names_sounds_and_texts(tmp_path: Path) -> None:
    write_tone(tmp_path / "q.wav")
    manifest = tmp_path / "list.jsonl"
    manifest.write_text('{"audio": "q.wav", "id": "sound"}\n\n{"text": "what is the capital of france"}\n')
    assert items(manifest) == [Item("sound", tmp_path / "q.wav"), Item("3", None, "what is the capital of france")]
    model = tiny_model()
    results = {result["id"]: result for result in run(model, items(manifest), tmp_path / "out", reply="text")}
    assert results["3"]["text"] == model.answer(text="what is the capital of france", reply="text").text
    assert results["sound"]["text"] == model.answer(tone(), reply="text").text
    assert "sound" not in results["sound"]


@pytest.mark.parametrize(
    "line", ["nonsense", "[]", "{}", '{"audio": "a", "text": "b"}', '{"text": "a", "id": "x/y"}', '{"text": 3}']
)
def test_other_manifests_are_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "list.jsonl").write_text(line + "\n")
    with pytest.raises(InputError):
        items(tmp_path / "list.jsonl")


def test_nothing_to_do_is_an_error(tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError):
            items(source)
    (tmp_path / "list.jsonl").write_text('{"text": "a", "id": "x"}\n{"text": "b", "id": "x"}\n')
    with pytest.raises(InputError, match="twice"):
        items(tmp_path / "list.jsonl")
