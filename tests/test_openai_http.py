"""OpenAI's HTTP routes through the stock client, against a live server."""

import base64
import io
import json
import tempfile
from collections.abc import Iterator

import numpy as np
import pytest
import requests
from openai import APIError, APIStatusError, InternalServerError, NotFoundError, OpenAI, UnprocessableEntityError
from PIL import Image
from realtime import CAPITAL, endless_model
from serving import in_base64, running, until, wav_bytes
from toys import photo, tiny_model

from omni2 import OmniModel, Pick, Sampling
from omni2.audio import load_audio
from omni2.codec.stream import to_pcm16

TONE = wav_bytes()
HEARD = {"type": "input_audio", "input_audio": {"data": in_base64(TONE), "format": "wav"}}


@pytest.fixture(scope="module")
def model() -> OmniModel:
    return tiny_model()


@pytest.fixture(scope="module")
def client(model: OmniModel) -> Iterator[OpenAI]:
    with running(model) as address, OpenAI(api_key="x", base_url=f"{address}/v1", max_retries=0) as client:
        yield client


def asked(*content: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": content[0] if isinstance(content[0], str) else [*content]}]


def seen(width: int = 24, height: int = 20) -> dict[str, object]:
    file = io.BytesIO()
    Image.fromarray(photo()).resize((width, height)).save(file, "PNG")
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + in_base64(file.getvalue())}}


def test_models(client: OpenAI) -> None:
    (card,) = client.models.list().data
    assert card.id == client.models.retrieve(card.id).id == "the toy"
    with pytest.raises(NotFoundError):
        client.models.retrieve("gpt-9")


def test_a_written_answer_is_the_librarys(client: OpenAI, model: OmniModel) -> None:
    reply = client.chat.completions.create(model="any", messages=asked("hello there"))
    expected = model.answer(text="hello there", reply="text")
    assert reply.choices[0].message.content == expected.text
    assert reply.choices[0].finish_reason == {"end": "stop"}.get(expected.finish_reason, "length")
    assert reply.choices[0].message.audio is None


def test_only_the_last_message_of_the_user_is_answered(client: OpenAI, model: OmniModel) -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        *asked("what?"),
        {"role": "assistant", "content": "that"},
        *asked({"type": "text", "text": "hello"}, {"type": "text", "text": "there"}),
        {"role": "assistant", "content": None},
    ]
    reply = client.chat.completions.create(model="any", messages=messages)
    assert reply.choices[0].message.content == model.answer(text="hello\nthere", reply="text").text


@pytest.mark.parametrize("form", ["wav", "pcm16", "mp3", "opus", "flac", "aac"])
def test_a_spoken_answer_to_a_spoken_question(client: OpenAI, model: OmniModel, form: str) -> None:
    audio = {"voice": "alloy", "format": form}
    question = asked({"type": "text", "text": "hear"}, HEARD)
    message = (
        client.chat.completions.create(model="any", modalities=["text", "audio"], audio=audio, messages=question)
        .choices[0]
        .message
    )
    expected = model.answer(TONE)
    assert message.audio.transcript == expected.text
    assert message.content is None
    data = base64.b64decode(message.audio.data)
    if form == "pcm16":
        assert data == to_pcm16(expected.audio)
    else:
        seconds = len(load_audio(data)) / 16_000
        assert expected.timings.audio <= seconds + 0.001 < expected.timings.audio + 0.15


def test_an_answer_streams_as_text(client: OpenAI, model: OmniModel) -> None:
    chunks = [*client.chat.completions.create(model="any", messages=asked("hello"), stream=True)]
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == model.answer(text="hello", reply="text").text
    assert [chunk.choices[0].finish_reason is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert len({chunk.id for chunk in chunks}) == 1


def test_an_answer_streams_as_sound(client: OpenAI, model: OmniModel) -> None:
    stream = client.chat.completions.create(
        model="any",
        modalities=["text", "audio"],
        audio={"voice": "x", "format": "pcm16"},
        messages=asked(HEARD),
        stream=True,
    )
    parts = [chunk.choices[0].delta.audio for chunk in stream if chunk.choices[0].delta.audio]
    expected = model.answer(TONE)
    assert "".join(part.transcript or "" for part in parts) == expected.text
    assert b"".join(base64.b64decode(part.data or "") for part in parts) == to_pcm16(expected.audio)
    assert len({part.id for part in parts}) == 1


def test_a_stream_ends_as_openais_do(client: OpenAI) -> None:
    body = {"messages": asked("hello"), "stream": True}
    reply = requests.post(f"{client.base_url}chat/completions", json=body, timeout=60)
    assert reply.headers["content-type"].startswith("text/event-stream")
    lines = reply.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(line.removeprefix("data: "))["object"] == "chat.completion.chunk" for line in lines[:-2])


