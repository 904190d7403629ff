"""The page that listens while it speaks, in a browser whose microphone says "Stop Omni"."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from duplex import STOP
from pages import chromium, needs_chromium, opened, write_microphone
from realtime import endless_model
from serving import running
from test_realtime_duplex import with_ears

if TYPE_CHECKING:
    from playwright.sync_api import Page, Playwright

pytestmark = [pytest.mark.slow, needs_chromium]


WATCH = """() => {  // what the page says of its state from now on, however briefly
    window.told = [];
    const watch = new MutationObserver((changes) => {
        for (const { addedNodes } of changes) told.push(...[...addedNodes].map((text) => text.data));
    });
    for (const id of ["state", "hint"]) watch.observe(document.getElementById(id), { childList: true });
}"""


@pytest.fixture
def page(driver: Playwright, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The client in front of a toy that speaks without end; somebody says "Stop Omni" every few seconds."""
    microphone = write_microphone(tmp_path / "microphone.wav", [STOP] * 8, gap=3.0)
    with (
        running(with_ears(endless_model(40_000))) as address,
        chromium(driver, microphone) as browser,
        opened(browser, f"{address}/live/?interrupt={request.param}") as page,
    ):
        page.get_by_role("button", name="Start").click()
        page.wait_for_function("omni.state === 'listening' || omni.state === 'thinking'")
        yield page


@pytest.mark.parametrize("page", ["command"], indirect=True)
def test_it_falls_silent_when_told_to_stop(page: Page) -> None:
    page.evaluate(WATCH)
    page.get_by_label("Type a question").fill("hello")
    page.keyboard.press("Enter")
    page.wait_for_function("omni.turns.at(-1).cut && !omni.turns.at(-1).open && omni.state !== 'speaking'")
    assert {"Speaking and listening", "Say \u201cStop Omni\u201d to interrupt."} <= {*page.evaluate("told")}
    played = page.evaluate("omni.samplesPlayed")
    page.wait_for_timeout(700)
    assert page.evaluate("omni.samplesPlayed") == played
    assert page.evaluate("omni.turns.filter((turn) => turn.who === 'you').length") == 1  # the order was no question
    assert "Interrupted after" in page.locator("#turns .omni .meta").inner_text()
    page.locator("#turns .omni.cut").wait_for()
    assert "output_audio_buffer.cleared" in page.wire.types()
    cut = [event["audio_end_ms"] for event in page.wire.sent if event["type"] == "conversation.item.truncate"]
    assert cut == [page.evaluate("omni.turns.at(-1).heard") * 1000 // 24_000]


@pytest.mark.parametrize("page", ["off"], indirect=True)
def test_it_goes_on_where_the_switch_says_so(page: Page) -> None:
    page.get_by_label("Type a question").fill("hello")
    page.keyboard.press("Enter")
    page.wait_for_function("omni.turns.at(-1).who === 'omni'")
    page.wait_for_timeout(6000)  # an order comes every 3.8 s
    assert not page.evaluate("omni.turns.some((turn) => turn.cut)")
    page.get_by_label("Stops at").select_option("command")
    page.wait_for_function("omni.turns.some((turn) => turn.cut)")
