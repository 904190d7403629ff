"""Clients that leave, what the server tells of itself, its logs, its end."""

import gc
import io
import json
import logging
import signal
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from serving import in_base64, process, running, until, wav_bytes
from toys import tiny_bundle, tiny_lm, tiny_model

from omni2.engine import Turn
from omni2.omni import AnswerStream, OmniModel
from omni2.serve.app import create_app
from omni2.serve.desk import Desk
from omni2.serve.logs import JsonFormatter
from omni2.serve.settings import Settings

QUESTION = {"audio": in_base64(wav_bytes())}
ENDLESS = 2000  # steps


@pytest.fixture(scope="module")
def endless() -> OmniModel:
    """A model whose spoken answers only end with the context."""
    return OmniModel(replace(tiny_bundle(), lm=tiny_lm(block_size=ENDLESS, eoa=-1.0).float()), slots=16)


@pytest.fixture
def steps(endless: OmniModel, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When the engine made a step."""
    made, advance = [], endless.engine._advance
    monkeypatch.setattr(endless.engine, "_advance", lambda: (made.append(time.monotonic()), advance())[1])
    return made


def post(address: str, route: str = "/chat") -> socket.socket:
    """A connection on which a question was sent and nothing read yet."""
    host, port = address.removeprefix("http://").split(":")
    line = socket.create_connection((host, int(port)), timeout=60)
    body = json.dumps(QUESTION)
    head = f"POST {route} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    line.sendall(f"{head}\r\n\r\n{body}".encode())
    return line


def hang_up(line: socket.socket) -> None:
    """Leave without a word: the peer gets a reset."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    line.close()


# ---- clients that leave


@pytest.mark.parametrize("route", ["/chat", "/chat/raw"])
@pytest.mark.parametrize("abruptly", [True, False])
def test_a_client_that_leaves_stops_its_decoding(
    endless: OmniModel, steps: list[float], route: str, abruptly: bool
) -> None:
    app = create_app(endless, Settings())
    with running(app) as address:
        line = post(address, route)
        assert b"200 OK" in line.recv(1000)
        assert endless.engine.live == 1
        hang_up(line) if abruptly else line.close()
        until(lambda: endless.engine.live == 0)
        made = len(steps)
        until(lambda: app.state.desk.seated == 0)
        requests.get(address + "/health")
        assert len(steps) == made < ENDLESS / 2


def test_a_client_that_leaves_while_it_waits_gives_up_its_place(endless: OmniModel) -> None:
    app = create_app(endless, Settings(max_sessions=1))
    desk: Desk = app.state.desk
    with running(app) as address:
        first = post(address)
        first.recv(1000)
        others = [post(address) for _ in range(3)]
        until(lambda: desk.waiting == 3)
        for left, line in zip((2, 1, 0), (others[1], others[0], others[2]), strict=True):
            hang_up(line)
            until(lambda left=left: desk.waiting == left)  # type: ignore[misc]
        assert desk.seated == 1
        hang_up(first)
        until(lambda: (desk.seated, endless.engine.live) == (0, 0))


def test_a_client_that_leaves_before_its_answer_begins(endless: OmniModel, monkeypatch: pytest.MonkeyPatch) -> None:
    submit, entered, door = endless.engine.submit, threading.Event(), threading.Event()

    def held(*args: Any) -> Any:  # noqa: ANN401
        entered.set()
        assert door.wait(60)
        return submit(*args)

    monkeypatch.setattr(endless.engine, "submit", held)
    app = create_app(endless, Settings())
    with running(app) as address:
        line = post(address)
        assert entered.wait(60)
        hang_up(line)
        until(lambda: app.state.desk.seated == 0)
        door.set()
        until(lambda: endless.engine.live == 0)


def test_a_client_that_does_not_read_is_dropped(endless: OmniModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its buffers are full long before the endless answer ends."""
    monkeypatch.setattr("omni2.serve.chat.to_pcm16", lambda samples: bytes(2**20))
    app = create_app(endless, Settings(stall_seconds=0.5))
    with running(app) as address:
        line = post(address)
        until(lambda: endless.engine.live == 1)
        until(lambda: (app.state.desk.seated, endless.engine.live) == (0, 0))
        hang_up(line)


@pytest.mark.slow
def test_two_hundred_abrupt_ends_leave_nothing_behind(endless: OmniModel) -> None:
    app = create_app(endless, Settings(max_sessions=4, max_queue=8, realtime=0))
    desk: Desk = app.state.desk

    def visit(number: int) -> None:
        line = post(address, ("/chat", "/chat/raw")[number % 2])
        if number % 4:
            line.recv(number % 4 * 50)
        time.sleep(number % 5 * 0.01)
        hang_up(line)

    def hundred() -> int:
        """Traced memory in bytes after a hundred visits, eight at a time."""
        with ThreadPoolExecutor(8) as clients:
            list(clients.map(visit, range(100)))
        until(lambda: (desk.seated, desk.waiting, endless.engine.live) == (0, 0, 0))
        until(lambda: not left_over())
        return tracemalloc.get_traced_memory()[0]

    def left_over() -> list[object]:
        gc.collect()
        return [thing for thing in gc.get_objects() if type(thing) in (AnswerStream, Turn)]

    threads = {*threading.enumerate()}
    with running(app) as address:
        tracemalloc.start()
        try:
            before = hundred()
            assert hundred() - before < 500_000
        finally:
            tracemalloc.stop()
        assert threading.active_count() <= len(threads) + 1 + 4 + 4  # the server's and its desk's
    until(lambda: {*threading.enumerate()} <= threads)


# ---- what it tells of itself


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(tiny_model()) as address:
        yield address


def test_health(address: str) -> None:
    for path in ("/health", "/health/ready"):
        assert requests.get(address + path).json() == {"status": "ready", "model": "the toy", "live": True}
    assert requests.get(address + "/health/live").json() == {"live": True}


def test_a_draining_server_is_alive_but_not_ready() -> None:
    app = create_app(tiny_model(), Settings())
    with running(app) as address:
        app.state.desk.draining = True
        for path in ("/health", "/health/ready"):
            response = requests.get(address + path)
            assert (response.status_code, response.json()["status"]) == (503, "draining")
        assert requests.get(address + "/health/live").status_code == 200
        response = requests.post(address + "/chat", json=QUESTION)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "server_busy")


def test_every_reply_has_a_request_id(address: str) -> None:
    given = {"X-Request-Id": "page-7.a_B"}
    replies = [
        requests.get(address + "/health", headers=given),
        requests.get(address + "/nowhere", headers=given),
        requests.get(address + "/chat", headers=given),
        requests.post(address + "/chat", headers=given, json={}),
        requests.post(address + "/chat", headers=given, json=QUESTION),
    ]
    assert [reply.status_code for reply in replies] == [200, 404, 405, 422, 200]
    assert {reply.headers["x-request-id"] for reply in replies} == {"page-7.a_B"}
    for insane in ("", "a b", "x" * 65, '{"a": 1}', "ü"):
        made = requests.get(address + "/health", headers={"X-Request-Id": insane.encode()}).headers["x-request-id"]
        assert made != insane
        assert len(made) == 32
    assert len({requests.get(address + "/health").headers["x-request-id"] for _ in range(5)}) == 5


def figures(address: str) -> dict[tuple[str, ...], float]:
    page = requests.get(address + "/metrics").text
    families = text_string_to_metric_families(page)
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def test_metrics_of_answers_and_errors() -> None:
    model = tiny_model()
    with running(model) as address:
        sound = requests.post(address + "/chat/raw", json=QUESTION).content
        requests.post(address + "/chat", json={"audio": "%"})
        requests.get(address + "/who/knows?what=this")
        told = figures(address)
    assert told["omni2_requests_total", "/chat/raw", "200"] == 1
    assert told["omni2_requests_total", "/chat", "422"] == 1
    assert told["omni2_requests_total", "other", "404"] == 1
    assert told["omni2_errors_total", "invalid_base64"] == 1
    assert told["omni2_steps_total",] == model.engine.steps > len(sound) / 2 / model.bundle.codec.frame_size > 3
    assert told["omni2_first_audio_seconds_count",] == told["omni2_real_time_factor_count",] == 1
    assert told["omni2_first_audio_seconds_sum",] > 0
    assert told["omni2_real_time_factor_sum",] > 0
    assert told["omni2_sessions",] == told["omni2_queue_length",] == told["omni2_realtime_connections",] == 0


def test_metrics_of_who_is_there(endless: OmniModel) -> None:
    with running(endless, max_sessions=1) as address:
        lines = [post(address)]
        until(lambda: figures(address)["omni2_sessions",] == 1)
        lines.append(post(address))
        until(lambda: figures(address)["omni2_queue_length",] == 1)
        for line in lines:
            hang_up(line)
        until(lambda: figures(address)["omni2_sessions",] == figures(address)["omni2_queue_length",] == 0)


# ---- logs


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the server's loggers write, down to the last detail."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    root, ours = logging.getLogger(), logging.getLogger("omni2.serve")
    level = root.level, ours.level
    root.addHandler(handler)
    root.setLevel("INFO")
    ours.setLevel("INFO")
    try:
        yield stream
    finally:
        root.removeHandler(handler)
        root.setLevel(level[0])
        ours.setLevel(level[1])


def lines(log: io.StringIO, message: str) -> list[dict[str, Any]]:
    told = [json.loads(line) for line in log.getvalue().splitlines()]
    return [line for line in told if line["message"] == message]


def test_logs_have_sizes_and_ids_but_nothing_of_what_was_said(
    log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    with running(model) as address:
        sound = requests.post(address + "/chat/raw", json=QUESTION, headers={"X-Request-Id": "mine"}).content
        requests.post(address + "/chat?api_key=SECRET", json={"audio": "SECRET"}, headers={"X-SECRET": "SECRET"})
        requests.get(address + "/SECRET", headers={"User-Agent": "SECRET"})

        def broken(turn: object) -> None:
            raise RuntimeError("SECRET")

        monkeypatch.setattr(model.engine, "wait", broken)
        assert requests.post(address + "/chat", json=QUESTION).status_code == 500
        until(lambda: len(lines(log, "request")) == 4)
    assert "SECRET" not in log.getvalue()
    assert QUESTION["audio"][:20] not in log.getvalue()
    first, *others = lines(log, "request")
    told = {"time", "level", "message", "request_id", "method", "route", "status", "ms", "bytes_in", "bytes_out"}
    assert set(first) == told
    assert (first["request_id"], first["route"], first["method"], first["status"]) == ("mine", "/chat/raw", "POST", 200)
    assert first["bytes_in"] > len(QUESTION["audio"])
    assert first["bytes_out"] == len(sound)
    assert [(line["route"], line["status"]) for line in others] == [("/chat", 422), ("other", 404), ("/chat", 500)]
    (failure,) = lines(log, "failure")
    assert failure["error"] == "RuntimeError"
    assert any("test_serve_life" in place for place in failure["stack"])
    assert failure["request_id"] == others[-1]["request_id"]


def test_exceptions_of_others_are_logged_without_their_words() -> None:
    try:
        raise ValueError("SECRET")
    except ValueError as error:
        record = logging.LogRecord("uvicorn.error", 40, __file__, 1, "failed", None, (ValueError, error, None))
    line = json.loads(JsonFormatter().format(record))
    assert (line["level"], line["message"], line["error"]) == ("error", "failed", "ValueError")
    assert "SECRET" not in str(line)


# ---- its end


@pytest.mark.slow
@pytest.mark.assets
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_told_to_stop_it_finishes_what_it_began_and_nothing_else(name: str, tmp_path: Path) -> None:
    wav = Path(__file__).parents[1] / "examples/audio/capital.wav"
    question = {"audio": in_base64(wav.read_bytes())}
    with process(log=tmp_path / "log") as (server, address):
        with requests.post(address + "/chat", json=question, stream=True) as response:
            pieces = response.iter_content(None)
            answer = next(pieces)
            server.send_signal(getattr(signal, name))
            until(lambda: requests.get(address + "/health").status_code == 503)
            refusal = requests.post(address + "/chat", json=question)
            answer += b"".join(pieces)
        assert server.wait(60) == 0
    assert answer.endswith(b"--frame--\r\n")
    assert b"Paris" in answer
    assert refusal.status_code == 503
    assert refusal.headers["retry-after"]
    told = [json.loads(line) for line in (tmp_path / "log").read_text("utf-8").splitlines()]
    messages = [line["message"] for line in told if line["message"] != "request"]
    assert [message.split(" at ")[0] for message in messages] == ["listening", "draining", "stopped"]


def test_draining_is_bounded(endless: OmniModel) -> None:
    app = create_app(endless, Settings(drain_seconds=0.2, max_sessions=1))
    with running(app) as address:
        lines = [post(address), post(address)]
        until(lambda: app.state.desk.waiting)
    until(lambda: endless.engine.live == 0)  # after the draining come uvicorn's own five seconds
    for line in lines:
        hang_up(line)
