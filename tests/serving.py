"""Live servers for tests: in a thread over a given model, or as a process of their own."""

import asyncio
import base64
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi import FastAPI
from toys import tone

from omni2.codec.stream import to_pcm16
from omni2.omni import OmniModel
from omni2.serve.app import create_app
from omni2.serve.run import Server
from omni2.serve.settings import Settings

ROOT = Path(__file__).parents[1]


@contextmanager
def running(app: FastAPI | OmniModel, **settings: object) -> Iterator[str]:
    """The address ("http://127.0.0.1:PORT") at which `app`, or an app over a model and `settings`, answers."""
    if isinstance(app, OmniModel):
        app = create_app(app, Settings.from_environment({}, **{"realtime": 0, **settings}))  # busy machines
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = Server(app)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
        thread.start()
        try:
            until(lambda: server.started or not thread.is_alive())
            assert server.started
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


@contextmanager
def process(*words: str, log: Path, **variables: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`python server.py --port 0 WORDS…` with its log in a file, and its address once it listens."""
    command = [sys.executable, str(ROOT / "server.py"), "--port", "0", *words]
    with log.open("wb") as file, subprocess.Popen(command, stderr=file, env={**os.environ, **variables}) as server:
        try:
            until(lambda: server.poll() is not None or b"listening at " in log.read_bytes(), 120)
            assert server.poll() is None, log.read_text("utf-8")
            told = [json.loads(line)["message"] for line in log.read_text("utf-8").splitlines()]
            address = next(message for message in told if message.startswith("listening at "))
            yield server, address.removeprefix("listening at ")
        finally:
            server.kill()


def until(done: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for `done()` to hold."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def wav_bytes(seconds: float = 0.3, hertz: float = 440.0) -> bytes:
    """A tone as a wav file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(16_000)
        wav.writeframes(to_pcm16(tone(seconds, hertz)))
    return file.getvalue()


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
