"""Pages as people start them: programs of their own, in a process group that ends with the test."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pages import QUIET
from playwright.sync_api import Frame, Page
from serving import ROOT, until

from omni2.hub import NANO_FOLDER

OFF = {"GRADIO_ANALYTICS_ENABLED": "False", "STREAMLIT_BROWSER_GATHER_USAGE_STATS": "false", "HF_HUB_OFFLINE": "1"}


@contextmanager
def program(*command: str | Path, log: Path, folder: Path = ROOT, **variables: str) -> Iterator[str]:
    """Start `command` and wait for the address that it prints."""
    environment = os.environ | OFF | {"PYTHONUNBUFFERED": "1"} | variables
    address = re.compile(r"URL:\s+(http://127\.0\.0\.1:\d+)")
    with log.open("wb") as file:
        running = subprocess.Popen(
            [*map(str, command)],
            cwd=folder,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until(lambda: address.search(log.read_text("utf-8")) or running.poll() is not None, 240)
        told = address.search(log.read_text("utf-8"))
        assert told, log.read_text("utf-8")
        yield told[1]
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait(60)


def live_frame(page: Page) -> Frame:
    """The browser client inside a page, once it is there."""
    frame = page.locator("iframe[src*='/live/'], iframe[src^='live/']").element_handle().content_frame()
    assert frame is not None
    frame.wait_for_function("window.omni !== undefined")
    return frame


def heard_out(frame: Frame) -> None:
    """Wait until an answer was played to its end, all of it."""
    frame.wait_for_function(f"omni.turns.some((turn) => turn.latency !== null) && ({QUIET})")
    received, played = frame.evaluate("[omni.samplesReceived, omni.samplesPlayed]")
    assert received == played > 24_000


def loudest(page: Page, samples: int) -> float:
    """Listen to what the page's player plays until it was given `samples` in all and is silent; the highest RMS."""
    script = """(samples) => {
        let [loudest, quiet] = [0, 0];
        delete window.loudest;
        const timer = setInterval(() => {
            const heard = new Float32Array(2048);
            window.omniPlays?.analyser?.getFloatTimeDomainData(heard);
            const level = Math.hypot(...heard) / Math.sqrt(heard.length);
            loudest = Math.max(loudest, level);
            quiet = level < 1e-4 ? quiet + 1 : 0;
            const over = loudest > 1e-3 ? quiet > 20 : quiet > 1000;
            if (window.omniPlays?.played >= samples && over) { clearInterval(timer); window.loudest = loudest; }
        }, 20);
    }"""
    page.evaluate(script, samples)
    page.wait_for_function("window.loudest !== undefined")  # unlike a promise it is not waited for without an end
    return float(page.evaluate("window.loudest"))


def recorded(page: Page, clock: str, seconds: float) -> None:
    """Wait until the recorder whose time, as in "0:04", stands in the element `clock` has run for `seconds`."""
    page.wait_for_function(
        "([clock, seconds]) => [...document.querySelectorAll(clock)]"
        ".some((one) => Number(one.textContent.split(':').at(-1)) >= seconds)",
        arg=[clock, seconds],
    )


def nano_sees() -> bool:
    """Whether the shipped model learned to see."""
    return "see" in json.loads((NANO_FOLDER / "config.json").read_text("utf-8"))["abilities"]
