"""The client against real servers: a tiny random model in place of a trained one, and servers that misbehave."""

import asyncio
import json
import subprocess
import sys
import threading
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from serving import ROOT, running, until, wav_bytes
from toys import tiny_model

from omni2.client import SAMPLE_RATE, Chunk, Client, as_error, read_events, read_parts, read_pcm, to_wav
from omni2.codec.stream import to_pcm16
from omni2.errors import AbilityError, BusyError, ContextLengthError, InputError, OmniError
from omni2.omni import OmniModel

QUESTION = "what is the capital"
MULTIPART = (
    b"--frame\r\nContent-Type: audio/wav\r\n\r\n\x01\x02\r\n\x03\x04\r\n"
    b"--frame\r\nContent-Type: text/plain\r\n\r\nThe caf\xc3\xa9\r\n"
    b"--frame\r\nContent-Type: text/plain\r\n\r\n\r\n--frame--\r\n"
)
EVENTS = (
    b'data: {"choices": [{"delta": {"role": "assistant", "content": null}}]}\n\n'
    b'data: {"choices": [{"delta": {"audio": {"transcript": "The caf\\u00e9"}}}]}\n\n'
    b'data: {"choices": [{"delta": {"audio": {"data": "AQI="}}}]}\n\n'
    b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
)


class Pieces(requests.Response):
    """A reply whose body arrives in the given pieces."""

    def __init__(self, pieces: list[bytes]) -> None:
        super().__init__()
        self.pieces = pieces

    def iter_content(self, chunk_size: int | None = 1, decode_unicode: bool = False) -> Iterator[bytes]:
        return iter(self.pieces)


def split(data: bytes, cuts: list[int]) -> Pieces:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return Pieces([data[a:b] for a, b in pairwise(edges)])


