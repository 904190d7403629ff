"""The rules of a realtime session, without server and model: its choices, its items, and every event is checked."""

import pytest
from realtime import Json
from talk import PICTURE, Fake, code, text

from omni2.serve.problems import Problem
from omni2.serve.realtime.events import SessionConfig, merge, read_json
from omni2.serve.realtime.items import MOST_ITEMS, MOST_MEDIA


@pytest.fixture
def talk() -> Fake:
    return Fake()


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
