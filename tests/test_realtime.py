"""`/v1/realtime` against a live server: OpenAI's own client and a plain one."""

import asyncio
import base64
from collections.abc import Iterator

import numpy as np
import pytest
import soxr
from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection
from realtime import (
    CANCEL,
    COMMIT,
    RESPOND,
    Client,
    Json,
    answered,
    append,
    check,
    endless_model,
    push_to_talk,
    question,
    typed,
    update,
)
from serving import running, until
from toys import photo, tiny_model

from omni2 import OmniModel
from omni2.audio import load_audio
from omni2.serve.sound import from_g711

SPOKEN = [
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "conversation.item.done",
    "response.output_item.done",
    "response.done",
]
HEARD = [
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.done",
]


@pytest.fixture(scope="module")
def model() -> OmniModel:
    return tiny_model(block_size=200)  # room for a sentence


@pytest.fixture(scope="module")
def address(model: OmniModel) -> Iterator[str]:
    with running(model) as address:
        yield address


@pytest.fixture(scope="module")
def talker() -> OmniModel:
    return endless_model()


@pytest.fixture(scope="module")
def endless(talker: OmniModel) -> Iterator[str]:
    with running(talker) as address:
        yield address


def kinds(events: list[Json]) -> list[str]:
    """Their types in order, without deltas and greetings."""
    return [e["type"] for e in events if not e["type"].endswith(".delta") and not e["type"].startswith("session.")]


async def ask_by_voice(connection: AsyncRealtimeConnection) -> list[Json]:
    """Speak as a microphone does, piece by piece; all events up to the answer's end and the question's transcript."""
    data = question()
    for begin in range(0, len(data), 4_800):
        await connection.input_audio_buffer.append(audio=base64.b64encode(data[begin : begin + 4_800]).decode())
    events, awaited = [], {"response.done", "conversation.item.input_audio_transcription.completed"}
    while awaited:
        events.append(check(await asyncio.wait_for(connection.recv_bytes(), 60)))
        awaited.discard(events[-1]["type"])
    return events


def test_the_stock_client_holds_a_conversation(address: str) -> None:
    """By voice with the server's turn detection, then typed, in one session; the toy's words mean nothing."""

    async def talk() -> None:
        client = AsyncOpenAI(api_key="x", base_url=f"{address}/v1")
        async with client.realtime.connect(model="omni2") as connection:
            await connection.session.update(
                session={"type": "realtime", "audio": {"input": {"transcription": {"model": "omni2"}}}}
            )
            events = await ask_by_voice(connection)
            transcribed = [e for e in events if "input_audio_transcription" in e["type"]]
            assert kinds([e for e in events if e not in transcribed]) == HEARD + SPOKEN
            user, assistant = (e["item"] for e in events if e["type"] == "conversation.item.done")
            assert {e["item_id"] for e in transcribed} == {user["id"]}
            assert (user["role"], assistant["role"]) == ("user", "assistant")
            assert {e["item_id"] for e in events if e["type"].startswith("input_audio_buffer")} == {user["id"]}
            await connection.conversation.item.create(
                item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "and now?"}]}
            )
            await connection.response.create(response={"output_modalities": ["text"]})
            kind, deltas = "", ""
            while kind != "response.done":
                event = check(await asyncio.wait_for(connection.recv_bytes(), 60))
                kind = event["type"]
                deltas += event["delta"] if kind == "response.output_text.delta" else ""
            assert answered(event["response"])
            assert event["response"]["output"][0]["content"] == [{"type": "output_text", "text": deltas}]

    asyncio.run(talk())


@pytest.mark.assets
def test_nano_answers_the_stock_client_by_voice() -> None:
    async def talk(address: str) -> list[Json]:
        client = AsyncOpenAI(api_key="x", base_url=f"{address}/v1")
        async with client.realtime.connect(model="nano") as connection:
            transcription = {"transcription": {"model": "nano"}}
            await connection.session.update(session={"type": "realtime", "audio": {"input": transcription}})
            return await ask_by_voice(connection)

    model = OmniModel.from_pretrained("nano")
    with running(model) as address:
        events = asyncio.run(talk(address))
    told = {event["type"]: event for event in events}
    assert told["response.done"]["response"]["status"] == "completed"
    assert "capital of France" in told["conversation.item.input_audio_transcription.completed"]["transcript"]
    assert "Paris" in told["response.output_audio_transcript.done"]["transcript"]
    sound = b"".join(base64.b64decode(e["delta"]) for e in events if e["type"] == "response.output_audio.delta")
    samples = np.frombuffer(sound, "<i2") / 32768
    assert 1.5 < len(samples) / 24_000 < 5
    assert samples.std() > 0.02


def test_push_to_talk(address: str, model: OmniModel) -> None:
    """The same sound gives what the library says of it, bit by bit; nothing happens before the commit."""
    with Client(address) as client:
        client.say(push_to_talk(), append(question()), COMMIT, RESPOND)
        done = client.until("response.done")
        assert kinds(client.events) == [*HEARD[2:], *SPOKEN]
        heard = np.frombuffer(question(), "<i2").astype(np.float32) / np.float32(32768)
        expected = model.answer(soxr.resample(heard, 24_000, 16_000))
        assert done["response"]["output"][0]["content"][0]["transcript"] == expected.text
        assert abs(len(client.sound()) / 2 / 24_000 - expected.timings.audio) < 0.001


