"""The shipped model: what a newcomer is promised, on the weights in the package."""

import wave
from pathlib import Path

import numpy as np
import pytest

from omni2.audio import SAMPLE_RATE, to_waveform
from omni2.duplex.finished import PAUSE
from omni2.duplex.turns import DOUBT, SURE
from omni2.eval import vision
from omni2.hub import NANO_FOLDER
from omni2.omni import OmniModel

AUDIO = Path(__file__).parents[1] / "examples" / "audio"
TYPED = {
    "What is the capital of France?": "The capital of France is Paris.",
    "How much is two plus three?": "Two plus three is five.",
    "Which day comes after Monday?": "Tuesday comes after Monday.",
}

pytestmark = [
    pytest.mark.assets,
    pytest.mark.skipif(not NANO_FOLDER.is_dir(), reason="the shipped weights are not there"),
]


@pytest.fixture(scope="module")
def model() -> OmniModel:
    return OmniModel.from_pretrained("nano")


def test_all_parts_together_are_small_and_documented():
    assert sum(file.stat().st_size for file in NANO_FOLDER.iterdir()) <= 64 * 2**20
    card = (NANO_FOLDER / "README.md").read_text(encoding="utf-8")
    for file in NANO_FOLDER.glob("*.safetensors"):
        assert file.name in card
    for word in ("SHA-256", "MIT", "Apache-2.0", "WordNet", "STOI", "WER"):
        assert word in card


def test_hashes_on_the_card_are_those_of_the_files():
    from omni2.train.nano import hashes

    card = (NANO_FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(digest in card for _, _, digest in hashes())


def test_a_spoken_question_is_answered_in_speech_and_text(model: OmniModel):
    answer = model.answer(AUDIO / "capital.wav")
    assert "Paris" in answer.text
    assert answer.finish_reason == "end"
    assert 1.0 < answer.timings.audio < 5.0
    assert 0.05 < np.abs(answer.audio).max() <= 1.0
    assert np.sqrt(np.mean(answer.audio[-1200:] ** 2)) < 0.01  # it ends in silence, not in the middle of a word


@pytest.mark.parametrize("question", TYPED)
def test_a_typed_question_is_answered(model: OmniModel, question: str):
    assert model.answer(text=question, reply="text").text == TYPED[question]
    assert model.answer(text=question).text == TYPED[question]


def test_two_streams_at_once_answer_as_one_after_the_other(model: OmniModel):
    files = (AUDIO / "capital.wav", AUDIO / "week.wav")
    alone = [model.answer(file) for file in files]
    streams = [model.stream(file) for file in files]
    texts, sounds = ["", ""], [[], []]
    live = [0, 1]
    while live:
        for i in list(live):
            chunk = next(streams[i])
            texts[i] += chunk.text
            sounds[i].append(chunk.audio)
            if chunk.finish_reason:
                live.remove(i)
    for i, whole in enumerate(alone):
        assert texts[i] == whole.text
        assert np.allclose(np.concatenate(sounds[i]), whole.audio, atol=1e-4)


def test_it_reads_its_answers_aloud_and_writes_down_questions(model: OmniModel):
    spoken = model.speak("The capital of France is Paris.")
    assert 1.0 < spoken.timings.audio < 5.0
    assert "capital" in model.transcribe(AUDIO / "capital.wav").lower()


def test_it_can_all_that_the_family_can(model: OmniModel):
    assert model.abilities == {"answer", "history", "listen", "see", "speak", "transcribe"}


def test_a_question_may_follow_up_the_turn_before(model: OmniModel):
    before = [("What is the capital of France?", "The capital of France is Paris.")]
    assert "Rome" in model.answer(text="And of Italy?", reply="text", history=before).text


def test_it_stops_when_told_to_and_at_nothing_else(model: OmniModel):
    order = to_waveform(Path(__file__).with_name("stop.wav"))
    assert model.listen(np.pad(order, (0, SAMPLE_RATE // 10)))
    assert not any(model.listen(file) for file in sorted(AUDIO.glob("*.wav")))


def test_it_names_many_drawings_of_an_artist_it_never_saw(model: OmniModel):
    named = [one.is_right for one in vision.run(model, vision.cases(40)) if one.case.kind == "name"]
    assert len(named) == 40
    assert sum(named) > 24  # by chance not one: there are 305 names


@pytest.mark.slow
def test_an_independent_ear_hears_what_it_writes(model: OmniModel):
    recognise = pytest.importorskip("omni2.eval.recognise")
    pytest.importorskip("faster_whisper")
    answers = [model.answer(file) for file in sorted(AUDIO.glob("*.wav"))]
    heard = recognise.Recogniser("base")
    transcripts = [heard.transcribe(answer.audio, model.sample_rate) for answer in answers]
    assert recognise.wer([answer.text for answer in answers], transcripts) <= 0.15


def test_recordings_are_whole():
    for file in AUDIO.glob("*.wav"):
        with wave.open(str(file)) as recording:
            assert recording.getframerate() == 16_000


def test_finished_questions_are_told_from_those_that_break_off(model: OmniModel):
    wave = to_waveform(AUDIO / "capital.wav")
    pause = np.zeros(round(PAUSE * SAMPLE_RATE), np.float32)
    whole, begun = (model.finished(model.hear(np.concatenate([one, pause]))) for one in (wave, wave[: len(wave) // 2]))
    assert whole > SURE > DOUBT > begun


def test_an_order_is_told_from_a_question_by_ear(model: OmniModel):
    pause = np.zeros(SAMPLE_RATE // 5, np.float32)
    files = Path(__file__).with_name("stop.wav"), AUDIO / "capital.wav"
    order, question = (model.overheard(np.concatenate([to_waveform(file), pause])) for file in files)
    assert order.order > 0.9 > 0.1 > question.order
    assert max(order.nod, question.nod) < 0.1
