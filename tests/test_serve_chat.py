"""`/chat` and `/chat/raw` against a live server, read as the released clients read them."""

import base64
import email
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image
from serving import in_base64, running, wav_bytes
from toys import ABILITIES, photo, tiny_model

from omni2 import Chunk, OmniModel, Sampling
from omni2.audio import to_waveform
from omni2.codec.stream import to_pcm16

ROOT = Path(__file__).parents[1]
TONE = wav_bytes()


@pytest.fixture(scope="module")
def model() -> OmniModel:
    return tiny_model()


@pytest.fixture(scope="module")
def address(model: OmniModel) -> Iterator[str]:
    with running(model) as address:
        yield address


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("chat") / "photo.png"
    Image.fromarray(photo()).save(file)
    return file.read_bytes()


def ask(address: str, route: str = "/chat", **fields: Any) -> requests.Response:  # noqa: ANN401
    """The released clients' request."""
    question = {"audio": in_base64(TONE), "stream_stride": 4, "max_tokens": 2048}
    body = json.dumps(question | fields)
    return requests.post(address + route, data=body, headers={"Content-Type": "application/json"}, stream=True)


def mini_omni2_client(response: requests.Response) -> tuple[list[bytes], str]:
    """What the released page of Mini-Omni2 hears and reads: a part counts once the next boundary has come."""
    sounds, text, buffer = [], "", b""
    for piece in response.iter_content(chunk_size=1000):
        buffer += piece
        while b"\r\n--frame\r\n" in buffer:
            part, buffer = buffer.split(b"\r\n--frame\r\n", 1)
            content = part.split(b"\r\n\r\n", 1)[1]
            if b"Content-Type: audio/wav" in part:
                sounds.append(content)
            elif b"Content-Type: text/plain" in part:
                text += content.decode()
    return sounds, text


def mini_omni_client(response: requests.Response) -> bytes:
    """What the released page of Mini-Omni plays."""
    return b"".join(response.iter_content(chunk_size=4096))


def parts(response: requests.Response) -> list[tuple[str, bytes]]:
    """All parts as MIME defines them: (type, content); the closing boundary must be there."""
    assert response.headers["content-type"] == "multipart/x-mixed-replace; boundary=frame"
    before, *found, after = (b"\r\n" + response.content).split(b"\r\n--frame")
    assert (before, after) == (b"", b"--\r\n")
    split = [part.removeprefix(b"\r\n").split(b"\r\n\r\n", 1) for part in found]
    return [(email.message_from_bytes(head).get_content_type(), body) for head, body in split]


def expected(model: OmniModel, **choices: Any) -> tuple[bytes, str, list[Chunk]]:  # noqa: ANN401
    chunks = list(model.stream(to_waveform(TONE), **choices))
    samples = np.concatenate([chunk.audio for chunk in chunks])
    return to_pcm16(samples), "".join(chunk.text for chunk in chunks), chunks


def test_the_mini_omni2_client_hears_and_reads_the_whole_answer(address: str, model: OmniModel) -> None:
    sound, text, _ = expected(model)
    with ask(address) as response:
        assert response.status_code == 200
        sounds, read = mini_omni2_client(response)
    assert (b"".join(sounds), read) == (sound, text)
    assert len(sounds) > 2  # how many, is a matter of how busy the machine is
    assert text
    assert len(sound) > 4_000


def test_the_mini_omni_client_hears_the_whole_answer(address: str, model: OmniModel) -> None:
    with ask(address, "/chat/raw") as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("audio/pcm")
        assert mini_omni_client(response) == expected(model)[0]


