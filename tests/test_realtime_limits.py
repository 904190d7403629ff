"""`/v1/realtime` against a live server: who may come in, how much and how long, and nothing that is sent breaks it."""

import base64
import json
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from realtime import (
    CANCEL,
    COMMIT,
    RESPOND,
    Client,
    answered,
    append,
    endless_model,
    push_to_talk,
    typed,
)
from serving import running, until
from toys import tiny_model
from websockets.exceptions import ConnectionClosed, InvalidStatus

from omni2 import OmniModel


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


def test_a_busy_server_fails_the_response_and_keeps_the_session(talker: OmniModel) -> None:
    limits = {"max_sessions": 1, "max_queue": 0}
    with running(talker, **limits) as address, Client(address) as one, Client(address) as other:
        one.say(typed("go on"), RESPOND)
        one.until("response.output_audio.delta")
        other.say(typed("me too"), RESPOND)
        response = other.until("response.done")["response"]
        assert (response["status"], response["status_details"]["error"]["code"]) == ("failed", "server_busy")
        one.say(CANCEL)
        one.until("response.done")
        other.say({"type": "response.create", "response": {"max_output_tokens": 3}})
        assert other.until("response.done")["response"]["status"] == "incomplete"


def refused(address: str, query: str = "", **options: object) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as caught, Client(address, query, **options):
        pass
    return caught.value.response.status_code, json.loads(caught.value.response.body)["error"]["code"]


def test_who_may_come_in(model: OmniModel) -> None:
    with running(model, api_key="secret", origins=("https://friend.example",)) as address:
        assert refused(address) == (401, "invalid_api_key")
        key = {"additional_headers": {"Authorization": "Bearer secret"}}
        assert refused(address, origin="https://stranger.example", **key) == (403, "origin_not_allowed")
        for origin in ("https://friend.example", address):
            with Client(address, origin=origin, **key):
                pass
        offered = ["realtime", "openai-insecure-api-key.secret"]
        with Client(address, subprotocols=offered) as client:
            assert client.socket.subprotocol == "realtime"


def test_impossible_rates_are_refused(address: str) -> None:
    for rate in ("7999", "48001", "-1", "1e4", "fast", "9" * 5_000, "١٦٠٠٠", ""):
        assert refused(address, f"?input_rate={rate}") == (422, "invalid_value")


def test_connections_are_bounded(model: OmniModel) -> None:
    with running(model, max_connections=2) as address:
        with Client(address), Client(address):
            assert refused(address) == (503, "server_busy")
        until(lambda: admitted(address))


def admitted(address: str) -> bool:
    try:
        with Client(address):
            return True
    except InvalidStatus:
        return False


@pytest.mark.parametrize(("limits", "code"), [({"idle_seconds": 0.2}, 1000), ({"total_seconds": 0.2}, 1000)])
def test_time_is_bounded(model: OmniModel, limits: dict[str, float], code: int) -> None:
    with running(model, **limits) as address, Client(address) as client:
        with pytest.raises(ConnectionClosed) as caught:
            client.until("response.done")
        assert caught.value.rcvd.code == code


def test_too_large_a_message_ends_the_connection_with_1009(model: OmniModel) -> None:
    with running(model, max_body=10_000) as address, Client(address) as client:
        client.say(append(bytes(7_000)), "x" * 20_000)
        with pytest.raises(ConnectionClosed) as caught:
            client.until("response.done")
        assert caught.value.rcvd.code == 1009


def test_a_full_buffer_says_so_and_keeps_what_fits(model: OmniModel) -> None:
    with running(model, max_audio_seconds=2.0) as address, Client(address) as client:
        client.say(push_to_talk(), append(bytes(2 * 24_000 * 3)))
        assert client.until("error")["error"]["code"] == "input_audio_buffer_full"
        client.say(COMMIT)
        item = client.until("input_audio_buffer.committed")["item_id"]
        client.say({"type": "conversation.item.retrieve", "item_id": item})
        kept = base64.b64decode(client.until("conversation.item.retrieved")["item"]["content"][0]["audio"])
        assert len(kept) / 48_000 == pytest.approx(2.0, abs=0.05)


