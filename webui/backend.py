"""The server behind the Gradio page: wherever it runs, browsers reach it through the page's own port."""

import asyncio
import os
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import requests
from requests.exceptions import RequestException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketState
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus, WebSocketException

from omni2.client import Client
from omni2.errors import OmniError

LIVE = Path(__file__).parent / "live"
AWAY = 1013  # close code: try again later
UNSENDABLE = (None, 1005, 1006)  # what stands for a close without a code


def client() -> Client:
    """A client of the server that `API_URL` names, with the key of `OMNI2_API_KEY`."""
    return Client(os.environ["API_URL"], os.environ.get("OMNI2_API_KEY"))


def start_server() -> str:
    """Run the server in a thread that ends with the process; returns its address when it answers.

    It is set up by the variables of `omni2 serve`.  Raises CheckpointError and InputError.
    """
    from omni2.serve.app import create_app
    from omni2.serve.run import Server, load_model
    from omni2.serve.settings import Settings

    settings = Settings.from_environment()
    server = Server(create_app(load_model(settings), settings))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise OmniError("the server inside the page did not start")
        time.sleep(0.02)
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def routes() -> list[BaseRoute]:
    """What the live client needs on the page's own port: its files, its WebSocket, whether a key is wanted."""
    return [
        WebSocketRoute("/v1/realtime", relay),
        Route("/v1/models", models),
        Mount("/live", StaticFiles(directory=LIVE, html=True)),
    ]


def models(request: Request) -> Response:
    """The server's own `/v1/models`, whose status tells the live client why it was not let in; runs on a thread."""
    server = client()
    given = {"Authorization": request.headers["authorization"]} if "authorization" in request.headers else {}
    try:
        reply = requests.get(f"{server.base}/v1/models", headers=given | server.headers, timeout=5)
    except RequestException:
        return Response(status_code=502)
    return Response(reply.content, reply.status_code, media_type="application/json")


async def relay(browser: WebSocket) -> None:
    """Pass events on between a browser and the server's `/v1/realtime` until one of them leaves."""
    if not own_page(browser):
        await browser.close()
        return
    protocols = browser.scope.get("subprotocols", [])
    server: ClientConnection | None = None
    try:
        async with client().realtime(protocols, **browser.query_params) as server:
            await browser.accept(server.subprotocol)
            await both_ways(browser, server)
    except asyncio.CancelledError:
        if server is not None:  # it may have been taking leave of the server, which would now never end
            server.transport.abort()
        raise
    except InvalidStatus as refused:
        reply = Response(bytes(refused.response.body or b""), refused.response.status_code)
        await browser.send_denial_response(reply)
    except (OSError, WebSocketException):
        await browser.close(AWAY)


def own_page(browser: WebSocket) -> bool:
    """Whether the page that asks came from here, directly or through a proxy; who sends no origin is no browser."""
    origin = browser.headers.get("origin")
    hosts = (browser.headers.get("host"), browser.headers.get("x-forwarded-host"))
    return origin is None or urlsplit(origin).netloc in hosts


async def both_ways(browser: WebSocket, server: ClientConnection) -> None:
    """Carry messages in both directions; returns when either side has closed, and both are closed then."""
    ways = [asyncio.ensure_future(way) for way in (upward(browser, server), downward(browser, server))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
    if browser.client_state is WebSocketState.CONNECTED:
        await browser.close(AWAY if server.close_code in UNSENDABLE else server.close_code)


async def upward(browser: WebSocket, server: ClientConnection) -> None:
    async for text in browser.iter_text():
        await server.send(text)


async def downward(browser: WebSocket, server: ClientConnection) -> None:
    async for message in server:
        await browser.send_text(str(message))