def test_sound_and_text_alternate_and_the_last_part_is_empty(address: str) -> None:
    with ask(address) as response:
        found = parts(response)
    kinds = [kind for kind, _ in found]
    assert kinds == ["audio/wav", "text/plain"] * (len(found) // 2) + ["text/plain"]
    assert all(len(body) and len(body) % 2 == 0 for kind, body in found if kind == "audio/wav")
    assert found[-1] == ("text/plain", b"")


@pytest.mark.parametrize("stride", [1, 2, 8])
def test_the_stride_is_the_size_of_the_pieces(address: str, model: OmniModel, stride: int) -> None:
    sound, text, chunks = expected(model, chunk_frames=stride)
    with ask(address, stream_stride=stride) as response:
        sounds, read = mini_omni2_client(response)
    assert [len(piece) // 2 for piece in sounds] == [chunk.audio.size for chunk in chunks if chunk.audio.size]
    assert (b"".join(sounds), read) == (sound, text)


def test_the_answer_ends_at_max_tokens_with_the_prompt_counted_in(address: str, model: OmniModel) -> None:
    sound, _, chunks = expected(model, sampling=Sampling(max_tokens=36))
    assert chunks[-1].finish_reason == "length"
    with ask(address, "/chat/raw", max_tokens=36) as response:
        assert response.content == sound
    with ask(address, max_tokens=5) as response:
        assert response.status_code == 422
        assert response.json()["error"]["code"] == "context_length_exceeded"


def test_a_picture_changes_the_answer(address: str, model: OmniModel, picture: bytes) -> None:
    sound, text, _ = expected(model, image=picture)
    with ask(address, image=in_base64(picture)) as response:
        sounds, read = mini_omni2_client(response)
    assert (b"".join(sounds), read) == (sound, text) != expected(model)[:2]


BAD = {
    "no audio": ({"audio": None}, "invalid_request", "audio"),
    "audio is a number": ({"audio": 5}, "invalid_request", "audio"),
    "no base64": ({"audio": "a wave, truly"}, "invalid_base64", "audio"),
    "base64 with a letter too few": ({"audio": in_base64(TONE)[:-1]}, "invalid_base64", "audio"),
    "letters outside ASCII": ({"audio": "Ünicöde="}, "invalid_base64", "audio"),
    "no sound": ({"audio": in_base64(b"a wave, truly")}, "invalid_input", None),
    "empty": ({"audio": ""}, "invalid_input", None),
    "silence": ({"audio": in_base64(wav_bytes(hertz=0))}, "invalid_input", None),
    "too long": ({"audio": in_base64(wav_bytes(31))}, "invalid_input", None),
    "picture is no base64": ({"image": "%"}, "invalid_base64", "image"),
    "picture is none": ({"image": in_base64(TONE)}, "invalid_input", None),
    "stride 0": ({"stream_stride": 0}, "invalid_request", "stream_stride"),
    "tokens below 1": ({"max_tokens": 0}, "invalid_request", "max_tokens"),
}


@pytest.mark.parametrize("route", ["/chat", "/chat/raw"])
@pytest.mark.parametrize("name", BAD)
def test_errors_before_the_first_byte_are_http_errors(address: str, model: OmniModel, route: str, name: str) -> None:
    fields, code, param = BAD[name]
    with ask(address, route, **fields) as response:
        assert response.status_code == 422
        assert response.headers["x-request-id"]
        error = response.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, param)
    assert error["message"]
    assert model.engine.live == 0


def test_a_model_that_cannot_see_says_so(picture: bytes) -> None:
    with running(tiny_model(abilities=ABILITIES - {"see"})) as address:
        with ask(address, image=in_base64(picture)) as response:
            assert (response.status_code, response.json()["error"]["code"]) == (422, "unsupported")
        with ask(address) as response:
            assert response.status_code == 200
            assert response.content


def failing_after(model: OmniModel, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's fault after so many steps of the next answer."""
    wait, left = model.engine.wait, iter(range(steps))

    def broken(turn: Any) -> Any:  # noqa: ANN401
        if next(left, None) is None:
            raise RuntimeError("the secret inside")
        return wait(turn)

    monkeypatch.setattr(model.engine, "wait", broken)


def test_an_error_after_the_first_byte_is_the_last_part(
    address: str, model: OmniModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound, _, _ = expected(model)
    failing_after(model, 15, monkeypatch)
    with ask(address) as response:
        assert response.status_code == 200
        *before, (kind, last) = parts(response)
    heard = b"".join(body for kind, body in before if kind == "audio/wav")
    assert 0 < len(heard) < len(sound)
    assert sound.startswith(heard)
    assert kind == "application/json"
    assert json.loads(last)["error"]["code"] == "internal_error"
    assert b"secret" not in last
    assert model.engine.live == 0


def test_raw_sound_that_breaks_off_is_no_complete_reply(
    address: str, model: OmniModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_after(model, 15, monkeypatch)
    with ask(address, "/chat/raw") as response, pytest.raises(requests.exceptions.ChunkedEncodingError):
        mini_omni_client(response)
    assert model.engine.live == 0


@pytest.mark.parametrize("route", ["/chat", "/chat/raw"])
def test_an_error_of_the_server_itself_is_told_without_its_inside(
    address: str, model: OmniModel, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    failing_after(model, 0, monkeypatch)
    with ask(address, route) as response:
        assert response.status_code == 500
        assert response.json()["error"] == {
            "type": "server_error",
            "code": "internal_error",
            "message": "the server failed; its log has the request's id",
            "param": None,
        }
    assert model.engine.live == 0


@pytest.mark.assets
def test_nano_is_asked_for_the_capital_of_france() -> None:
    question = base64.b64encode((ROOT / "examples/audio/capital.wav").read_bytes()).decode()
    with running(OmniModel.from_pretrained("nano")) as address, ask(address, audio=question) as response:
        sounds, text = mini_omni2_client(response)
    assert "Paris" in text
    samples = np.frombuffer(b"".join(sounds), "<i2")
    assert samples.size > 24_000
    assert np.abs(samples).max() > 3_000
