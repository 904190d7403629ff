"""Fixtures of several files, and how threads wait in tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch is loaded: its idle threads would otherwise spin, and take the cores from a browser, a server or another
# process of the same test; where two cores had much else to do, a toy's training took more than four times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ["OMNI2_WEIGHTS"] = "float32"  # of commands and servers: exact; test_fast.py asks for others


@pytest.fixture(scope="module")
def driver() -> Iterator[object]:
    """Playwright; one at a time in a thread."""
    from pages import sync_playwright

    with sync_playwright() as driver:
        yield driver


@pytest.fixture(scope="module")
def browser(driver: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Chromium; somebody asks for France's capital into each microphone that is opened, the camera sees grey."""
    from pages import CAPITAL, chromium, write_camera, write_microphone

    folder = tmp_path_factory.mktemp("devices")
    microphone = write_microphone(folder / "microphone.wav", [CAPITAL])
    with chromium(driver, microphone, write_camera(folder / "camera.y4m")) as browser:
        yield browser


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network and an empty cache, as HF_HUB_OFFLINE=1 and HF_HUB_CACHE say at start."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
