"""`WS /v1/realtime`: OpenAI's Realtime protocol over one socket; the rules are in session.py."""

import asyncio
import json
from collections.abc import Coroutine
from contextlib import aclosing, suppress
from typing import Any
from weakref import WeakKeyDictionary

from fastapi import APIRouter, WebSocket
from starlette.responses import JSONResponse
from starlette.websockets import WebSocketDisconnect, WebSocketState

from omni2.duplex.vad import load_silero
from omni2.errors import OmniError
from omni2.omni import Heard
from omni2.serve.desk import Desk
from omni2.serve.limits import authorised, origin_allowed
from omni2.serve.problems import Problem, busy, unauthorised
from omni2.serve.question import ask
from omni2.serve.realtime.events import AudioAppend, read_event, read_json
from omni2.serve.realtime.items import Item, Json, Part, Samples, new_id
from omni2.serve.realtime.response import Response
from omni2.serve.realtime.session import Session

router = APIRouter()

INPUT_RATES = range(8_000, 48_001)  # Hz
TOO_BIG = 1009  # close code

_open: WeakKeyDictionary[Desk, set[WebSocket]] = WeakKeyDictionary()  # the connections of every running server


@router.websocket("/v1/realtime")
async def realtime(socket: WebSocket) -> None:
    """A session.  `?input_rate=` tells the rate (Hz) of PCM input that is not 24 kHz, such as a microphone's own."""
    desk: Desk = socket.app.state.desk
    here = _open.setdefault(desk, set())
    try:
        rate = check(socket, desk)
        await desk.run(load_silero)
    except OmniError as error:
        refused = desk.report(error)
        await socket.send_denial_response(JSONResponse(refused.body, refused.status, refused.headers))
        return
    here.add(socket)
    desk.metrics.connections.set(len(here))
    try:
        await socket.accept("realtime" if "realtime" in socket.scope.get("subprotocols", []) else None)
        await Connection(socket, desk, rate).run()
    finally:
        here.discard(socket)
        desk.metrics.connections.set(len(here))


def check(socket: WebSocket, desk: Desk) -> int:
    """The rate (Hz) of the client's PCM.  Raises Problem for those who may not come in, or not now."""
    settings, headers = desk.settings, socket.headers
    if not authorised(headers, socket.query_params, socket.scope.get("subprotocols", []), settings):
        raise unauthorised()
    if not origin_allowed(headers.get("origin"), headers.get("host"), settings):
        raise Problem(403, "permission_error", "origin_not_allowed", "pages of this origin may not connect")
    if desk.draining or len(_open[desk]) >= settings.max_connections:
        raise busy("no more connections are let in now")
    text = socket.query_params.get("input_rate", "24000")
    if not (text.isascii() and text.isdecimal() and int(text[:9]) in INPUT_RATES):
        why = f"input_rate is a whole number of Hz from {INPUT_RATES[0]:,} to {INPUT_RATES[-1]:,}"
        raise Problem(422, "invalid_request_error", "invalid_value", why, "input_rate")
    return int(text)


class Connection:
    """One client: reads and writes its socket, and decodes for its session (it is the session's `Host`)."""

    def __init__(self, socket: WebSocket, desk: Desk, input_rate: int) -> None:
        self._socket, self._desk, self._limits = socket, desk, desk.settings
        self._outbox: asyncio.Queue[str] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._answering: asyncio.Task[None] | None = None
        self._sounding = asyncio.Event()  # the newest answer has begun to sound, or is over
        self._sounding.set()
        self._code = 1000  # with which the server closes
        model = desk.model
        self.session = Session(
            self, model.bundle.name, model.sample_rate, self._limits.max_audio_seconds, input_rate, model
        )

    async def run(self) -> None:
        """Serve the client until it leaves, idles or has been here long enough; nothing is left running then."""
        self.session.begin()
        reading, writing = self._spawn(self._read()), self._spawn(self._write())
        try:
            both, longest = {reading, writing}, self._limits.total_seconds
            await asyncio.wait(both, timeout=longest, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tasks = {reading, writing, *self._tasks}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._socket.client_state is WebSocketState.CONNECTED:
            with suppress(asyncio.TimeoutError, RuntimeError, OSError, WebSocketDisconnect):
                await asyncio.wait_for(self._socket.close(self._code), self._limits.stall_seconds)

    def send(self, event: Json) -> None:
        """Put `event` in line."""
        self._outbox.put_nowait(json.dumps({"event_id": new_id("event"), **event}))

    def answer(self, response: Response) -> None:
        """Decode the answer in a task of its own."""
        self._sounding = asyncio.Event()
        self._answering = self._spawn(self._answer(response, self._sounding))

    def stop(self, response: Response) -> None:
        """End that task; decoding stops within a step."""
        if self._answering is not None:
            self._answering.cancel()
        self._sounding.set()  # a task that is cancelled before it runs does not say so itself

    def transcribe(self, item: Item, part: Part) -> None:
        """Write down what `part` says in a task of its own."""
        assert part.sound is not None
        self._spawn(self._transcribe(item, part, part.heard or part.sound, part.rate))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _read(self) -> None:
        while True:
            message = await asyncio.wait_for(self._socket.receive(), self._limits.idle_seconds)
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            if text is not None and len(text) > self._limits.max_body:
                self._code = TOO_BIG
                return
            await self._receive(text)
            await self._outbox.join()  # who does not read is not read from

    async def _receive(self, text: str | None) -> None:
        """One message; whatever is wrong with it becomes an error event."""
        fields: Json = {}
        try:
            fields = read_json(text)
            event = read_event(fields)
            if isinstance(event, AudioAppend):
                self.session.heard(*await self._desk.run(self.session.ears.push, self.session.sound_of(event)))
            else:
                self.session.handle(event)
        except Exception as error:
            problem, cause = self._desk.report(error), fields.get("event_id")
            told = problem.body["error"] | {"event_id": cause if isinstance(cause, str) else None}
            self.send({"type": "error", "error": told})

    async def _write(self) -> None:
        while True:
            await asyncio.wait_for(self._socket.send_text(await self._outbox.get()), self._limits.stall_seconds)
            self._outbox.task_done()

    async def _answer(self, response: Response, sounding: asyncio.Event) -> None:
        try:
            async with aclosing(ask(self._desk, response.question, response.reply, most=response.most)) as chunks:
                async for chunk in chunks:
                    response.say(chunk)
                    self.session.played(response, chunk.audio.size / self._desk.model.sample_rate)
                    if chunk.audio.size or response.reply == "text":
                        sounding.set()
                    await self._outbox.join()
        except Exception as error:
            response.end("failed", problem=self._desk.report(error))
        finally:
            sounding.set()
            self.session.played(response, 0.0)

    async def _transcribe(self, item: Item, part: Part, sound: Samples | Heard, rate: int) -> None:
        model = self._desk.model
        await self._sounding.wait()  # the written question can wait, the answer cannot
        try:
            async with self._desk.seat():
                words = await self._desk.run(lambda: model.transcribe(sound, rate=rate))
        except Exception as error:
            self.session.transcribed(item, part, self._desk.report(error))
        else:
            self.session.transcribed(item, part, words)
