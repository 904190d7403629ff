"""Responses of a realtime session: what is asked, every way they can end, what is left of them when they are cut."""

import base64

import numpy as np
import pytest
from talk import PICTURE, RATE, Fake, answered, chunk, code, text

from omni2.serve.problems import Problem, busy
from omni2.serve.realtime.items import MOST_ITEMS


@pytest.fixture
def talk() -> Fake:
    return Fake()


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


def test_an_answer_is_cut_to_what_was_heard(talk: Fake) -> None:
    item = answered(talk).item
    place = {"item_id": item.id, "content_index": 0}
    assert talk("conversation.item.truncate", audio_end_ms=500, **place)[0]["audio_end_ms"] == 500
    content = talk("conversation.item.retrieve", item_id=item.id)[0]["item"]["content"][0]
    assert content["transcript"] == "one two"
    assert len(base64.b64decode(content["audio"])) == 2 * RATE * 500 // 1000
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
