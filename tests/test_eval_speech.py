"""The evaluations that listen: to answers, to what is read aloud, to transcriptions, to the codec."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from deaf import Ear, Speaker, sound

from omni2.errors import InputError, OmniError
from omni2.eval import asking, codec, speech, transcription
from omni2.eval.questions import Case, Result
from omni2.eval.recognise import missed
from omni2.eval.report import Table
from omni2.omni import Answer
from omni2.train.data.sentences import WORDNET, definitions, examples, split
from omni2.train.data.sound import flac
from omni2.train.data.voices import RESERVED

RATE = Speaker.sample_rate
pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("whisper_normalizer", "jiwer"))),
    reason="whisper-normalizer or jiwer missing",
)
needs_pesq = pytest.mark.skipif(importlib.util.find_spec("pesq") is None, reason="pesq is not installed")


def figures(table: Table) -> dict[str, float]:
    return {figure.key: figure.value for figure in table.figures}


@pytest.fixture
def everyday(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sentences of each kind, and two new ones, said by voices whose sounds are letters."""
    texts = {"examples": ["the cat sat", "go home now"], "definitions": ["an ax is a tool", "ice is cold"]}
    for module in (speech, transcription):
        monkeypatch.setattr(module, "sentences", lambda n: texts)
    monkeypatch.setattr(speech, "new_sentences", lambda: ("a cat says moo", "two is three"))
    monkeypatch.setattr(asking, "say", lambda voice, text: sound(text))
    asking.spoken.cache_clear()
    yield
    asking.spoken.cache_clear()


def test_missed_words_are_counted_by_word() -> None:
    lost, said = missed(["the cat sat on the mat", "the cat", ""], ["a cat sat on the hat", "cat", "hm"])
    assert lost == {"the": 2, "mat": 1}
    assert said["the"] == 3
    assert said["cat"] == 2


def test_speech_of_answers_is_held_against_their_text() -> None:
    case = Case("t", "?", "flite-kal", "x")
    long = " ".join(["moo"] * 19 + ["cat"])
    replies = [Result(case, "speech", "clean", text, sound(text)) for text in ("the cat sat", long, "")]
    table = speech.answers_table(speech.listen_to(replies, RATE, Ear(deaf_to="cat")))
    got = figures(table)
    assert got["speech.all"] == pytest.approx(100 * 2 / 23)
    assert got["speech.short"] == pytest.approx(100 / 3)
    assert got["speech.long"] == pytest.approx(100 / 20)
    assert table.notes == ["speech of answers: words missed most: cat 2 of 2"]
    assert len(list(table.wrong)) == 2
    assert speech.answers_table([]).figures == []


def test_what_is_read_aloud_is_held_against_the_text_and_its_length(everyday: None) -> None:
    results = speech.read(Speaker(str), 2, Ear(deaf_to="moo"))
    assert [one.kind for one in results] == ["new", "new", *["sentences"] * 4]
    got = figures(speech.reading_table(results))
    assert got["tts.new"] == pytest.approx(100 * 1 / 7)
    assert got["tts.sentences"] == 0
    assert got["tts.new.cut"] == got["tts.sentences.cut"] == 100  # a sample a letter is too quick for anybody
    assert got["tts.new.runaway"] == 0


def test_silence_is_heard_as_nothing_and_pace_is_seconds_for_letters() -> None:
    class Mute(Speaker):
        def speak(self, text: str) -> Answer:
            return self._say("", True)

    (one, *_) = speech.read(Mute(str), 1, Ear())
    assert (one.heard, one.seconds) == ("", 0.0)
    assert speech.Result("new", "ab cd, e!", 5 / speech.PACE, "").pace == pytest.approx(1.0)


def test_transcriptions_are_counted_by_kind_and_voice(everyday: None) -> None:
    class Writer(Speaker):
        def transcribe(self, audio: np.ndarray) -> str:
            return super().transcribe(audio).replace("cat", "dog")

    cases = transcription.question_cases([Case("t", "is it a cat", "flite-kal", "x")])
    cases += transcription.sentence_cases(4)
    assert {case.voice for case in cases} <= {*RESERVED}
    table = transcription.table(transcription.run(Writer(str), cases, Ear(deaf_to="ice")))
    got = figures(table)
    assert got["asr.questions"] == pytest.approx(100 / 4)
    assert got["asr.examples"] == pytest.approx(100 / 6)
    assert got["asr.definitions"] == 0
    assert got["asr.sentences"] == pytest.approx(100 / 14)
    assert got["asr.definitions.recogniser"] == pytest.approx(100 / 8)
    assert {figure.key for figure in table.figures if not figure.detail} == {"asr.questions", "asr.sentences"}
    alone = transcription.table(transcription.run(Writer(str), cases))
    assert figures(alone) == {key: value for key, value in got.items() if not key.endswith("recogniser")}
    assert "Whisper" not in next(iter(alone.wrong))
    assert [line.partition(": ")[2] for line in table.wrong] == [
        "is it a cat → is it a dog (Whisper base: is it a cat)",
        "the cat sat → the dog sat (Whisper base: the cat sat)",
    ]