def test_choices_of_a_request_count(client: OpenAI, model: OmniModel) -> None:
    drawn = {"temperature": 1.5, "top_p": 0.9, "seed": 5}
    reply = client.chat.completions.create(model="any", messages=asked("hello"), **drawn)
    sampling = Sampling(text=Pick(1.5, top_p=0.9), seed=5)
    assert reply.choices[0].message.content == model.answer(text="hello", reply="text", sampling=sampling).text
    for name in ("max_tokens", "max_completion_tokens"):
        short = client.chat.completions.create(model="any", messages=asked("hello"), **{name: 1}).choices[0]
        assert short.finish_reason == "length"
        assert reply.choices[0].message.content != short.message.content


def test_pictures(client: OpenAI, model: OmniModel) -> None:
    for question in (asked(seen()), asked({"type": "text", "text": "what is it?"}, seen()), asked(seen(), HEARD)):
        assert client.chat.completions.create(model="any", messages=question).choices[0].finish_reason


def test_what_cannot_be_asked(client: OpenAI) -> None:
    def url(address: str) -> dict[str, object]:
        return {"type": "image_url", "image_url": {"url": address}}

    damaged = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    no_base64 = {"type": "input_audio", "input_audio": {"data": "?", "format": "wav"}}
    wrong = {
        "invalid_request": [[], asked({"type": "file", "file": {}}), [{"role": "nobody", "content": "x"}]],
        "no_question": [[{"role": "system", "content": "be brief"}]],
        "invalid_input": [asked(""), asked(damaged), asked(url("data:image/png;base64,AAAA"))],
        "invalid_base64": [asked(no_base64), asked(url("data:image/png;base64,?"))],
        "unsupported_image_url": [asked(url(a)) for a in ("http://localhost/a.png", "file:///etc/passwd", "")],
        "context_length_exceeded": [asked("hello " * 100)],
    }
    for code, cases in wrong.items():
        for messages in cases:
            for stream in (False, True):
                with pytest.raises(UnprocessableEntityError) as caught:
                    client.chat.completions.create(model="any", messages=messages, stream=stream)
                assert caught.value.code == code


def test_limits_of_the_operator(model: OmniModel) -> None:
    with running(model, max_pixels=100, max_audio_seconds=0.1) as address:
        client = OpenAI(api_key="x", base_url=f"{address}/v1", max_retries=0)
        for content in (seen(), HEARD):
            with pytest.raises(UnprocessableEntityError):
                client.chat.completions.create(model="any", messages=asked(content))
        with pytest.raises(UnprocessableEntityError):
            client.audio.transcriptions.create(model="any", file=TONE)


def test_abilities_that_are_missing() -> None:
    with running(tiny_model(abilities=frozenset({"answer"}))) as address:
        client = OpenAI(api_key="x", base_url=f"{address}/v1", max_retries=0)
        for call in (
            lambda: client.chat.completions.create(model="any", messages=asked(seen())),
            lambda: client.audio.speech.create(model="any", voice="x", input="hello"),
            lambda: client.audio.transcriptions.create(model="any", file=TONE),
        ):
            with pytest.raises(UnprocessableEntityError) as caught:
                call()
            assert caught.value.code == "unsupported"


def test_a_late_error_is_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    broken, take = model.stream, 2

    def stream(*args: object, **fields: object) -> object:
        chunks = broken(*args, **fields)

        class Breaking:
            def __init__(self) -> None:
                self.left = take

            def __next__(self) -> object:
                self.left -= 1
                if self.left < 0:
                    raise RuntimeError("the words of a request")
                return next(chunks)

            def close(self) -> None:
                chunks.close()

        return Breaking()

    monkeypatch.setattr(model, "stream", stream)
    with running(model) as address:
        client = OpenAI(api_key="x", base_url=f"{address}/v1", max_retries=0)
        chunks = client.chat.completions.create(model="any", messages=asked("hello"), stream=True)
        assert next(chunks).choices
        with pytest.raises(APIError, match="the server failed") as caught:
            list(chunks)
        assert not isinstance(caught.value, APIStatusError)
        with pytest.raises(InternalServerError):
            client.chat.completions.create(model="any", messages=asked("hello"))


