"""Building, encoding and checking from a shell."""

import json
from pathlib import Path

import pytest
from building import VOICE
from click.testing import Result
from toys import tiny_bundle
from typer.testing import CliRunner

from omni2.cli import app
from omni2.train.data import encode
from omni2.train.data.interruption import Listen
from omni2.train.data.store import read_manifest, read_rows


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


def test_orders_are_as_loud_as_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[Listen] = []

    def made(rows: object, out: Path, given: list[Listen], **rest: object) -> dict[str, object]:
        steps.append(given[0])
        return {"rows": 0, "hours": {}, "licences": {}}

    monkeypatch.setattr("omni2.train.data.pipeline.make", made)
    words = ["data", "interruption", str(tmp_path), "--voice", "espeak-*"]
    for more in ([], ["--snr", "-3", "12"]):
        assert CliRunner().invoke(app, words + more).exit_code == 0
    assert [step.snr for step in steps] == [(0.0, 30.0), (-3.0, 12.0)]
    done = CliRunner().invoke(app, [*words, "--snr", "12", "3"])
    assert (done.exit_code, "12 to 3 dB" in done.output) == (2, True)


@pytest.mark.parametrize("command", ["build", "interruption", "encode", "check", "speech"])
def test_every_command_has_help(command: str) -> None:
    done = CliRunner().invoke(app, ["data", command, "--help"])
    assert done.exit_code == 0
