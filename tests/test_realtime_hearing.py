"""What a realtime session hears: turns by voice and by hand, and the sound of every format."""

import numpy as np
import pytest
import torch
from realtime import CAPITAL, append, question
from talk import RATE, Fake, code, text
from toys import DRAWN, tiny_model, tone

from omni2.audio import load_audio
from omni2.duplex.turns import LONG, SHORT, UNSURE
from omni2.duplex.vad import VoiceActivity
from omni2.errors import InputError
from omni2.omni import Heard
from omni2.serve.problems import Problem, busy
from omni2.serve.question import Question
from omni2.serve.realtime.events import G711, Pcm
from omni2.serve.realtime.wire import Ears, SpeechStarted, SpeechStopped, WireOut
from omni2.serve.settings import Settings
from omni2.serve.sound import to_g711


@pytest.fixture
def talk() -> Fake:
    return Fake()


def test_a_turn_by_voice(talk: Fake) -> None:
    talk("session.update", session={"audio": {"input": {"transcription": {"model": "m"}}}})
    data = question()
    for begin in range(0, len(data), 5_001):  # samples may be cut in two
        talk("input_audio_buffer.append", audio=append(data[begin : begin + 5_001])["audio"])
    started, stopped = (talk.told(f"input_audio_buffer.speech_{edge}")[0] for edge in ("started", "stopped"))
    (item, part), response = talk.transcribing[0], talk.answering[0]
    assert started["item_id"] == stopped["item_id"] == item.id
    assert 100 < started["audio_start_ms"] < 700
    assert 2_300 < stopped["audio_end_ms"] < 3_200
    assert 1000 * part.seconds == pytest.approx(stopped["audio_end_ms"] - started["audio_start_ms"], abs=2)
    assert response.question.sound is part.sound
    talk.session.transcribed(item, part, "what?")
    assert talk.told("conversation.item.input_audio_transcription.completed")[0]["usage"]["seconds"] == part.seconds
    assert talk("conversation.item.retrieve", item_id=item.id)[0]["item"]["content"][0]["transcript"] == "what?"
    talk.session.transcribed(item, part, busy())
    assert talk.events[-1]["error"]["code"] == "server_busy"


def test_speech_interrupts_unless_told_not_to(talk: Fake) -> None:
    sound = append(question())["audio"]
    talk.say(text("hello"))
    talk.respond()
    talk("input_audio_buffer.append", audio=sound)
    assert talk.told("response.done")[0]["response"]["status_details"]["reason"] == "turn_detected"
    assert len(talk.answering) == 2
    quiet = {"type": "server_vad", "interrupt_response": False}
    talk("session.update", session={"audio": {"input": {"turn_detection": quiet}}})
    talk("input_audio_buffer.append", audio=sound)
    assert len(talk.told("input_audio_buffer.committed")) == 2
    assert (len(talk.answering), len(talk.told("response.done"))) == (2, 1)  # the first goes on, no second begins


def test_turns_need_not_be_answered(talk: Fake) -> None:
    for kind in ("server_vad", "semantic_vad"):
        detection = {"type": kind, "create_response": False}
        talk("session.update", session={"audio": {"input": {"turn_detection": detection}}})
        talk("input_audio_buffer.append", audio=append(question(after=2.0))["audio"])
    assert len(talk.told("input_audio_buffer.committed")) == 2
    assert talk.answering == []


def test_eagerness_is_the_length_of_the_pause(talk: Fake) -> None:
    ends = []
    for eagerness in ("high", "low"):
        talk = Fake()
        detection = {"type": "semantic_vad", "eagerness": eagerness}
        talk("session.update", session={"audio": {"input": {"turn_detection": detection}}})
        talk("input_audio_buffer.append", audio=append(question(after=3.0))["audio"])
        ends.append(talk.told("input_audio_buffer.speech_stopped")[0]["audio_end_ms"])
    assert ends[1] - ends[0] == pytest.approx(1_050, abs=40)  # without a model that knows when turns end