@pytest.mark.parametrize("form", ["wav", "pcm", "mp3", "opus", "flac", "aac"])
def test_reading_aloud(client: OpenAI, model: OmniModel, form: str) -> None:
    spoken = client.audio.speech.create(model="any", voice="alloy", input="hello", response_format=form)
    expected = model.speak("hello")
    if form == "pcm":
        assert spoken.content == to_pcm16(expected.audio)
    elif expected.audio.size:
        seconds = len(load_audio(spoken.content)) / 16_000
        assert expected.timings.audio <= seconds + 0.001 < expected.timings.audio + 0.15


def test_reading_aloud_refuses_what_it_cannot(client: OpenAI) -> None:
    for given in (
        {"input": ""},
        {"input": " "},
        {"input": "x", "speed": 2.0},
        {"input": "x", "response_format": "gsm"},
    ):
        with pytest.raises(UnprocessableEntityError):
            client.audio.speech.create(model="any", voice="alloy", **given)


def test_transcriptions(client: OpenAI, model: OmniModel) -> None:
    expected = model.transcribe(TONE)
    create = client.audio.transcriptions.create
    assert create(model="any", file=("a.wav", TONE)).text == expected
    assert create(model="any", file=("a.wav", TONE), response_format="text").rstrip("\n") == expected
    verbose = create(model="any", file=("a.wav", TONE), response_format="verbose_json", language="en")
    assert (verbose.text, verbose.language) == (expected, "en")
    assert verbose.duration == pytest.approx(0.3)
    assert [segment.end for segment in verbose.segments or []] == [verbose.duration] * bool(expected)


def test_forms_that_are_none(client: OpenAI) -> None:
    address = f"{client.base_url}audio/transcriptions"
    file = {"file": ("a.wav", TONE)}
    for given in (
        {"json": {"file": "x"}},
        {"data": {"model": "any"}},
        {"files": {"model": (None, "any")}},
        {"files": {"file": (None, "words")}},
        {"files": {"file": ("a.wav", b"no sound")}},
        {"files": file, "data": {"response_format": "srt"}},
        {"files": file, "data": {"stream": "true"}},
        {"data": b"garbage", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        {"data": b"garbage", "headers": {"Content-Type": "multipart/form-data"}},
        {"files": [("file", ("a.wav", TONE)), ("file", ("b.wav", TONE))]},
    ):
        reply = requests.post(address, timeout=60, **given)
        assert reply.status_code in (400, 422), given
        assert reply.json()["error"]["type"] == "invalid_request_error"


def test_uploads_stay_in_memory(client: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those beyond the size at which the framework would use a file."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a file was opened")

    rollover = tempfile.SpooledTemporaryFile.rollover
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", refuse)
    long = wav_bytes(seconds=35)
    assert len(long) > 2**20
    with pytest.raises(UnprocessableEntityError) as caught:
        client.audio.transcriptions.create(model="any", file=("a.wav", long))
    assert caught.value.code == "invalid_input"
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", rollover)


def test_who_hangs_up_stops_the_decoding() -> None:
    model = endless_model()
    with running(model) as address:
        body = {"messages": asked("go on"), "modalities": ["audio"], "stream": True}
        with requests.post(f"{address}/v1/chat/completions", json=body, stream=True, timeout=60) as reply:
            pieces = reply.iter_content(100)  # kept: it hangs up when it is thrown away
            assert next(pieces)  # who answers is told before the prompt is prefilled
            until(lambda: model.engine.live == 1)
        until(lambda: model.engine.live == 0)


@pytest.mark.assets
def test_nano_through_the_stock_client() -> None:
    question = asked({"type": "input_audio", "input_audio": {"data": in_base64(CAPITAL.read_bytes()), "format": "wav"}})
    with running(OmniModel.from_pretrained("nano")) as address:
        client = OpenAI(api_key="x", base_url=f"{address}/v1", max_retries=0)
        message = client.chat.completions.create(model="nano", modalities=["text", "audio"], messages=question)
        audio = message.choices[0].message.audio
        assert "Paris" in audio.transcript
        heard = load_audio(base64.b64decode(audio.data))
        assert 1 < len(heard) / 16_000 < 5
        assert np.std(heard) > 0.02
        with CAPITAL.open("rb") as file:
            assert "capital of France" in client.audio.transcriptions.create(model="nano", file=file).text
        spoken = client.audio.speech.create(model="nano", voice="x", input=audio.transcript, response_format="wav")
        assert 1 < len(load_audio(spoken.content)) / 16_000 < 5
