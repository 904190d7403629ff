"""What the Gradio page passes on between browsers and a server."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import requests
from serving import running, until
from starlette.applications import Starlette
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect
from toys import tiny_model
from websockets.asyncio.client import ClientConnection

from omni2.client import Client
from webui.backend import routes, start_server

OWN = {"origin": "http://testserver"}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with running(tiny_model(), api_key="sesame") as address:
        yield address


@pytest.fixture
def page(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The page's routes over a server that wants a key."""
    monkeypatch.setenv("API_URL", f"{server}/chat")
    monkeypatch.setenv("OMNI2_API_KEY", "sesame")
    with TestClient(Starlette(routes=routes())) as page:
        yield page


def test_events_go_both_ways_with_the_pages_key(page: TestClient, server: str) -> None:
    with page.websocket_connect("/v1/realtime?input_rate=48000", headers=OWN) as socket:
        assert socket.receive_json()["type"] == "session.created"
        socket.send_json({"type": "no such event", "event_id": "mine"})
        told = socket.receive_json()
        assert (told["type"], told["error"]["event_id"]) == ("error", "mine")
        assert connections(server) == 1
    until(lambda: connections(server) == 0)


def test_a_page_that_is_stopped_leaves_no_connection_behind(
    page: TestClient, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forever(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(ClientConnection, "close", forever)  # a server that never says goodbye
    with page.websocket_connect("/v1/realtime", headers=OWN) as socket:
        assert socket.receive_json()["type"] == "session.created"
        assert connections(server) == 1
    until(lambda: connections(server) == 0, 10)


def connections(server: str) -> float:
    page = requests.get(f"{server}/metrics", headers={"Authorization": "Bearer sesame"}, timeout=5).text
    return next(float(line.split()[1]) for line in page.splitlines() if line.startswith("omni2_realtime_connections "))


def test_pages_of_others_are_kept_out(page: TestClient) -> None:
    for headers in ({"origin": "http://elsewhere.example"}, {"origin": "null"}):
        with pytest.raises(WebSocketDisconnect), page.websocket_connect("/v1/realtime", headers=headers):
            pass
    behind_a_proxy = {"origin": "https://name.example", "x-forwarded-host": "name.example"}
    with page.websocket_connect("/v1/realtime", headers=behind_a_proxy) as socket:
        assert socket.receive_json()["type"] == "session.created"


def test_a_browser_may_bring_the_key_that_the_page_lacks(page: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMNI2_API_KEY")
    with pytest.raises(WebSocketDenialResponse) as refused, page.websocket_connect("/v1/realtime", headers=OWN):
        pass
    assert refused.value.status_code == page.get("/v1/models").status_code == 401
    protocols = ["realtime", "openai-insecure-api-key.sesame"]
    with page.websocket_connect("/v1/realtime", protocols, headers=OWN) as socket:
        assert socket.accepted_subprotocol == "realtime"
        assert socket.receive_json()["type"] == "session.created"
    assert page.get("/v1/models", headers={"Authorization": "Bearer sesame"}).json()["data"][0]["id"] == "the toy"


def test_a_server_that_is_away(page: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_URL", "http://127.0.0.1:9/chat")
    with pytest.raises(WebSocketDisconnect), page.websocket_connect("/v1/realtime", headers=OWN):
        pass
    assert page.get("/v1/models").status_code == 502


def test_a_server_that_leaves_takes_the_browser_along(page: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        monkeypatch.setenv("API_URL", stack.enter_context(running(tiny_model())))
        with page.websocket_connect("/v1/realtime", headers=OWN) as socket:
            assert socket.receive_json()["type"] == "session.created"
            stack.close()
            with pytest.raises(WebSocketDisconnect) as left:
                socket.receive_json()
    assert left.value.code in (1001, 1012, 1013)


def test_the_live_client_is_served(page: TestClient) -> None:
    assert "live.js" in page.get("/live/?embed=1").text
    assert page.get("/live/live.js").headers["content-type"].startswith("text/javascript")


@pytest.mark.assets
def test_a_server_starts_inside_the_page() -> None:
    assert Client(start_server()).health()["status"] == "ready"