@contextmanager
def replying(reply: bytes) -> Iterator[str]:
    """The address of a server that answers a request with `reply` and hangs up."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.wfile.write(reply)

        def log_message(self, *words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.timeout = 60
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        thread.join(120)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def model() -> OmniModel:
    return tiny_model()


@pytest.fixture(scope="module")
def server(model: OmniModel) -> Iterator[str]:
    with running(model) as address:
        yield address


@given(st.lists(st.integers(0, 1000)))
def test_parts_split_anywhere_are_read(cuts: list[int]) -> None:
    assert list(read_parts(split(MULTIPART, cuts))) == [Chunk(pcm=b"\x01\x02\r\n\x03\x04"), Chunk(text="The café")]


@given(st.lists(st.integers(0, 1000)))
def test_events_split_anywhere_are_read(cuts: list[int]) -> None:
    assert list(read_events(split(EVENTS, cuts))) == [Chunk(text="The café"), Chunk(pcm=b"\x01\x02")]


@given(st.lists(st.integers(0, 1000)))
def test_samples_split_anywhere_come_whole(cuts: list[int]) -> None:
    chunks = list(read_pcm(split(bytes(range(100)), cuts)))
    assert b"".join(chunk.pcm for chunk in chunks) == bytes(range(100))
    assert all(len(chunk.pcm) % 2 == 0 for chunk in chunks)


def test_an_answer_that_breaks_off_is_an_error() -> None:
    for read, whole in ((read_parts, MULTIPART), (read_events, EVENTS)):
        for end in (0, len(whole) // 2, len(whole) - 12):
            with pytest.raises(OmniError, match="cut its answer short"):
                list(read(Pieces([whole[:end]])))


def test_an_error_after_the_first_byte_is_raised_after_the_chunks() -> None:
    told = json.dumps({"error": {"code": "internal_error", "message": "it broke"}}).encode()
    part = MULTIPART.replace(b"text/plain\r\n\r\n\r\n", b"application/json\r\n\r\n" + told + b"\r\n")
    event = EVENTS.replace(b"data: [DONE]", b"data: " + told)
    for chunks in (read_parts(Pieces([part])), read_events(Pieces([event]))):
        assert {next(chunks), next(chunks)} >= {Chunk(text="The café")}
        with pytest.raises(OmniError, match="it broke"):
            next(chunks)


def test_a_spoken_question_is_answered_as_by_the_model_itself(model: OmniModel, server: str) -> None:
    answer = model.answer(wav_bytes())
    with Client(f"{server}/chat").chat(wav_bytes()) as stream:
        chunks = list(stream)
        assert len([chunk for chunk in chunks if chunk.pcm]) > 1
    assert (stream.pcm, stream.text) == (to_pcm16(answer.audio), answer.text)
    assert f"{len(answer.audio) / SAMPLE_RATE:.1f} s of speech · real-time factor" in stream.figures()


def test_a_typed_question_is_answered_as_by_the_model_itself(model: OmniModel, server: str) -> None:
    answer = model.answer(text=QUESTION)
    with Client(f"{server}/v1/").ask(QUESTION) as stream:
        list(stream)
    assert (stream.pcm, stream.text) == (to_pcm16(answer.audio), answer.text)


def test_pictures_go_along(model: OmniModel, server: str) -> None:
    picture = "examples/pictures/apple.png"
    client = Client(server)
    for stream, asked in (
        (client.chat(wav_bytes(), picture), {"audio": wav_bytes()}),
        (client.ask(QUESTION, picture), {"text": QUESTION}),
        (client.ask(image=picture), {}),
    ):
        list(stream)
        assert stream.text == model.answer(image=picture, **asked).text


def test_reading_aloud_and_writing_down(model: OmniModel, server: str, tmp_path) -> None:
    client = Client(server)
    with client.speak("says the cat") as stream:
        list(stream)
    assert stream.pcm == to_pcm16(model.speak("says the cat").audio)
    (tmp_path / "question.wav").write_bytes(wav_bytes())
    assert (
        client.transcribe(tmp_path / "question.wav") == client.transcribe(wav_bytes()) == model.transcribe(wav_bytes())
    )
    assert client.health() == {"status": "ready", "model": "the toy", "live": True}


def test_closing_early_stops_the_decoding(model: OmniModel, server: str) -> None:
    for start in (lambda client: client.chat(wav_bytes()), lambda client: client.ask(QUESTION)):
        stream = start(Client(server))
        next(stream)
        stream.close()
        assert list(stream) == []
        until(lambda: model.engine.live == 0)


def test_refusals_come_at_the_call_in_the_servers_words(server: str) -> None:
    client = Client(server)
    with pytest.raises(InputError, match="not a sound file"):
        client.chat(b"no sound")
    with pytest.raises(InputError, match="not a sound file"):
        client.transcribe(b"no sound")
    with pytest.raises(InputError, match=r"cannot read nothing\.wav"):
        client.chat("nothing.wav")
    with pytest.raises(InputError, match="nothing was asked"):
        client.ask("")
    with pytest.raises(ContextLengthError):
        client.ask("cat " * 200)
    with pytest.raises(InputError, match="begins with http"):
        Client("localhost:60808")
    with (
        running(tiny_model(abilities=frozenset({"answer"}))) as deaf,
        pytest.raises(AbilityError, match="to transcribe"),
    ):
        Client(deaf).transcribe(wav_bytes())


def test_a_key_is_sent(model: OmniModel) -> None:
    with running(model, api_key="sesame") as address:
        assert Client(address, "sesame").transcribe(wav_bytes()) == model.transcribe(wav_bytes())
        with pytest.raises(OmniError, match="the API key is missing or wrong"):
            Client(address).transcribe(wav_bytes())


def test_a_busy_server_is_told_apart() -> None:
    assert isinstance(as_error({"code": "server_busy", "message": "full"}, 503), BusyError)
    assert isinstance(as_error({"code": "rate_limit_exceeded", "message": "slow down"}, 429), BusyError)


def test_a_server_that_is_away_or_another() -> None:
    with pytest.raises(OmniError, match=r"no server answers at http://127\.0\.0\.1:9; start one"):
        Client("http://127.0.0.1:9/chat").health()
    other = b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno"
    with replying(other) as address, pytest.raises(OmniError, match="is this an omni2 server"):
        Client(address).ask("x")


def test_a_server_that_dies_in_the_middle() -> None:
    begun = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3c\r\n" + MULTIPART[:60] + b"\r\n"
    with replying(begun) as address, Client(address).chat(wav_bytes()) as stream:
        assert next(stream).pcm
        with pytest.raises(OmniError, match="went away before"):
            list(stream)


def test_streams_of_several_threads_do_not_mix(model: OmniModel, server: str) -> None:
    questions = ["what", "says the cat", QUESTION]
    client, heard = Client(server), {}

    def ask(question: str) -> None:
        with client.ask(question) as stream:
            list(stream)
        heard[question] = stream.text

    threads = [threading.Thread(target=ask, args=(question,), daemon=True) for question in questions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert heard == {question: model.answer(text=question).text for question in questions}


def test_realtime_speaks_the_protocol(server: str) -> None:
    async def first() -> dict:
        async with Client(f"{server}/chat").realtime(input_rate=48_000) as socket:
            return json.loads(await asyncio.wait_for(socket.recv(), 60))

    assert asyncio.run(first())["type"] == "session.created"


@pytest.mark.slow
def test_the_example_clients(model: OmniModel, server: str, tmp_path: Path) -> None:
    (tmp_path / "question.wav").write_bytes(wav_bytes())

    def run(program: str, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "examples" / program), *words]
        return subprocess.run(
            command, cwd=tmp_path, input=typed, capture_output=True, encoding="utf-8", timeout=120, check=False
        )

    chat = run("chat_client.py", "question.wav", "--server", f"{server}/chat")
    spoken, typed = model.answer(wav_bytes()), model.answer(text=QUESTION)
    assert chat.returncode == 0, chat.stderr
    assert chat.stdout.startswith(spoken.text)
    assert (tmp_path / "answer.wav").read_bytes() == to_wav(to_pcm16(spoken.audio))
    terminal = run("terminal_client.py", "--server", server, typed=f"question.wav\n{QUESTION}\n\n")
    assert terminal.returncode == 0, terminal.stderr
    assert spoken.text in terminal.stdout
    assert typed.text in terminal.stdout
    (tmp_path / "answer.wav").unlink()
    realtime = run("openai_client.py", "question.wav", server)
    assert realtime.returncode == 0, realtime.stderr
    assert len(realtime.stdout.splitlines()[0]) > 3
    assert (tmp_path / "answer.wav").stat().st_size > 4000
    for program in ("chat_client.py", "terminal_client.py"):
        away = run(program, "--server", "http://127.0.0.1:9", typed="x\n")
        assert (away.returncode, away.stderr.count("\n")) == (1, 1)
        assert away.stderr.startswith(f"{program}: no server answers")


def test_it_needs_neither_a_model_nor_arrays() -> None:
    code = "import sys, omni2.client; print(sorted({'torch', 'numpy', 'transformers', 'fastapi'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_wav_files_hold_the_samples() -> None:
    with wave.open(BytesIO(to_wav(b"\x01\x02\x03\x04"))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, SAMPLE_RATE)
        assert file.readframes(9) == b"\x01\x02\x03\x04"
