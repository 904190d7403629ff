"""The outermost layer of the app: a request id in every reply, a line of log, and errors as replies."""

import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omni2.serve.desk import Desk
from omni2.serve.logs import logger, request_id

SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
CLIENT_GONE = 499  # what nginx logs for a client that left before its reply began


class Trace:
    """ASGI middleware around everything else, for HTTP and WebSockets."""

    def __init__(self, app: ASGIApp, desk: Desk) -> None:
        self.app, self.desk = app, desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        token = request_id.set(given if SANE_ID.fullmatch(given) else uuid.uuid4().hex)
        exchange = Exchange(receive, send)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except Exception as error:
            problem = self.desk.report(error)
            if exchange.status is None and scope["type"] == "http":
                reply = JSONResponse(problem.body, problem.status, problem.headers)
                await reply(scope, exchange.receive, exchange.send)
            # otherwise it is too late to say so: uvicorn cuts the connection, which tells of an answer cut short
        finally:
            self._log(scope, exchange)
            request_id.reset(token)

    def _log(self, scope: Scope, exchange: "Exchange") -> None:
        route = getattr(scope.get("route"), "path", "other")
        status = exchange.status or CLIENT_GONE
        self.desk.metrics.requests.labels(route, status).inc()
        fields = {
            "method": scope.get("method", "WS"),
            "route": route,
            "status": status,
            "ms": round(1000 * (time.perf_counter() - exchange.began)),
            "bytes_in": exchange.bytes_in,
            "bytes_out": exchange.bytes_out,
        }
        logger.info("request", extra={"fields": fields})


class Exchange:
    """One request's messages on their way in and out: sizes, the status, the id in the reply's headers."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.began = time.perf_counter()
        self.status: int | None = None
        self.bytes_in = self.bytes_out = 0

    async def receive(self) -> Message:
        message = await self._receive()
        self.bytes_in += size(message)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.accept", "websocket.http.response.start"):
            self.status = message.get("status", 101)
            MutableHeaders(scope=message)["X-Request-Id"] = request_id.get() or ""
        elif message["type"] == "websocket.close" and self.status is None:
            self.status = 403
        self.bytes_out += size(message)
        await self._send(message)


def size(message: Message) -> int:
    """Bytes of an ASGI message's content; of text its letters."""
    return len(message.get("body") or message.get("bytes") or message.get("text") or b"")