@pytest.mark.skipif(not WORDNET.exists(), reason="WordNet is not installed")
def test_everyday_sentences_are_those_held_out() -> None:
    drawn = transcription.sentences(9)
    assert list(map(len, drawn.values())) == [5, 4]
    assert {*drawn["examples"]} <= {*split(examples())[1]}
    assert {*drawn["definitions"]} <= {*split(definitions())[1]}


def test_a_folder_of_recordings_is_transcribed(tmp_path: Path) -> None:
    folder = tmp_path / "test-clean" / "1" / "2"
    folder.mkdir(parents=True)
    wave = (0.1 * np.sin(np.arange(1600))).astype(np.float32)
    (folder / "1-2-0.flac").write_bytes(flac(wave, 16_000))
    (folder / "1-2-1.flac").write_bytes(flac(np.tile(wave, 330), 16_000))  # 33 s
    (folder / "1-2.trans.txt").write_text("1-2-0 HELLO THERE\n1-2-1 TOO LONG\n1-2-2 GONE\n")
    cases, unused = transcription.folder_cases(tmp_path / "test-clean", 10)
    assert [(case.kind, case.text, case.sound.size) for case in cases] == [("test-clean", "Hello there.", 1600)]
    assert unused == 2
    with pytest.raises(InputError, match="LibriSpeech"):
        transcription.folder_cases(folder.parent / "none", 1)


# ---- the codec


class Faithful:
    """A codec that gives back what it got, `loud` times as loud."""

    sample_rate = 24_000

    def __init__(self, loud: float = 1.0) -> None:
        self.loud = loud

    def encode(self, wave: torch.Tensor) -> torch.Tensor:
        return wave

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return torch.cat([codes * self.loud, torch.zeros(100)])


def talk(seconds: float = 1.5) -> np.ndarray:
    """Something like speech: (samples,) at 24 kHz."""
    t = np.arange(round(24_000 * seconds)) / 24_000
    voiced = sum(np.sin(2 * np.pi * 150 * k * t) / k for k in range(1, 20))
    return (0.1 * voiced * np.sin(2 * np.pi * 2 * t) ** 2).astype(np.float32)


@pytest.mark.skipif(importlib.util.find_spec("pystoi") is None, reason="pystoi is not installed")
def test_the_codec_is_measured_on_held_out_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    class Talker:
        def say(self, text: str) -> tuple[np.ndarray, int]:
            return talk(), 24_000

    class Same:
        def transcribe(self, wave: np.ndarray, rate: int) -> str:
            return "an ax is a tool"

    monkeypatch.setattr(codec, "voice", lambda name: Talker())
    monkeypatch.setattr(codec, "definitions", lambda: ["an ax is a tool"] * 201)
    monkeypatch.setattr(codec, "has_pesq", lambda: False)
    results = codec.run(Faithful(), 2, Same())
    table = codec.table(results)
    got = figures(table)
    assert got["codec.stoi"] == pytest.approx(1.0, abs=1e-3)
    assert got["codec.mel"] == pytest.approx(0.0, abs=1e-6)
    assert got["codec.before"] == got["codec.after"] == 0
    assert "codec.pesq" not in got
    assert table.notes == [codec.NO_PESQ]
    assert figures(codec.table(codec.run(Faithful(0.5), 1, Same())))["codec.mel"] > 0.1


@needs_pesq
def test_pesq_falls_with_noise_and_refuses_silence() -> None:
    clean = np.tile(talk(), 2)
    noise = np.random.default_rng(0).standard_normal(clean.size).astype(np.float32)
    same, little, much = (codec.pesq(clean, clean + loud * noise, 24_000) for loud in (0.0, 0.003, 0.03))
    assert same == pytest.approx(4.64, abs=0.01)
    assert same > little > much
    with pytest.raises(InputError, match="PESQ"):
        codec.pesq(clean[:100], clean[:100], 24_000)


def test_a_missing_pesq_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pesq", None)
    monkeypatch.setattr(codec, "find_spec", lambda name: None)
    with pytest.raises(OmniError, match="pip install"):
        codec.pesq(talk(), talk(), 24_000)
