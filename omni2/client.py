"""What pages and programs use to talk to a server; neither a model nor PyTorch is needed on this side.

Sound goes in as a file of any kind and comes back as PCM: s16le, mono, `SAMPLE_RATE` Hz.
"""

import base64
import io
import json
import time
import wave
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import requests

from omni2.errors import AbilityError, BusyError, ContextLengthError, InputError, OmniError

if TYPE_CHECKING:
    from websockets import Subprotocol
    from websockets.asyncio.client import ClientConnection

SAMPLE_RATE = 24_000  # Hz, of all sound that comes back
BOUNDARY = b"--frame"
CONNECT_SECONDS, READ_SECONDS = 5.0, 120.0  # longest waits: for the connection, for the next bytes
BY_CODE = {"unsupported": AbilityError, "context_length_exceeded": ContextLengthError}
BY_STATUS = {400: InputError, 413: InputError, 422: InputError, 429: BusyError, 503: BusyError}

File = bytes | str | Path
Json = dict[str, Any]


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer: new sound (PCM) and new words; either may be empty."""

    pcm: bytes = b""
    text: str = ""


class Stream(Iterator[Chunk]):
    """An answer as it comes; `text` and `pcm` are what came so far.

    `close` or leaving a `with` block hangs up, which stops the server's work on it.  Raises OmniError where the server
    fails or goes away before the end.
    """

    def __init__(self, response: requests.Response, chunks: Iterator[Chunk], began: float) -> None:
        self._response, self._chunks, self._began = response, chunks, began
        self._first_sound: float | None = None
        self.text, self.pcm = "", b""

    def __next__(self) -> Chunk:
        try:
            chunk = next(self._chunks)
        except requests.RequestException as error:
            raise OmniError("the server went away before the answer's end") from error
        if chunk.pcm and not self.pcm:
            self._first_sound = time.perf_counter() - self._began
        self.text += chunk.text
        self.pcm += chunk.pcm
        return chunk

    def figures(self) -> str:
        """The times in words; for after the end."""
        total, seconds = time.perf_counter() - self._began, len(self.pcm) / 2 / SAMPLE_RATE
        if self._first_sound is None:
            return f"no sound, {total:.2f} s"
        first, rtf = self._first_sound, total / seconds
        return f"first sound after {first:.2f} s · {seconds:.1f} s of speech · real-time factor {rtf:.2f}"

    def close(self) -> None:
        """Hang up."""
        self._response.close()
        self._chunks = iter(())

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Client:
    """A server by its address: `http://host:60808`, with or without `/chat` or `/v1` at its end.

    What the server refuses is raised in its own words: InputError, AbilityError, BusyError; anything else that fails,
    the way to it included, is an OmniError.  A client may be used by several threads.
    """

    def __init__(self, api_url: str, api_key: str | None = None) -> None:
        if not api_url.startswith(("http://", "https://")):
            raise InputError(f"a server's address begins with http:// or https://, unlike {api_url!r}")
        self.base = api_url.rstrip("/").removesuffix("/v1").removesuffix("/chat")
        self.headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def chat(self, audio: File, image: File | None = None) -> Stream:
        """The answer to a spoken question, about a picture or not."""
        question = {"audio": in_base64(audio)} | ({"image": in_base64(image)} if image is not None else {})
        return self._stream("/chat", question, read_parts)

    def ask(self, text: str | None = None, image: File | None = None) -> Stream:
        """The spoken answer to a typed question about a picture or not; a picture alone is described."""
        content: list[Json] = [{"type": "text", "text": text}] if text else []
        if image is not None:
            content.append({"type": "image_url", "image_url": {"url": f"data:image/any;base64,{in_base64(image)}"}})
        question = {
            "messages": [{"role": "user", "content": content}],
            "modalities": ["text", "audio"],
            "audio": {"format": "pcm16"},
            "stream": True,
        }
        return self._stream("/v1/chat/completions", question, read_events)

    def speak(self, text: str) -> Stream:
        """`text` read aloud."""
        return self._stream("/v1/audio/speech", {"input": text, "response_format": "pcm"}, read_pcm)

    def transcribe(self, audio: File) -> str:
        """The words of a sound."""
        reply = self._request("POST", "/v1/audio/transcriptions", files={"file": read_file(audio)})
        return str(reply.json()["text"])

    def health(self) -> Json:
        """The server's state: `status` and the `model`'s name.  Raises BusyError while it shuts down."""
        found: Json = self._request("GET", "/health").json()
        return found

    def realtime(
        self, protocols: Sequence["Subprotocol"] = (), **query: object
    ) -> AbstractAsyncContextManager["ClientConnection"]:
        """A WebSocket to `/v1/realtime`, which speaks OpenAI's Realtime protocol; for `async with`."""
        from websockets.asyncio.client import connect

        address = f"ws{self.base.removeprefix('http')}/v1/realtime?{urlencode(query)}"
        return connect(address, additional_headers=self.headers, subprotocols=[*protocols] or None, max_size=None)

    def _stream(self, route: str, body: Json, read: Callable[[requests.Response], Iterator[Chunk]]) -> Stream:
        began = time.perf_counter()
        response = self._request("POST", route, body)
        return Stream(response, read(response), began)

    def _request(
        self, method: str, route: str, body: Json | None = None, files: dict[str, bytes] | None = None
    ) -> requests.Response:
        """The reply, its body unread if it answers a `body`."""
        address, timeout, stream = self.base + route, (CONNECT_SECONDS, READ_SECONDS), body is not None
        try:
            response = requests.request(
                method, address, headers=self.headers, timeout=timeout, json=body, files=files, stream=stream
            )
        except requests.RequestException as error:
            raise OmniError(f"no server answers at {self.base}; start one: omni2 serve") from error
        if not response.ok:
            with response:
                raise refusal(response)
        return response