TYPES = [
    "session.update",
    "input_audio_buffer.append",
    "input_audio_buffer.commit",
    "input_audio_buffer.clear",
    "output_audio_buffer.clear",
    "conversation.item.create",
    "conversation.item.retrieve",
    "conversation.item.delete",
    "conversation.item.truncate",
    "response.create",
    "response.cancel",
]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner))
SOUND = st.binary(max_size=9_000).map(lambda data: base64.b64encode(data).decode())
IDS = st.sampled_from(["a", "b", "root", ""]) | st.text(max_size=5)
CONTENT = st.fixed_dictionaries(
    {"type": st.sampled_from(["input_text", "input_audio", "input_image", "output_text", "x"])},
    optional={"text": st.text(max_size=30), "audio": SOUND | JSON, "image_url": st.text(max_size=30) | JSON},
)
ITEM = st.fixed_dictionaries(
    {"type": st.just("message"), "role": st.sampled_from(["user", "system", "assistant"])},
    optional={"content": st.lists(CONTENT, max_size=3), "id": IDS},
)
VAD = st.fixed_dictionaries(
    {"type": st.sampled_from(["server_vad", "semantic_vad"])},
    optional={"threshold": st.floats(0, 1), "silence_duration_ms": st.integers(100, 9_000), "eagerness": JSON},
)
SIDE = st.fixed_dictionaries(
    {},
    optional={
        "format": st.sampled_from([{"type": f"audio/{name}"} for name in ("pcm", "pcmu", "pcma", "mp3")]),
        "turn_detection": st.none() | VAD,
        "transcription": st.none() | st.just({"model": "m"}),
    },
)
SESSION = st.fixed_dictionaries(
    {"type": st.just("realtime")},
    optional={"audio": st.fixed_dictionaries({"input": SIDE, "output": SIDE}), "output_modalities": JSON},
)
EVENT = st.fixed_dictionaries(
    {"type": st.sampled_from(TYPES)},
    optional={
        "event_id": IDS | JSON,
        "audio": SOUND | JSON,
        "session": SESSION | JSON,
        "item": ITEM | JSON,
        "item_id": IDS,
        "previous_item_id": IDS,
        "content_index": st.integers(),
        "audio_end_ms": st.integers(),
        "response": JSON | st.fixed_dictionaries({"output_modalities": st.sampled_from([["text"], ["audio"]])}),
        "response_id": IDS,
    },
)
MESSAGES = st.lists(EVENT.map(json.dumps) | JSON.map(json.dumps) | st.text(max_size=50) | st.binary(max_size=50))


@pytest.mark.slow
@given(messages=MESSAGES)
@settings(max_examples=60, deadline=None)
def test_nothing_that_is_sent_breaks_the_session(address: str, messages: list[str | bytes]) -> None:
    """Whatever comes, in any order, is answered by valid events, and the last question still gets its answer."""
    with Client(address) as client:
        client.say(*messages)
        client.say({"type": "conversation.item.retrieve", "item_id": "nowhere", "event_id": "the last"})
        while client.until("error")["error"]["event_id"] != "the last":
            pass
        assert all(error["error"]["code"] != "internal_error" for error in client.all("error"))


@pytest.mark.parametrize(
    "message",
    [
        b"\x00\x01",
        "",
        "{",
        "null",
        "[]",
        '{"type": 1}',
        '{"type": "no.such.event"}',
        '{"type": "response.cancel"}',
        '{"type": "input_audio_buffer.append", "audio": "%%%"}',
        '{"type": "input_audio_buffer.append", "audio": NaN}',
        '{"type": "\\ud800"}',
        "[" * 100_000,
        '{"type": "session.update", "session": {"audio": {"input": {"turn_detection": {"type": "server_vad", '
        '"threshold": 1e999}}}}}',
        json.dumps({"type": "x" * 1_000_000}),
    ],
    ids=range(14),
)
def test_what_is_wrong_is_an_error_event(address: str, message: str | bytes) -> None:
    with Client(address) as client:
        client.say(message)
        error = client.until("error")["error"]
        assert error["type"] == "invalid_request_error"
        assert len(error["message"]) < 2_000
        client.say(typed("still there?"), RESPOND)
        assert answered(client.until("response.done")["response"])


def test_a_message_may_come_in_pieces(address: str) -> None:
    with Client(address) as client:
        client.socket.send(piece for piece in json.dumps(typed("in pieces")))
        assert client.until("conversation.item.done")["item"]["content"][0]["text"] == "in pieces"