def test_a_microphones_own_rate(address: str) -> None:
    with Client(address, "?input_rate=48000") as client:
        client.say(append(question(48_000)))
        started = client.until("input_audio_buffer.speech_started")["audio_start_ms"]
        stopped = client.until("input_audio_buffer.speech_stopped")["audio_end_ms"]
        assert 100 < started < 700
        assert 1.5 < (stopped - started) / 1000 < 3.2
        client.until("response.done")


@pytest.mark.parametrize("law", ["audio/pcmu", "audio/pcma"])
def test_telephone_speech_both_ways(address: str, model: OmniModel, law: str) -> None:
    from omni2.serve.sound import to_g711

    wave = load_audio_at(8_000)
    with Client(address) as client:
        form = {"format": {"type": law}}
        client.say(update(audio={"input": {**form, "turn_detection": None}, "output": form}))
        client.say(append(to_g711(wave, law)), COMMIT, RESPOND)
        assert client.until("response.done")["response"]["audio"]["output"]["format"]["type"] == law
        item = client.all("input_audio_buffer.committed")[0]["item_id"]
        client.say({"type": "conversation.item.retrieve", "item_id": item})
        kept = client.until("conversation.item.retrieved")["item"]["content"][0]["audio"]
        assert len(base64.b64decode(kept)) == pytest.approx(len(wave), abs=20)
        spoken = from_g711(client.sound(), law)
        assert len(spoken) / 8_000 == pytest.approx(spoken_seconds(client, 8_000), abs=0.01)


def load_audio_at(rate: int) -> np.ndarray:
    from realtime import CAPITAL

    return soxr.resample(load_audio(CAPITAL), 16_000, rate)


def spoken_seconds(client: Client, rate: int) -> float:
    """How long the answer is by the server's own account: the longest cut it allows."""
    answer = client.all("response.output_item.done")[-1]["item"]["id"]
    client.say({"type": "conversation.item.retrieve", "item_id": answer})
    content = client.until("conversation.item.retrieved")["item"]["content"][0]
    return len(base64.b64decode(content["audio"])) / rate


def test_a_model_that_sees_takes_the_picture_and_the_voice(address: str) -> None:
    with Client(address) as client:
        client.say(picture_item(), append(question()))
        assert answered(client.until("response.done")["response"])


def test_a_model_that_cannot_see_says_so_and_the_session_goes_on() -> None:
    with running(tiny_model(abilities=frozenset({"answer"}), block_size=200)) as address, Client(address) as client:
        client.say(picture_item(), RESPOND)
        response = client.until("response.done")["response"]
        assert response["status"] == "failed"
        assert response["status_details"]["error"]["code"] == "unsupported"
        client.say(update(audio={"input": {"transcription": {"model": "m"}}}), append(question()))
        failed = client.until("conversation.item.input_audio_transcription.failed")
        assert failed["error"]["code"] == "unsupported"
        client.say(typed("hello"), RESPOND)
        assert answered(client.until("response.done")["response"])


def picture_item() -> Json:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(photo()).save(file, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    content = [{"type": "input_image", "image_url": uri}]
    return {"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": content}}


def test_speech_interrupts_the_answer(endless: str, talker: OmniModel) -> None:
    with Client(endless) as client:
        client.say(append(question()))
        client.until("response.output_audio.delta")
        client.say(append(question()))
        response = client.until("response.done")["response"]
        assert (response["status"], response["status_details"]["reason"]) == ("cancelled", "turn_detected")
        assert response["output"][0]["status"] == "incomplete"
        assert kinds(client.events).index("response.done") > kinds(client.events).index(HEARD[0])
        client.until("response.output_audio.delta")  # the next turn is answered
    until(lambda: talker.engine.live == 0)


def test_many_turns_in_one_message_are_all_written_down(address: str) -> None:
    """Each interrupts the answer to the one before, some before it is begun."""
    with Client(address) as client:
        client.say(update(audio={"input": {"transcription": {"model": "m"}}}), append(6 * question()))
        transcribed = "conversation.item.input_audio_transcription.completed"
        while len(client.all(transcribed)) < 6:
            client.until(transcribed)
        assert {e["item_id"] for e in client.all(transcribed)} == {
            e["item_id"] for e in client.all("input_audio_buffer.committed")
        }


def test_cancelling_stops_the_decoding_and_makes_room(endless: str, talker: OmniModel) -> None:
    with Client(endless) as client:
        client.say(typed("go on"), RESPOND)
        client.until("response.output_audio.delta")
        client.say({**RESPOND, "event_id": "second"})
        error = client.until("error")["error"]
        assert (error["code"], error["event_id"]) == ("conversation_already_has_active_response", "second")
        client.say(CANCEL)
        response = client.until("response.done")["response"]
        assert (response["status"], response["status_details"]["reason"]) == ("cancelled", "client_cancelled")
        until(lambda: talker.engine.live == 0)
        client.say({"type": "response.create", "response": {"max_output_tokens": 5}})
        response = client.until("response.done")["response"]
        assert (response["status"], response["status_details"]["reason"]) == ("incomplete", "max_output_tokens")


def test_who_hangs_up_stops_the_decoding(endless: str, talker: OmniModel) -> None:
    with Client(endless) as client:
        client.say(typed("go on"), RESPOND)
        client.until("response.output_audio.delta")
        assert talker.engine.live == 1
        client.socket.socket.close()
    until(lambda: talker.engine.live == 0)
