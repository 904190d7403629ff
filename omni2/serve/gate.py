"""The door for HTTP: key, rate, size and time are checked, and a client that leaves takes its work along."""

import asyncio
import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omni2.serve.limits import Rates, authorised
from omni2.serve.problems import busy, too_large, too_slow, unauthorised
from omni2.serve.settings import Settings

OPEN = re.compile(r"/|/(health|live)(/.*)?")  # paths that need no key: they tell nothing of anyone


class Gate:
    """ASGI middleware that reads the body within its limits and lets the app work for as long as the client stays.

    The app's task is cancelled, wherever it waits, when the client hangs up or no longer reads its answer.  WebSockets
    pass through.  Raises Problem 401, 408, 413, 429 and 503.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings
        self.rates = Rates(settings.rate)
        self.inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if not OPEN.fullmatch(scope["path"]):
            self._check(scope)
        self.inside += 1
        try:
            await asyncio.wait_for(self._serve(scope, receive, send), self.settings.total_seconds)
        except asyncio.TimeoutError as error:
            raise too_slow() from error
        finally:
            self.inside -= 1

    def _check(self, scope: Scope) -> None:
        if not authorised(Headers(scope=scope), {}, (), self.settings):
            raise unauthorised()
        self.rates.take("" if self.settings.api_key else (scope.get("client") or [""])[0])
        if self.inside >= self.settings.max_connections:
            raise busy("too many requests are under way")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._body(Headers(scope=scope).get("content-length", ""), receive)
        if body is not None:
            await _Visit(body, receive, send, self.settings.stall_seconds).run(self.app, scope)

    async def _body(self, declared: str, receive: Receive) -> bytes | None:
        """The whole body; None if the client leaves before its end.

        What is moderately too large is read and thrown away, since most clients look for a reply only after sending.
        """
        limit = self.settings.max_body
        problem = too_large("the request's body", f"{limit:,} bytes")
        if declared.isdecimal() and int(declared) > 2 * limit:
            raise problem
        body, size, more = bytearray(), 0, True
        while more:
            message = await asyncio.wait_for(receive(), self.settings.stall_seconds)
            if message["type"] == "http.disconnect":
                return None
            size += len(message.get("body", b""))
            if size > 2 * limit:
                raise problem
            if size <= limit:
                body += message.get("body", b"")
            more = message.get("more_body", False)
        if size > limit:
            raise problem
        return bytes(body)


class _Visit:
    """One client whose request has been read, until the reply is sent or the client gone."""

    def __init__(self, body: bytes, receive: Receive, send: Send, stall_seconds: float) -> None:
        self._unread = [body]
        self._send, self._stall = send, stall_seconds
        self._sending: float | None = None  # when the message that is on its way was handed over
        self._whole = False  # the last message of the reply has been handed over
        self._gone = asyncio.ensure_future(_disconnect(receive))

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Let the app work; its errors are raised here."""
        work = asyncio.ensure_future(app(scope, self._receive, self._patient_send))
        try:
            while not work.done():
                watched = {work} if self._gone.done() else {work, self._gone}
                await asyncio.wait(watched, timeout=self._stall, return_when=asyncio.FIRST_COMPLETED)
                if self._stalled or (self._gone.done() and not self._whole):
                    work.cancel()
        finally:
            work.cancel()
            self._gone.cancel()
        if not work.cancelled():
            work.result()

    @property
    def _stalled(self) -> bool:
        return self._sending is not None and asyncio.get_running_loop().time() - self._sending >= self._stall

    async def _receive(self) -> Message:
        if self._unread:
            return {"type": "http.request", "body": self._unread.pop(), "more_body": False}
        await asyncio.wait({self._gone})
        return {"type": "http.disconnect"}

    async def _patient_send(self, message: Message) -> None:
        self._whole = message["type"] == "http.response.body" and not message.get("more_body")
        self._sending = asyncio.get_running_loop().time()
        await self._send(message)
        self._sending = None


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
