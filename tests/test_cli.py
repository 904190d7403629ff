import json
import os
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from safetensors.torch import load_file
from toys import ABILITIES, photo, tiny_bundle, tone, write_tone
from typer.testing import CliRunner

from omni2.audio import load_audio
from omni2.bundle import load, save
from omni2.cli import app
from omni2.codec.stream import write_wav
from omni2.config import Sampling, Seek
from omni2.omni import OmniModel

CHUNK_KEYS = {"type", "text", "samples"}
ANSWER_KEYS = {"type", "text", "seconds", "first_audio_ms", "rtf", "finish_reason"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with a model, a question and a picture."""
    place = tmp_path_factory.mktemp("cli")
    OmniModel(tiny_bundle()).save_pretrained(place / "toy")
    OmniModel(tiny_bundle(abilities=ABILITIES - {"see", "speak", "transcribe"})).save_pretrained(place / "plain")
    write_tone(place / "question.wav")
    Image.fromarray(photo()).save(place / "photo.png")
    return place


@pytest.fixture(scope="module")
def model(folder: Path) -> OmniModel:
    return OmniModel.from_pretrained(folder / "toy")


@pytest.fixture
def omni2(folder: Path, monkeypatch: pytest.MonkeyPatch) -> "Caller":
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return Caller()


class Caller:
    """The command line in this process; `--model toy` unless told otherwise."""

    def __call__(self, *words: str, model: str = "toy") -> Result:
        more = ["--model", model] if words[0] in ("ask", "transcribe", "speak") else []
        return CliRunner().invoke(app, [*words, *more])

    def good(self, *words: str, model: str = "toy") -> str:
        result = self(*words, model=model)
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        return result.stdout

    def lines(self, *words: str, model: str = "toy") -> list[dict[str, object]]:
        return [json.loads(line) for line in self.good(*words, "--json", model=model).splitlines()]


def read_wav(path: Path) -> np.ndarray:
    with wave.open(str(path)) as wav:
        assert (wav.getnchannels(), wav.getsampwidth(), wav.getframerate()) == (1, 2, 24_000)
        return np.frombuffer(wav.readframes(wav.getnframes()), "<i2").astype(np.float32) / 32767


# ---- answers


def test_ask_prints_words_and_figures(omni2: Caller, model: OmniModel) -> None:
    answer = model.answer("question.wav")
    told, figures = omni2.good("ask", "question.wav").rsplit("\n", 2)[:2]
    assert told == answer.text
    assert figures.startswith("[first sound after ")
    assert f"{answer.timings.audio:.1f} s of speech" in figures
    assert "real-time factor" in figures


@pytest.mark.parametrize(
    ("words", "turn"),
    [
        (["question.wav"], {"audio": tone()}),
        (["--text", "hello"], {"text": "hello"}),
        (["--text", "hello", "--reply", "text"], {"text": "hello", "reply": "text"}),
        (["--image", "photo.png"], {"image": photo()}),
        (
            ["question.wav", "--image", "photo.png", "--reply", "text"],
            {"audio": tone(), "image": photo(), "reply": "text"},
        ),
    ],
)
def test_ask_as_json_keeps_the_contract(
    omni2: Caller, model: OmniModel, words: list[str], turn: dict[str, object]
) -> None:
    *chunks, last = omni2.lines("ask", *words)
    assert chunks
    assert all(set(chunk) == CHUNK_KEYS and chunk["type"] == "chunk" for chunk in chunks)
    assert set(last) == ANSWER_KEYS
    assert last["type"] == "answer"
    answer = model.answer(**{key: "question.wav" if key == "audio" else value for key, value in turn.items()})  # type: ignore[arg-type]
    assert last["text"] == answer.text == "".join(str(chunk["text"]) for chunk in chunks)
    assert last["finish_reason"] == answer.finish_reason
    samples = sum(int(str(chunk["samples"])) for chunk in chunks)
    assert samples == answer.audio.size
    assert last["seconds"] == round(samples / 24_000, 3)
    if samples:
        assert float(str(last["first_audio_ms"])) >= 0
        assert float(str(last["rtf"])) > 0
    else:
        assert (last["first_audio_ms"], last["rtf"], last["seconds"]) == (None, None, 0)


def test_ask_searches_as_told(omni2: Caller, model: OmniModel) -> None:
    words = ("ask", "--text", "hello", "--reply", "text")
    found = model.answer(text="hello", reply="text", sampling=Sampling(seek=Seek(4))).text
    assert omni2.lines(*words, "--beams", "4")[-1]["text"] == found != omni2.lines(*words)[-1]["text"]


def test_ask_draws_as_told(omni2: Caller) -> None:
    hot = ["ask", "--text", "hello", "--reply", "text", "--temperature", "3"]
    greedy = omni2.lines("ask", "--text", "hello", "--reply", "text")[-1]["text"]
    texts = [omni2.lines(*hot, "--seed", str(seed))[-1]["text"] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert omni2.lines(*hot, "--top-k", "1")[-1]["text"] == greedy
    assert omni2.lines(*hot, "--top-p", "0.000001")[-1]["text"] == greedy


def test_saved_speech_reads_back(omni2: Caller, model: OmniModel, tmp_path: Path) -> None:
    for words, audio in (
        (["ask", "--text", "hello"], model.answer(text="hello").audio),
        (["speak", "the cat says"], model.speak("the cat says").audio),
    ):
        out = omni2.good(*words, "--save", str(tmp_path / "a.wav"))
        assert str(tmp_path / "a.wav") in out.replace("\n", "")
        assert audio.size
        np.testing.assert_allclose(read_wav(tmp_path / "a.wav"), audio, atol=1e-4)
        assert load_audio(tmp_path / "a.wav").size


def test_write_wav_clips(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.array([0, 0.5, 3, -3, np.nan], np.float32), 24_000)
    np.testing.assert_allclose(read_wav(tmp_path / "a.wav"), [0, 0.5, 1, -1, 0], atol=1e-4)


def test_transcribe(omni2: Caller, model: OmniModel) -> None:
    heard = model.transcribe("question.wav")
    assert omni2.good("transcribe", "question.wav") == heard + "\n"
    assert omni2.lines("transcribe", "question.wav") == [{"type": "transcript", "text": heard}]


def test_speak_as_json(omni2: Caller, model: OmniModel) -> None:
    *chunks, last = omni2.lines("speak", "hello")
    assert all(set(chunk) == CHUNK_KEYS for chunk in chunks)
    assert set(last) == ANSWER_KEYS
    assert last["text"] == model.speak("hello").text


def test_convert_makes_a_model_that_answers_the_same(omni2: Caller, model: OmniModel, tmp_path: Path) -> None:
    (report,) = omni2.lines("convert", "toy", str(tmp_path / "whole"))
    assert report == {"type": "converted", "out": str(tmp_path / "whole"), "abilities": sorted(ABILITIES)}
    words = omni2.lines("ask", "--text", "hello", "--reply", "text", model=str(tmp_path / "whole"))
    assert words[-1]["text"] == model.answer(text="hello", reply="text").text
    assert str(tmp_path / "half") in omni2.good("convert", "toy", str(tmp_path / "half"), "--half").replace("\n", "")
    size = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")}
    assert size["half"] < 0.6 * size["whole"]
    assert load(tmp_path / "half").abilities == ABILITIES
    omni2.good("convert", "toy", str(tmp_path / "compact"), "--int8")
    stored = load_file(tmp_path / "compact" / "audio_encoder.safetensors")
    assert stored["conv1.weight"].dtype == torch.int8
    assert load(tmp_path / "compact").abilities == ABILITIES


def test_the_program_itself_prints_nothing_on_stderr(folder: Path) -> None:
    """As a user starts it: warnings of libraries would show here."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    program = str(Path(sys.executable).with_name("omni2"))
    done = subprocess.run(
        [program, "ask", "question.wav", "--image", "photo.png", "--model", "toy", "--json"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line)["type"] for line in done.stdout.splitlines()][-1] == "answer"


# ---- errors


@pytest.fixture(scope="module")
def bad_files(folder: Path) -> Path:
    """Files that cannot be used."""
    (folder / "empty.wav").write_bytes(b"")
    (folder / "words.wav").write_text("no sound " * 100)
    write_wav(folder / "silent.wav", np.zeros(24_000, np.float32), 24_000)
    write_tone(folder / "long.wav", seconds=31)
    write_tone(folder / "short.wav", seconds=0.01)
    write_tone(folder / "much.wav", seconds=20)
    (folder / "broken.png").write_bytes((folder / "photo.png").read_bytes()[:60])
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    (folder / "nothing").mkdir()
    save(tiny_bundle(), folder / "cut")
    weights = folder / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    (folder / "evil").mkdir()
    (folder / "evil" / "lit_model.pth").write_bytes(b"cos\nsystem\n(S'touch ran-code'\ntR.")
    (folder / "evil" / "model_config.yaml").write_text("!!python/object/apply:os.system ['touch ran-code']")
    return folder


BAD: list[tuple[int, list[str]]] = [
    (2, ["ask"]),
    (2, ["ask", "question.wav", "--text", "hello"]),
    (2, ["ask", "missing.wav"]),
    (2, ["ask", "empty.wav"]),
    (2, ["ask", "words.wav"]),
    (2, ["ask", "silent.wav"]),
    (2, ["ask", "long.wav"]),
    (2, ["ask", "short.wav"]),
    (2, ["ask", "much.wav"]),
    (2, ["ask", "photo.png"]),
    (2, ["ask", "--text", ""]),
    (2, ["ask", "--text", "what is " * 200]),
    (2, ["ask", "--text", "half \udcff"]),
    (2, ["ask", "--image", "broken.png"]),
    (2, ["ask", "--image", "dot.png"]),
    (2, ["ask", "--image", "missing.png"]),
    (2, ["ask", "--image", "question.wav"]),
    (2, ["ask", "--text", "hello", "--temperature", "-1"]),
    (2, ["ask", "--text", "hello", "--top-k", "-1"]),
    (2, ["ask", "--text", "hello", "--top-p", "0"]),
    (2, ["ask", "--text", "hello", "--seed", "99999999999999999999999"]),
    (1, ["ask", "--text", "hello", "--save", "missing/folder/a.wav"]),
    (2, ["ask", "--text", "hello", "--device", "toaster"]),
    (2, ["transcribe", "missing.wav"]),
    (2, ["transcribe", "silent.wav"]),
    (2, ["speak", " "]),
    (2, ["speak", "what is " * 200]),
    (1, ["convert", "missing", "out"]),
    (1, ["convert", "nothing", "out"]),
    (1, ["convert", "cut", "out"]),
    (1, ["convert", "evil", "out"]),
    (1, ["convert", "toy", "question.wav"]),
]


@pytest.mark.parametrize(("status", "words"), BAD, ids=lambda value: str(value)[:60])
def test_bad_input_is_one_line_and_a_status(omni2: Caller, bad_files: Path, status: int, words: list[str]) -> None:
    result = omni2(*words)
    assert (result.exit_code, result.stdout if status == 2 else "") == (status, ""), result.output
    assert result.stderr.startswith("omni2: ")
    assert result.stderr.count("\n") == 1
    assert len(result.stderr) > len("omni2: \n")
    assert not (bad_files / "ran-code").exists()


@pytest.mark.parametrize("name", ["missing", "nothing", "cut", "evil", "question.wav", "no-org/no-model"])
def test_bad_models_are_one_line_and_status_1(omni2: Caller, bad_files: Path, name: str) -> None:
    for words in (["ask", "--text", "hello"], ["transcribe", "question.wav"], ["speak", "hello"]):
        result = omni2(*words, model=name)
        assert result.exit_code == 1, result.output
        assert result.stdout == ""
        assert result.stderr.startswith("omni2: ")
        assert result.stderr.count("\n") == 1
    assert not (bad_files / "ran-code").exists()


@pytest.mark.parametrize(
    "words", [["ask", "--image", "photo.png"], ["transcribe", "question.wav"], ["speak", "hello"]], ids=lambda w: w[0]
)
def test_what_the_model_never_learned_is_one_line_and_status_1(omni2: Caller, words: list[str]) -> None:
    result = omni2(*words, model="plain")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("omni2: ")
    assert "it can answer" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["ask", "--reply", "song"],
        ["ask", "--no-such-option"],
        ["ask", "--seed", "one"],
        ["ask", "one.wav", "two.wav"],
        ["transcribe"],
        ["speak"],
        ["convert", "toy"],
        ["sing"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(omni2: Caller, words: list[str]) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage" in result.stderr


@pytest.mark.parametrize("command", ["ask", "transcribe", "speak", "convert", "data", "train", "eval"])
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"], terminal_width=200)
    assert result.exit_code == 0
    assert "Usage" in result.stdout
    if command in ("ask", "transcribe", "speak"):
        assert all(option in result.stdout for option in ("--model", "--device", "--json"))
    top = CliRunner().invoke(app, ["--help"])
    assert command in top.stdout
