"""The rules of a realtime session, without server and model: every event is checked, every way a response can end."""

import base64
import json

import numpy as np
import pytest
from realtime import CAPITAL, Json, append, check, question

from omni2 import Chunk
from omni2.audio import load_audio
from omni2.serve.problems import Problem, busy
from omni2.serve.realtime.events import G711, AudioAppend, Pcm, SessionConfig, merge, read_event, read_json
from omni2.serve.realtime.items import MOST_ITEMS, MOST_MEDIA, Item, Part
from omni2.serve.realtime.response import Response
from omni2.serve.realtime.session import Session
from omni2.serve.realtime.wire import Ears, SpeechStarted, SpeechStopped, WireOut
from omni2.serve.sound import to_g711
from omni2.serve.vad import VoiceActivity

RATE = 24_000
PICTURE = "data:image/png;base64,AAAA"


class Fake:
    """A session whose answers are decoded by hand; keeps all events, each checked against its type."""

    def __init__(self, **given: object) -> None:
        self.events: list[Json] = []
        self.answering: list[Response] = []
        self.stopped: list[Response] = []
        self.transcribing: list[tuple[Item, Part]] = []
        self.session = Session(self, "toy", RATE, 30.0, **given)

    def send(self, event: Json) -> None:
        self.events.append(check(json.dumps({"event_id": "event_1", **event})))

    def answer(self, response: Response) -> None:
        self.answering.append(response)

    def stop(self, response: Response) -> None:
        self.stopped.append(response)

    def transcribe(self, item: Item, part: Part) -> None:
        self.transcribing.append((item, part))

    def __call__(self, kind: str, **fields: object) -> list[Json]:
        """Send an event; what it was answered with."""
        before = len(self.events)
        event = read_event({"type": kind, **fields})
        if isinstance(event, AudioAppend):
            self.session.heard(*self.session.ears.push(self.session.sound_of(event)))
        else:
            self.session.handle(event)
        return self.events[before:]

    def say(self, *content: Json, role: str = "user", **fields: object) -> str:
        """Create an item; its id."""
        item = {"type": "message", "role": role, "content": list(content)}
        added: str = self("conversation.item.create", item=item, **fields)[0]["item"]["id"]
        return added

    def respond(self, **choices: object) -> Response:
        self("response.create", response=choices)
        return self.answering[-1]

    def told(self, kind: str) -> list[Json]:
        return [event for event in self.events if event["type"] == kind]

    def order(self) -> list[str]:
        """The ids of the conversation's items."""
        return [item.id for item in self.session.conversation.items]


def text(words: str) -> Json:
    return {"type": "input_text", "text": words}


def chunk(words: str, samples: int = 0, reason: str | None = None) -> Chunk:
    return Chunk(np.full(samples, 0.25, np.float32), words, reason)


@pytest.fixture
def talk() -> Fake:
    return Fake()


def code(caught: pytest.ExceptionInfo[Problem]) -> str:
    return caught.value.code


def test_a_session_greets_with_its_choices(talk: Fake) -> None:
    talk.session.begin()
    session = talk.events[0]["session"]
    assert session["model"] == "toy"
    assert session["audio"]["input"]["turn_detection"]["type"] == "server_vad"
    assert session["audio"]["output"]["format"] == {"type": "audio/pcm", "rate": 24000}


def test_updates_change_what_they_name_and_nothing_else(talk: Fake) -> None:
    talk("session.update", session={"audio": {"input": {"transcription": {"model": "m"}}}})
    changed = {"type": "server_vad", "silence_duration_ms": 900}
    talk("session.update", session={"audio": {"input": {"turn_detection": changed}}, "instructions": "be brief"})
    (event,) = talk("session.update", session={"output_modalities": ["text"]})
    heard = event["session"]["audio"]["input"]
    assert heard["transcription"]["model"] == "m"
    assert (heard["turn_detection"]["silence_duration_ms"], heard["turn_detection"]["threshold"]) == (900, 0.5)
    assert event["session"]["instructions"] == "be brief"
    (event,) = talk("session.update", session={"audio": {"input": {"turn_detection": None, "transcription": None}}})
    assert event["session"]["audio"]["input"]["turn_detection"] is None
    assert event["session"]["audio"]["input"]["transcription"] is None
    assert event["session"]["output_modalities"] == ["text"]


