"""Keys, rates, sizes, seats, times: what the server refuses, and how it says so."""

import io
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import requests
from fastapi import FastAPI
from PIL import Image
from serving import in_base64, running, until, wav_bytes
from toys import photo, tiny_model

from omni2.errors import InputError
from omni2.omni import OmniModel
from omni2.serve.app import create_app
from omni2.serve.limits import Rates, authorised, origin_allowed
from omni2.serve.problems import Problem
from omni2.serve.settings import Settings

QUESTION = {"audio": in_base64(wav_bytes())}


@pytest.fixture(scope="module")
def model() -> OmniModel:
    return tiny_model(slots=16)


def refused(response: requests.Response, status: int, code: str) -> dict[str, Any]:
    """The error object of a reply that must have this status and code."""
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert response.headers["x-request-id"]
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"type", "code", "message", "param"}
    return error


# ---- who


def test_a_key_is_asked_for_everywhere_but_at_health(model: OmniModel) -> None:
    with running(model, api_key="sesame") as address:
        for path in ("/health", "/health/live", "/health/ready"):
            assert requests.get(address + path).status_code == 200
        for key in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer "}, {"Authorization": "sesame"}):
            for path in ("/metrics", "/openapi.json", "/nowhere", "//metrics"):
                refused(requests.get(address + path, headers=key), 401, "invalid_api_key")
            error = refused(requests.post(address + "/chat", json=QUESTION, headers=key), 401, "invalid_api_key")
            assert error["type"] == "authentication_error"
        right = {"Authorization": "Bearer sesame"}
        assert requests.get(address + "/metrics", headers=right).status_code == 200
        assert requests.post(address + "/chat", json=QUESTION, headers=right).status_code == 200


def test_a_websocket_may_bring_its_key_in_three_ways() -> None:
    locked = Settings(api_key="sesame")
    assert authorised({"authorization": "bearer sesame"}, {}, (), locked)
    assert authorised({}, {"api_key": "sesame"}, (), locked)
    assert authorised({}, {}, ("realtime", "openai-insecure-api-key.sesame"), locked)
    assert not authorised({}, {}, ("sesame", "openai-insecure-api-key."), locked)
    assert not authorised({"authorization": "Basic sesame"}, {"api_key": "Sesame"}, ("realtime",), locked)
    assert not authorised({"authorization": "Bearer sésame"}, {"api_key": ""}, (), locked)
    assert authorised({}, {}, (), Settings())


def test_origins() -> None:
    some = Settings(origins=("https://page.example",))
    assert origin_allowed(None, "host:1", some)
    assert origin_allowed("http://host:1", "host:1", some)
    assert origin_allowed("https://page.example", "host:1", some)
    assert origin_allowed("https://any.example", "host:1", Settings(origins=("*",)))
    for stranger in (
        "https://host.evil",
        "http://host:2",
        "null",
        "http://[",
        "host:1",
        "",
        "https://page.example.evil",
        "http://host:1@evil",
    ):
        assert not origin_allowed(stranger, "host:1", some), stranger
    assert not origin_allowed("null", None, some)


# ---- how often


def test_the_rate_of_each_client(model: OmniModel) -> None:
    with running(model, rate=3) as address:
        for _ in range(3):
            assert requests.post(address + "/chat", json=QUESTION).status_code == 200
        response = requests.post(address + "/chat", json=QUESTION)
        assert refused(response, 429, "rate_limit_exceeded")["type"] == "rate_limit_error"
        assert 1 <= int(response.headers["retry-after"]) <= 60
        refused(requests.get(address + "/metrics", headers={"Authorization": "Bearer x"}), 429, "rate_limit_exceeded")
        assert requests.get(address + "/health").status_code == 200


def test_rates_start_anew_each_minute_and_are_counted_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("omni2.serve.limits.time.monotonic", lambda: now[0])
    rates = Rates(2)
    for key in ("a", "a", "b"):
        rates.take(key)
    with pytest.raises(Problem) as caught:
        rates.take("a")
    assert caught.value.retry_after == 60
    rates.take("b")
    now[0] += 45.5
    with pytest.raises(Problem) as caught:
        rates.take("b")
    assert caught.value.retry_after == 15
    now[0] += 15
    rates.take("a")
    assert len(rates._counts) == 1
    for _ in range(9):
        Rates(0).take("a")


# ---- how much


@pytest.mark.parametrize("streamed", [False, True])
def test_bodies_above_the_limit(model: OmniModel, streamed: bool) -> None:
    with running(model, max_body=100_000) as address:
        assert requests.post(address + "/chat", json=QUESTION).status_code == 200
        for size in (100_001, 199_000):
            body = b"x" * size
            data = iter([body[:70_000], body[70_000:]]) if streamed else body
            refused(requests.post(address + "/chat", data=data), 413, "too_large")
        response = requests.post(address + "/chat", data=b"x" * 100_000)  # at the limit: only no JSON
        refused(response, 422, "invalid_request")