def refusal(response: requests.Response) -> OmniError:
    """What a reply with an error status means."""
    try:
        return as_error(response.json()["error"], response.status_code)
    except (ValueError, KeyError, TypeError):
        return OmniError(f"{response.url} answers with status {response.status_code}; is this an omni2 server?")


def as_error(told: Json, status: int = 500) -> OmniError:
    """The exception for the object `error` of a reply."""
    kind = BY_CODE.get(told["code"]) or BY_STATUS.get(status, OmniError)
    return kind(told["message"])


def read_parts(response: requests.Response) -> Iterator[Chunk]:
    """The chunks of `/chat`.  A part has no length: it ends where the next boundary begins."""
    waiting = b""
    for piece in response.iter_content(None):
        waiting += piece
        *parts, waiting = waiting.split(BOUNDARY)
        for part in parts:
            head, _, content = part.partition(b"\r\n\r\n")
            content = content.removesuffix(b"\r\n")
            if b"audio/wav" in head and content:
                yield Chunk(pcm=content)
            elif b"text/plain" in head and content:
                yield Chunk(text=content.decode())
            elif b"application/json" in head:
                raise as_error(json.loads(content)["error"])
    if not waiting.startswith(b"--"):
        raise OmniError("the server cut its answer short")


def read_events(response: requests.Response) -> Iterator[Chunk]:
    """The chunks of `/v1/chat/completions`: server-sent events, one a line."""
    for line in response.iter_lines(8192):
        if not line.startswith(b"data: "):
            continue
        data = line.removeprefix(b"data: ")
        if data == b"[DONE]":
            return
        try:
            event = json.loads(data)
        except ValueError:  # half of a line
            break
        if "error" in event:
            raise as_error(event["error"])
        audio = event["choices"][0]["delta"].get("audio", {})
        chunk = Chunk(base64.b64decode(audio.get("data", "")), audio.get("transcript", ""))
        if chunk != Chunk():
            yield chunk
    raise OmniError("the server cut its answer short")


def read_pcm(response: requests.Response) -> Iterator[Chunk]:
    """The chunks of `/v1/audio/speech`, each of whole samples."""
    waiting = b""
    for piece in response.iter_content(None):
        waiting += piece
        whole = len(waiting) // 2 * 2
        if whole:
            yield Chunk(pcm=waiting[:whole])
        waiting = waiting[whole:]


def read_file(file: File) -> bytes:
    """The bytes of a file given by its path, or as they are.  Raises InputError."""
    if isinstance(file, bytes):
        return file
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error


def in_base64(file: File) -> str:
    return base64.b64encode(read_file(file)).decode()


def to_wav(pcm: bytes) -> bytes:
    """A wav file of PCM as the server sends it."""
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        wav.writeframes(pcm)
    return file.getvalue()
