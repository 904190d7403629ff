"""Realtime sessions that listen while they speak: policies, events, what is remembered; and OpenAI's own client."""

import asyncio
import base64
import dataclasses

import numpy as np
import pytest
import soxr
from duplex import CAPITAL, ORDER, WEEK, Known, track
from realtime import append, endless_model
from serving import running
from talk import RATE, Fake, chunk, text

from omni2 import OmniModel
from omni2.codec.stream import to_pcm16
from omni2.serve.problems import Problem


def sound(*parts: float | np.ndarray) -> str:
    return append(to_pcm16(soxr.resample(track(*parts), 16_000, RATE)))["audio"]


def speaking(own: dict[str, object] | None = None, model: Known | None = None, seconds: float = 8.0) -> Fake:
    """A session in the middle of an answer whose sound is with the client already."""
    talk = Fake(model=model or Known())
    if own:
        talk("session.update", session={"omni2": own})
    talk.say(text("hello"))
    response = talk.respond()
    response.say(chunk("one two three four", round(seconds * RATE)))
    talk.session.played(response, seconds)
    return talk


def hear(talk: Fake, *parts: float | np.ndarray) -> list[str]:
    """The kinds of events that a sound at the microphone brings."""
    return [event["type"] for event in talk("input_audio_buffer.append", audio=sound(*parts))]


def test_an_order_ends_the_answer_and_is_no_question() -> None:
    talk = speaking({"interruption": "command"})
    told = hear(talk, 0.5, ORDER, 1.5)
    assert told[-2:] == ["response.done", "output_audio_buffer.cleared"]
    assert talk.told("response.done")[0]["response"]["status_details"]["reason"] == "turn_detected"
    assert "input_audio_buffer.speech_started" not in told
    assert len(talk.answering) == 1
    assert hear(talk, 0.5, WEEK, 1.0)[0] == "input_audio_buffer.speech_started"
    assert len(talk.answering) == 2


def test_an_order_is_obeyed_while_the_client_still_plays() -> None:
    talk = speaking({"interruption": "command"})
    response = talk.answering[0]
    response.say(chunk("", 10, "end"))
    talk.session.played(response, 0.0)
    assert hear(talk, 0.5, ORDER, 1.5) == ["output_audio_buffer.cleared"]


@pytest.mark.parametrize("policy", ["command", "off"])
def test_other_talk_is_not_for_it(policy: str) -> None:
    talk = speaking({"interruption": policy})
    assert hear(talk, 0.5, WEEK, 1.5) == []
    talk.answering[0].say(chunk("", 10, "end"))
    talk.session.played(talk.answering[0], 0.0)
    hear(talk, 6.0)  # until the client has played everything
    assert "input_audio_buffer.committed" in hear(talk, 0.5, WEEK, 1.5)


def test_speaking_up_is_the_next_turn() -> None:
    talk = speaking()
    told = hear(talk, 0.5, WEEK, 1.5)
    assert told.index("input_audio_buffer.speech_started") < told.index("response.done")
    assert told.index("output_audio_buffer.cleared") < told.index("input_audio_buffer.committed")
    assert len(talk.answering) == 2
    asked = talk.answering[1].question.sound
    assert len(asked) > len(WEEK)  # from its first sound on


def test_a_nod_is_neither_a_turn_nor_a_reason_to_stop() -> None:
    talk = speaking()
    assert hear(talk, 0.5, CAPITAL[8_000:14_000], 2.0) == []
    assert talk.session.response is talk.answering[0]


def test_suspicions_are_told_to_those_who_asked_for_them() -> None:
    talk = Fake(model=Known())
    sent: list[dict[str, object]] = []
    talk("session.update", session={"omni2": {"ducking": True}})
    talk.say(text("hello"))
    response = talk.respond()
    response.say(chunk("one", 8 * RATE))
    talk.session.played(response, 8.0)
    talk.send = sent.append  # these are no events of OpenAI's
    talk.session._host = talk
    hear(talk, 0.5, CAPITAL[8_000:14_000], 2.0)
    kinds = [str(event["type"]) for event in sent]
    assert kinds == ["omni2.output_audio_buffer.ducked", "omni2.output_audio_buffer.resumed"]
    assert {event["response_id"] for event in sent} == {response.id}


def test_choices_are_told_and_checked() -> None:
    talk = Fake()
    (updated,) = talk("session.update", session={"omni2": {"interruption": "command", "phrases": ["Enough now"]}})
    assert updated["session"]["omni2"] == {
        "interruption": "command", "phrases": ["Enough now"], "ducking": False,
    }  # fmt: skip
    for wrong in ({"interruption": "never"}, {"phrases": []}, {"phrases": [""]}, {"ducking": 1}):
        with pytest.raises(Problem):
            talk("session.update", session={"omni2": wrong})


def test_what_was_heard_is_remembered() -> None:
    talk = Fake()
    talk.say(text("first"))
    response = talk.respond()
    response.say(chunk("one two three four", RATE, "end"))
    talk.say(text("second"))
    assert talk.respond().question.history == (("first", "one two three four"),)
    talk("response.cancel")


def test_an_answer_that_was_cut_is_remembered_as_heard() -> None:
    talk = Fake()
    talk.say(text("first"))
    response = talk.respond()
    for index, word in enumerate(("one ", "two ", "three ", "four ")):
        response.say(dataclasses.replace(chunk(word, RATE), start=RATE * index))
    talk("response.cancel")
    talk("conversation.item.truncate", item_id=response.item.id, content_index=0, audio_end_ms=1_800)
    talk.say(text("second"))
    assert talk.respond().question.history == (("first", "one two"),)


@pytest.mark.slow
def test_the_sdk_is_told_to_fall_silent() -> None:
    openai = pytest.importorskip("openai")
    model = with_ears(endless_model())

    async def talk(address: str) -> list[str]:
        client = openai.AsyncOpenAI(api_key="x", base_url=f"{address}/v1")
        kinds: list[str] = []
        async with client.realtime.connect(model="omni2") as connection:
            await connection.session.update(
                session={"type": "realtime", "omni2": {"interruption": "command"}}  # type: ignore[typeddict-unknown-key]
            )
            content = [{"type": "input_text", "text": "hello"}]
            await connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
            await connection.response.create()
            said = base64.b64decode(sound(0.5, ORDER, 1.0))
            async for event in connection:
                kinds.append(event.type)
                if event.type == "response.output_audio.delta" and said:
                    for begin in range(0, len(said), 9_600):
                        piece = base64.b64encode(said[begin : begin + 9_600]).decode()
                        await connection.input_audio_buffer.append(audio=piece)
                    said = b""
                if event.type == "response.done":
                    assert event.response.status == "cancelled"
                    assert event.response.status_details.reason == "turn_detected"
                if event.type == "output_audio_buffer.cleared":
                    return kinds
        return kinds

    with running(model) as address:
        kinds = asyncio.run(asyncio.wait_for(talk(address), 60))
    assert kinds[-2:] == ["response.done", "output_audio_buffer.cleared"]
    assert model.engine.live == 0


def with_ears(model: OmniModel) -> OmniModel:
    """A toy that takes `ORDER` for an order to stop."""
    model.bundle = dataclasses.replace(model.bundle, abilities=model.bundle.abilities | {"listen"})
    model.ordered = Known().ordered
    return model