def test_a_body_far_above_the_limit_is_not_even_read(model: OmniModel) -> None:
    with running(model, max_body=1_000) as address:
        for head, sent in (
            ("Content-Length: 9999999999", b""),
            ("Transfer-Encoding: chunked", b"1000\r\n" + b"x" * 4096),
        ):
            with dial(address) as line:
                line.sendall(f"POST /chat HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode() + sent)
                assert b" 413 " in line.makefile("rb").readline()


def test_sounds_and_pictures_above_the_limits(model: OmniModel) -> None:
    file = io.BytesIO()
    Image.fromarray(photo()).save(file, "PNG")  # 24 x 20
    picture = in_base64(file.getvalue())
    with running(model, max_audio_seconds=0.5, max_pixels=479) as address:
        assert requests.post(address + "/chat", json=QUESTION).status_code == 200
        long = requests.post(address + "/chat", json={"audio": in_base64(wav_bytes(1.0))})
        assert "0.5 s" in refused(long, 422, "invalid_input")["message"]
        large = requests.post(address + "/chat", json=QUESTION | {"image": picture})
        assert "479 pixels" in refused(large, 422, "invalid_input")["message"]
    with running(model, max_pixels=480) as address:
        assert requests.post(address + "/chat", json=QUESTION | {"image": picture}).status_code == 200


@contextmanager
def dial(address: str) -> Iterator[socket.socket]:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as line:
        yield line


# ---- how many


class Door:
    """Holds every answer of a model at its start until it is opened."""

    def __init__(self, model: OmniModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        submit = model.engine.submit

        def held(*args: Any) -> Any:  # noqa: ANN401
            assert self.open.wait(60)
            return submit(*args)

        monkeypatch.setattr(model.engine, "submit", held)


def crowded(model: OmniModel, **settings: object) -> tuple[FastAPI, Any]:
    app = create_app(model, Settings.from_environment({}, **{"realtime": 0, **settings}))
    return app, app.state.desk


def test_of_fifty_clients_at_once_the_seated_and_queued_are_served(
    model: OmniModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = Door(model, monkeypatch)
    app, desk = crowded(model, max_sessions=4, max_queue=6, queue_seconds=60)
    refusals: list[int] = []

    def client(address: str, number: int) -> requests.Response:
        route = ("/chat", "/chat/raw")[number % 2]
        response = requests.post(address + route, json=QUESTION, timeout=120)
        if response.status_code == 503:
            refusals.append(number)
        return response

    with running(app) as address, ThreadPoolExecutor(50) as clients:
        replies = [clients.submit(client, address, number) for number in range(50)]
        until(lambda: len(refusals) == 40)
        assert (desk.seated, desk.waiting) == (4, 6)
        door.open.set()
        responses = [reply.result() for reply in replies]
        served = [response for response in responses if response.status_code == 200]
        assert len(served) == 10
        assert len({response.content for response in served}) <= 2  # all whole: one for each route
        for response in responses:
            if response.status_code != 200:
                assert refused(response, 503, "server_busy")["type"] == "server_error"
                assert int(response.headers["retry-after"]) >= 1
        assert (desk.seated, desk.waiting, model.engine.live) == (0, 0, 0)


def test_no_one_waits_for_a_seat_for_ever(model: OmniModel, monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door(model, monkeypatch)
    app, desk = crowded(model, max_sessions=1, queue_seconds=0.2)
    with running(app) as address, ThreadPoolExecutor(1) as clients:
        first = clients.submit(requests.post, address + "/chat", json=QUESTION, timeout=120)
        until(lambda: desk.seated)
        response = requests.post(address + "/chat", json=QUESTION)
        assert "0.2 s" in refused(response, 503, "server_busy")["message"]
        assert desk.waiting == 0
        door.open.set()
        assert first.result().status_code == 200


def test_an_engine_without_rows_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tiny_model(slots=1)) as address:
        response = requests.post(address + "/chat", json=QUESTION)
        refused(response, 503, "server_busy")
        assert response.headers["retry-after"]


def test_requests_under_way_are_bounded(model: OmniModel) -> None:
    with running(model, max_connections=1) as address, dial(address) as line:
        line.sendall(b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
        until(lambda: requests.get(address + "/metrics").status_code == 503)
        assert requests.get(address + "/health").status_code == 200
        line.close()
        until(lambda: requests.get(address + "/metrics").status_code == 200)


# ---- how long


def test_a_client_that_stops_sending_is_told_so(model: OmniModel) -> None:
    with running(model, stall_seconds=0.2) as address, dial(address) as line:
        line.sendall(b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n{")
        assert b" 408 " in line.makefile("rb").readline()


def test_a_request_has_its_time_in_all(model: OmniModel, monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door(model, monkeypatch)
    app, desk = crowded(model, total_seconds=0.3)
    with running(app) as address:
        refused(requests.post(address + "/chat", json=QUESTION), 408, "timeout")
        assert desk.seated == 0
        door.open.set()
        until(lambda: model.engine.live == 0)


# ---- settings


def test_settings_come_from_the_environment_and_from_the_call() -> None:
    given = {"OMNI2_MODEL": "a", "OMNI2_MAX_SESSIONS": "3", "OMNI2_ORIGINS": "http://a,http://b", "OMNI2_RATE": "0"}
    settings = Settings.from_environment(given, model="b", device=None)
    assert (settings.model, settings.max_sessions, settings.device) == ("b", 3, "cpu")
    assert settings.origins == ("http://a", "http://b")
    with pytest.raises(InputError, match="OMNI2_MAX_SESSIONS"):
        Settings.from_environment({"OMNI2_MAX_SESSIONS": "many"})


@pytest.mark.slow
def test_no_request_out_of_the_schema_makes_the_server_fail(model: OmniModel) -> None:
    import schemathesis
    from hypothesis import HealthCheck, given, settings
    from schemathesis.checks import not_a_server_error

    with running(model, max_sessions=8) as address:
        schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
        paths = json.dumps(sorted(schema.raw_schema["paths"]))
        assert all(f'"{path}"' in paths for path in ("/chat", "/chat/raw", "/health", "/metrics"))

        for operation in schema.get_all_operations():

            @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), database=None)
            @given(case=operation.ok().as_strategy())
            def each(case: schemathesis.Case) -> None:
                case.call_and_validate(checks=[not_a_server_error])

            each()