class Judging:
    """A model that hears nothing but how long a sound is, and thinks it as likely finished as it was told."""

    abilities = frozenset({"answer"})

    def __init__(self, likely: float | None) -> None:
        self.likely, self.heard = likely, []

    def hear(self, sound: np.ndarray) -> Heard:
        self.heard.append(Heard(torch.zeros(1, 1), len(sound) / 16_000))
        return self.heard[-1]

    def finished(self, heard: Heard) -> float | None:
        return self.likely


def turn_end(likely: float | None, detection: dict[str, str], after: float = 3.0) -> tuple[int, Judging, Fake]:
    """Where a turn ended (ms), what the model heard of it, and the talk."""
    model = Judging(likely)
    talk = Fake(model=model)
    talk("session.update", session={"audio": {"input": {"turn_detection": detection}}})
    talk("input_audio_buffer.append", audio=append(question(after=after))["audio"])
    return talk.told("input_audio_buffer.speech_stopped")[0]["audio_end_ms"], model, talk


def test_what_sounds_finished_ends_sooner() -> None:
    semantic = {"type": "semantic_vad"}
    ends = {likely: turn_end(likely, semantic)[0] for likely in (0.0, 1.0, None)}
    assert ends[0.0] - ends[1.0] == pytest.approx(1000 * (LONG - SHORT), abs=40)
    assert ends[None] - ends[1.0] == pytest.approx(1000 * (UNSURE - SHORT), abs=40)
    low = turn_end(1.0, semantic | {"eagerness": "low"})[0]
    assert low - ends[1.0] == pytest.approx(1000 * SHORT, abs=40)


@pytest.mark.parametrize("kind", ["server_vad", "semantic_vad"])
def test_what_was_heard_in_the_pause_is_asked(kind: str) -> None:
    _, model, talk = turn_end(1.0, {"type": kind})
    (response,) = talk.answering
    assert response.question.heard is model.heard[-1]
    sound = len(response.question.sound) / 16_000
    assert 0 <= sound - model.heard[-1].seconds < 0.4  # what is missing is silence
    assert talk.session.conversation.items[-1].parts[0].heard is model.heard[-1]


def test_what_was_heard_before_more_was_said_is_not_asked() -> None:
    model = Judging(0.0)
    talk = Fake(model=model)
    detection = {"type": "server_vad", "silence_duration_ms": 1500}
    talk("session.update", session={"audio": {"input": {"turn_detection": detection}}})
    for _ in range(2):  # 0.6 s lie between the two
        talk("input_audio_buffer.append", audio=append(question(before=0.1, after=0.5))["audio"])
    talk("input_audio_buffer.append", audio=append(bytes(2 * RATE))["audio"])
    (response,) = talk.answering
    assert len(model.heard) >= 2
    assert response.question.heard is model.heard[-1]
    assert model.heard[-1].seconds > 1.6 * model.heard[0].seconds


def test_what_was_heard_is_not_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sound = tiny_model(), tone(0.3)
    heard = model.hear(sound)
    fresh = list(Question(sound).stream(model, "text", DRAWN, Settings()))
    monkeypatch.setattr(model.bundle.audio_encoder, "encode", None)
    again = list(Question(sound, heard=heard).stream(model, "text", DRAWN, Settings()))
    assert [chunk.text for chunk in again] == [chunk.text for chunk in fresh] != []


def test_a_sound_that_cannot_be_heard_still_ends_a_turn() -> None:
    class Deaf(Judging):
        def hear(self, sound: np.ndarray) -> Heard:
            raise InputError("too short")

    talk = Fake(model=Deaf(1.0))
    talk("input_audio_buffer.append", audio=append(question())["audio"])
    assert talk.answering[0].question.heard is None


