"""Chromium for tests of pages: fake microphones and cameras, and what comes over a page's WebSocket."""

from __future__ import annotations

import base64
import json
import shutil
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from omni2.audio import to_waveform

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Playwright, WebSocket

sync_playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MICROPHONE_RATE = 48_000  # Hz
CAPITAL = Path(__file__).parents[1] / "examples" / "audio" / "capital.wav"
LEAD = 3.0  # seconds of silence before the first question, until a busy machine listens
SPOKEN = LEAD + 1.9  # seconds after which CAPITAL has been spoken
ANSWER = "The capital of France is Paris."
QUIET = "omni.state === 'listening' || omni.state === 'ready'"
VIDEO = (320, 240)  # pixels
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --use-fake-device-for-media-stream"
    " --autoplay-policy=no-user-gesture-required"
)
PATIENCE = 120_000  # ms that a condition is waited for, on a busy machine

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian package: chromium)")


def write_microphone(path: Path, questions: list[Path], gap: float = 2.0, tail: float = 60.0) -> Path:
    """A wav file (48 kHz, 16-bit, mono): LEAD s of silence, each question and `gap` s, at last `tail` s."""
    import soxr

    def silence(seconds: float) -> np.ndarray:
        return np.zeros(round(seconds * MICROPHONE_RATE), np.float32)

    spoken = [soxr.resample(to_waveform(question), 16_000, MICROPHONE_RATE) for question in questions]
    parts = [part for sound in spoken for part in (sound, silence(gap))]
    samples = np.concatenate([silence(LEAD), *parts, silence(tail)])
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(MICROPHONE_RATE)
        file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
    return path


def write_camera(path: Path, luma: int = 180) -> Path:
    """A y4m file of a grey picture with a dark left half."""
    width, height = VIDEO
    picture = np.full((height, width), luma, np.uint8)
    picture[:, : width // 2] = 40
    frame = b"FRAME\n" + picture.tobytes() + bytes([128]) * (width * height // 2)
    path.write_bytes(b"YUV4MPEG2 W%d H%d F15:1 Ip A1:1 C420jpeg\n" % VIDEO + 15 * frame)
    return path


@contextmanager
def chromium(
    driver: Playwright, microphone: Path | None = None, camera: Path | None = None, allowed: bool = True
) -> Iterator[Browser]:
    """A headless browser whose microphone plays `microphone` once and whose camera repeats `camera`.

    Without files the devices beep and draw; `allowed` is what the person answers when a page asks for them.
    """
    flags = [*FLAGS.split(), "--use-fake-ui-for-media-stream" + ("" if allowed else "=deny")]
    if microphone is not None:
        flags.append(f"--use-file-for-fake-audio-capture={microphone}%noloop")
    if camera is not None:
        flags.append(f"--use-file-for-fake-video-capture={camera}")
    browser = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
    try:
        yield browser
    finally:
        browser.close()


@contextmanager
def opened(browser: Browser, url: str, **context: object) -> Iterator[Page]:
    """A page at `url` that makes no mistakes of its own; `page.wire` holds what its WebSockets said."""
    with browser.new_context(**context) as window:
        window.set_default_timeout(PATIENCE)
        page = window.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.wire = Wire(page)
        page.goto(url)
        yield page
        assert not faults


class Wire:
    """The events that went over a page's WebSockets, in both directions, as JSON objects."""

    def __init__(self, page: Page) -> None:
        self.sent: list[dict[str, Any]] = []
        self.received: list[dict[str, Any]] = []
        page.on("websocket", self._listen)

    def _listen(self, socket: WebSocket) -> None:
        socket.on("framesent", lambda data: self.sent.append(json.loads(data)))
        socket.on("framereceived", lambda data: self.received.append(json.loads(data)))

    def answered(self) -> list[np.ndarray]:
        """The pieces of sound that came, (n,) float32 in [-1, 1] at 24 kHz."""
        pieces = [event["delta"] for event in self.received if event["type"] == "response.output_audio.delta"]
        return [np.frombuffer(base64.b64decode(piece), "<i2").astype(np.float32) / 32768 for piece in pieces]

    def types(self) -> list[str]:
        """The kinds of events received."""
        return [event["type"] for event in self.received]