def test_merging_another_kind_replaces_it() -> None:
    old = SessionConfig.model_validate(
        {"audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 0.9}}}}
    )
    new = SessionConfig.model_validate({"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}})
    assert merge(old, new).audio.input.turn_detection == new.audio.input.turn_detection
    assert merge(new, SessionConfig()) == new


@pytest.mark.parametrize(
    ("kind", "fields", "param"),
    [
        ("session.update", {"session": {"output_modalities": ["text", "audio"]}}, "session.output_modalities"),
        ("session.update", {"session": {"type": "transcription"}}, "session.type"),
        ("session.update", {"session": {"max_output_tokens": 0}}, "session.max_output_tokens"),
        ("session.update", {"session": {"audio": {"output": {"format": {"type": "audio/mp3"}}}}}, "session.audio"),
        ("session.update", {"session": {"audio": {"output": {"format": {"type": "audio/pcm", "rate": 8000}}}}}, "rate"),
        ("input_audio_buffer.append", {}, "audio"),
        ("input_audio_buffer.append", {"audio": 5}, "audio"),
        ("conversation.item.create", {"item": {"type": "function_call", "name": "f"}}, "item"),
        ("conversation.item.truncate", {"item_id": "a", "content_index": 0, "audio_end_ms": -1}, "audio_end_ms"),
        ("response.create", {"response": {"output_modalities": []}}, "response.output_modalities"),
        ("no.such", {}, "type"),
    ],
)
def test_fields_that_do_not_fit_are_named(talk: Fake, kind: str, fields: Json, param: str) -> None:
    with pytest.raises(Problem) as caught:
        talk(kind, **fields)
    assert param in (caught.value.param or "")
    assert talk.events == []


def test_json_that_is_none_is_told() -> None:
    for message in (None, "", "[1]", "{", '{"a": NaN}', '{"a": "\\ud800"}'):
        with pytest.raises(Problem) as caught:
            read_json(message)
        assert code(caught) == "invalid_json"


def test_a_spoken_answer_in_full(talk: Fake) -> None:
    asked = talk.say(text("hello"))
    response = talk.respond(metadata={"topic": "x"})
    response.say(chunk("Good "))
    response.say(chunk("day.", 2_400))
    response.say(chunk("", 1_200, "end"))
    place = {"item_id": response.item.id, "response_id": response.id, "output_index": 0, "content_index": 0}
    sounds = talk.told("response.output_audio.delta")
    assert all(place.items() <= event.items() for event in sounds)
    pcm = np.frombuffer(b"".join(base64.b64decode(event["delta"]) for event in sounds), "<i2")
    assert (len(pcm), set(pcm)) == (3_600, {round(0.25 * 32767)})
    done = talk.told("response.done")[0]["response"]
    assert (done["status"], done["metadata"]) == ("completed", {"topic": "x"})
    assert done["output"][0]["content"] == [{"type": "output_audio", "transcript": "Good day."}]
    assert talk.told("conversation.item.added")[1]["previous_item_id"] == asked
    assert talk.told("response.output_audio_transcript.done")[0]["transcript"] == "Good day."
    assert talk.session.response is None


def test_a_written_answer_in_full(talk: Fake) -> None:
    talk.say(text("hello"))
    response = talk.respond(output_modalities=["text"])
    assert response.reply == "text"
    response.say(chunk("Good "))
    response.say(chunk("day.", 0, "end"))
    kinds = [event["type"] for event in talk.events if event["type"].startswith("response.")]
    assert kinds == [
        "response.created",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.done",
    ]
    assert talk.told("response.output_text.done")[0]["text"] == "Good day."


def test_a_full_context_is_an_incomplete_answer(talk: Fake) -> None:
    talk.say(text("hello"))
    talk.respond(max_output_tokens=3).say(chunk("Good", 10, "length"))
    response = talk.told("response.done")[0]["response"]
    assert response["status_details"] == {"type": "incomplete", "reason": "max_output_tokens"}
    assert (response["max_output_tokens"], talk.answering[0].most) == (3, 3)


@pytest.mark.parametrize("begun", [False, True])
def test_a_failed_answer(talk: Fake, begun: bool) -> None:
    talk.say(text("hello"))
    response = talk.respond()
    if begun:
        response.say(chunk("Good", 10))
    response.end("failed", problem=busy())
    done = talk.told("response.done")[0]["response"]
    assert (done["status"], done["status_details"]["error"]["code"]) == ("failed", "server_busy")
    assert len(done["output"]) == begun
    response.say(chunk("day"))
    assert talk.events[-1]["type"] == "response.done"


@pytest.mark.parametrize("begun", [False, True])
def test_a_cancelled_answer_is_over_at_once(talk: Fake, begun: bool) -> None:
    talk.say(text("hello"))
    response = talk.respond()
    if begun:
        response.say(chunk("Good", 10))
    with pytest.raises(Problem) as caught:
        talk("response.cancel", response_id="resp_of_another")
    assert code(caught) == "response_cancel_not_active"
    assert talk("response.cancel", response_id=response.id)[-1]["response"]["status"] == "cancelled"
    assert talk.stopped == [response]
    count = len(talk.events)
    response.say(chunk("day", 10))  # a chunk that was on its way
    response.end("failed", problem=busy())
    assert len(talk.events) == count
    with pytest.raises(Problem):
        talk("response.cancel")
    assert talk.respond() is not response


def test_one_response_at_a_time(talk: Fake) -> None:
    talk.say(text("hello"))
    first = talk.respond()
    with pytest.raises(Problem) as caught:
        talk.respond()
    assert code(caught) == "conversation_already_has_active_response"
    first.say(chunk("", 0, "end"))
    talk.respond()


def test_what_is_asked_is_what_was_said_since_the_last_answer(talk: Fake) -> None:
    sound = {"type": "input_audio", "audio": base64.b64encode(bytes(9_600)).decode()}
    talk.say({"type": "input_image", "image_url": PICTURE})
    talk.say(text("old"), text("words"))
    talk.say(text("ignored"), role="system")
    asked = talk.respond().question
    assert (asked.text, asked.image, asked.sound) == ("old\nwords", PICTURE, None)
    talk("response.cancel")
    talk.say(sound)
    asked = talk.respond().question
    assert (len(asked.sound), asked.rate, asked.text, asked.image) == (4_800, 24_000, None, None)
    talk("response.cancel")
    assert talk.respond().question.sound is not None  # once more


def test_a_response_with_an_input_of_its_own(talk: Fake) -> None:
    first = talk.say(text("first"))
    talk.say(text("second"))
    response = talk.respond(conversation="none", input=[{"type": "item_reference", "id": first}])
    assert response.question.text == "first"
    response.say(chunk("Good", 10, "end"))
    assert len(talk.session.conversation.items) == 2
    assert talk.told("response.done")[0]["response"]["conversation_id"] is None
    given = {"type": "message", "role": "user", "content": [text("third")]}
    assert talk.respond(input=[given]).question.text == "third"
    talk("response.cancel")
    with pytest.raises(Problem) as caught:
        talk.respond(input=[{"type": "item_reference", "id": "nowhere"}])
    assert code(caught) == "item_not_found"
    assert talk.session.response is None


def test_items_are_put_where_they_belong(talk: Fake) -> None:
    one = talk.say(text("one"))
    two = talk.say(text("two"), previous_item_id="root")
    three = talk.say(text("three"), previous_item_id=two)
    assert talk.order() == [two, three, one]
    assert [event["previous_item_id"] for event in talk.told("conversation.item.done")] == [None, None, two]
    (event,) = talk("conversation.item.retrieve", item_id=three)
    assert event["item"]["content"] == [{"type": "input_text", "text": "three"}]
    assert talk("conversation.item.delete", item_id=three)[0]["item_id"] == three
    assert talk.order() == [two, one]
    for fields in ({"item_id": three}, {"item_id": ""}):
        with pytest.raises(Problem) as caught:
            talk("conversation.item.delete", **fields)
        assert code(caught) == "item_not_found"
    with pytest.raises(Problem):
        talk.say(text("nowhere"), previous_item_id=three)
    assert talk.order() == [two, one]


@pytest.mark.parametrize(
    ("role", "content"),
    [
        ("assistant", text("x")),
        ("user", {"type": "output_text", "text": "x"}),
        ("system", {"type": "input_image", "image_url": PICTURE}),
        ("user", {"type": "input_text"}),
        ("user", {"type": "input_image", "image_url": "https://example.org/cat.png"}),
        ("user", {"type": "input_image", "image_url": "data:image/png;base64,%"}),
        ("user", {"type": "input_audio", "audio": "?"}),
        ("user", {"type": "input_audio", "audio": "AAAA"}),
    ],
)
def test_contents_that_do_not_fit_are_refused(talk: Fake, role: str, content: Json) -> None:
    with pytest.raises(Problem) as caught:
        talk.say(content, role=role)
    assert (caught.value.param or "").startswith("item.content.0")
    assert talk.order() == []


def test_an_id_is_taken_once(talk: Fake) -> None:
    item = {"type": "message", "role": "assistant", "id": "mine", "content": [{"type": "output_text", "text": "x"}]}
    assert talk("conversation.item.create", item=item)[0]["item"]["id"] == "mine"
    with pytest.raises(Problem) as caught:
        talk("conversation.item.create", item=item)
    assert code(caught) == "item_already_exists"


def test_a_long_conversation_stays_bounded(talk: Fake) -> None:
    for _ in range(MOST_MEDIA + 2):
        talk.say({"type": "input_image", "image_url": PICTURE})
    assert sum(item.parts[0].image is not None for item in talk.session.conversation.items) == MOST_MEDIA
    for index in range(MOST_ITEMS):
        talk.say(text(str(index)))
    assert len(talk.order()) == MOST_ITEMS


def answered(talk: Fake) -> Response:
    """A spoken answer of 1 s."""
    talk.say(text("hello"))
    response = talk.respond()
    response.say(chunk("one two three four", RATE, "end"))
    return response


def test_an_answer_is_cut_to_what_was_heard(talk: Fake) -> None:
    item = answered(talk).item
    place = {"item_id": item.id, "content_index": 0}
    assert talk("conversation.item.truncate", audio_end_ms=600, **place)[0]["audio_end_ms"] == 600
    content = talk("conversation.item.retrieve", item_id=item.id)[0]["item"]["content"][0]
    assert content["transcript"] == "one two"
    assert len(base64.b64decode(content["audio"])) == 2 * RATE * 600 // 1000
    for wrong in ({"audio_end_ms": 602}, {"audio_end_ms": 0, "content_index": 1}):
        with pytest.raises(Problem):
            talk("conversation.item.truncate", **{**place, **wrong})
    talk("conversation.item.truncate", audio_end_ms=0, **place)
    assert item.parts[0].text == ""
    with pytest.raises(Problem):
        talk("conversation.item.truncate", item_id=talk.order()[0], content_index=0, audio_end_ms=0)


def test_cutting_at_the_end_keeps_all(talk: Fake) -> None:
    item = answered(talk).item
    talk("conversation.item.truncate", item_id=item.id, content_index=0, audio_end_ms=1000)
    assert item.parts[0].text == "one two three four"


@pytest.mark.parametrize("kind", ["truncate", "delete"])
def test_cutting_or_deleting_an_answer_under_way_ends_it(talk: Fake, kind: str) -> None:
    talk.say(text("hello"))
    response = talk.respond()
    response.say(chunk("Good day", RATE))
    fields = {"content_index": 0, "audio_end_ms": 500} if kind == "truncate" else {}
    events = talk(f"conversation.item.{kind}", item_id=response.item.id, **fields)
    assert [event["type"] for event in events][-2] == "response.done"
    assert talk.session.response is None


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
    assert ends[1] - ends[0] == pytest.approx(1_100, abs=40)


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


def test_what_is_with_the_client_cannot_be_cleared_here(talk: Fake) -> None:
    with pytest.raises(Problem) as caught:
        talk("output_audio_buffer.clear")
    assert code(caught) == "unsupported"


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


def test_an_answer_outlives_a_flood_of_items(talk: Fake) -> None:
    talk.say(text("hello"))
    response = talk.respond()
    response.say(chunk("Good", 10))
    for _ in range(MOST_ITEMS + 1):
        talk.say(text("x"))
    response.say(chunk("day", 10, "end"))
    assert talk.events[-1]["response"]["status"] == "completed"


def test_a_second_answer_knows_its_place(talk: Fake) -> None:
    for _ in range(2):
        answered(talk)
    places = [event["previous_item_id"] for event in talk.told("conversation.item.done")]
    assert places == [None, *talk.order()[:-1]]