def test_push_to_talk_commits_by_hand(talk: Fake) -> None:
    talk("session.update", session={"audio": {"input": {"turn_detection": None}}})
    with pytest.raises(Problem) as caught:
        talk("input_audio_buffer.commit")
    assert code(caught) == "input_audio_buffer_commit_empty"
    assert talk("input_audio_buffer.append", audio=append(question())["audio"]) == []
    assert talk("input_audio_buffer.clear")[0]["type"] == "input_audio_buffer.cleared"
    with pytest.raises(Problem):
        talk("input_audio_buffer.commit")
    talk("input_audio_buffer.append", audio=append(bytes(2 * RATE))["audio"])
    talk("input_audio_buffer.commit")
    assert talk.session.conversation.items[-1].parts[0].seconds == pytest.approx(1.0, abs=0.001)
    assert talk.answering == []


def test_clearing_the_output_ends_the_answer(talk: Fake) -> None:
    with pytest.raises(Problem) as caught:
        talk("output_audio_buffer.clear")
    assert code(caught) == "invalid_value"
    talk.say(text("hello"))
    response = talk.respond()
    done, cleared = talk("output_audio_buffer.clear")
    assert done["response"]["status_details"]["reason"] == "client_cancelled"
    assert cleared["response_id"] == response.id


def ears(limit: float = 30.0, silence: float = 0.5) -> Ears:
    ears = Ears(Pcm(), RATE, limit)
    ears.detect(VoiceActivity(silence=silence), padding=0.3)
    return ears


def test_silence_is_forgotten_and_a_turn_has_its_padding() -> None:
    hearing = ears()
    hearing.push(bytes(2 * RATE * 60))
    assert hearing.seconds < 0.5
    found, overflow = hearing.push(question())
    started, stopped = found
    assert isinstance(started, SpeechStarted)
    assert isinstance(stopped, SpeechStopped)
    assert not overflow
    assert 60 < started.position / 16_000 < 60.7
    assert len(stopped.sound) == stopped.position - started.position
    spoken = load_audio(CAPITAL)
    assert np.abs(stopped.sound).max() == pytest.approx(np.abs(spoken).max(), rel=0.05)


def test_a_turn_ends_where_the_buffer_does() -> None:
    found, overflow = ears(limit=1.0).push(question())
    assert not overflow
    sounds = [edge.sound for edge in found if isinstance(edge, SpeechStopped)]
    assert len(sounds) >= 2
    assert all(len(sound) <= 16_000 for sound in sounds)


def test_a_commit_amid_speech_begins_a_new_turn() -> None:
    hearing, data = ears(), question()
    (edge,) = hearing.push(data[: len(data) // 2])[0]
    assert isinstance(edge, SpeechStarted)
    assert len(hearing.take()) > 8_000
    kinds = [type(edge) for edge in hearing.push(data[len(data) // 2 :])[0]]
    assert kinds == [SpeechStarted, SpeechStopped]


@pytest.mark.parametrize(
    ("form", "rate"), [(Pcm(), 8_000), (Pcm(), 44_100), (Pcm(), 16_000), (G711(type="audio/pcmu"), 8_000)]
)
def test_all_formats_sound_the_same(form: Pcm | G711, rate: int) -> None:
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype(np.float32)
    data = to_g711(tone, form.type) if isinstance(form, G711) else np.rint(tone * 32767).astype("<i2").tobytes()
    hearing = Ears(form, rate, 30.0)
    hearing.detect(None)
    for begin in range(0, len(data), 333):
        hearing.push(data[begin : begin + 333])
    heard = hearing.take()
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert len(heard) == pytest.approx(16_000, abs=4)
    assert np.abs(heard[500:15_500] - expected[500:15_500]).max() < 0.03


def test_the_answers_pieces_join_to_one_sound() -> None:
    wave = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)
    for form in (Pcm(), G711(type="audio/pcma")):
        whole = WireOut(RATE, form).push(wave, last=True)
        wire = WireOut(RATE, form)
        pieces = [wire.push(piece, last=index == 9) for index, piece in enumerate(np.array_split(wave, 10))]
        assert b"".join(pieces) == whole
        assert len(whole) == (2 * RATE if isinstance(form, Pcm) else 8_000)
