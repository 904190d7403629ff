"""The browser client in a real chromium, over a real server and the embedded model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pages import ANSWER, CAPITAL, QUIET, SPOKEN, chromium, needs_chromium, opened, write_microphone
from serving import process, running
from tape import Tape

from omni2.hub import NANO_FOLDER
from omni2.omni import OmniModel

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Playwright

pytestmark = [
    needs_chromium,
    pytest.mark.slow,
    pytest.mark.assets,
    pytest.mark.skipif(not NANO_FOLDER.is_dir(), reason="the shipped weights are not there"),
]


@pytest.fixture(scope="module")
def nano() -> OmniModel:
    return OmniModel.from_pretrained("nano")


@pytest.fixture(scope="module")
def server(nano: OmniModel) -> Iterator[str]:
    with running(nano) as address:
        yield address


def ask(page: Page, question: str) -> None:
    """Type a question and send it off."""
    page.get_by_label("Type a question").fill(question)
    page.keyboard.press("Enter")


def answers(page: Page) -> list[str]:
    """The words of all answers in the page, interrupted ones as far as they were heard."""
    return [item.locator(".words").inner_text() for item in page.locator("#turns .omni").all()]


def heard_out(page: Page, count: int = 1) -> None:
    """Wait until `count` answers were played to their end."""
    page.wait_for_function(f"omni.turns.filter((turn) => turn.latency !== null).length >= {count} && ({QUIET})")


def check_sound(page: Page, tape: Tape) -> None:
    """What was sent was played: all of it in order, each piece unchanged and as loud; a slow machine may pause."""
    pieces = page.wire.answered()
    sent = sum(map(len, pieces))
    assert sent > 24_000
    assert page.evaluate("[omni.samplesReceived, omni.samplesPlayed]") == [sent, sent]
    assert np.sqrt(np.mean(np.concatenate(pieces) ** 2)) > 0.01
    fits = tape.holds([piece for piece in pieces if np.abs(piece).max() > 0.05])
    assert len(fits) >= 2
    assert min(correlation for correlation, _ in fits) > 0.99
    assert all(0.9 < loudness < 1.1 for _, loudness in fits)


WATCH = """() => {  // what the page says of its state from now on, however briefly
    window.told = [];
    const watch = new MutationObserver((changes) => {
        for (const { addedNodes } of changes) told.push(...[...addedNodes].map((text) => text.data));
    });
    watch.observe(document.querySelector("[role=status]"), { childList: true });
}"""


def report(page: Page, how: str) -> None:
    turn = page.evaluate("omni.turns.at(-1)")
    print(f"{how}: first sample played {turn['latency']:.0f} ms after the question's end", end="")  # noqa: T201
    print(f", {turn['latency'] - turn['pause']:.0f} ms beyond the pause" if turn["pause"] else "")  # noqa: T201


def test_hands_free_question_is_answered_aloud(server: str, browser: Browser) -> None:
    with opened(browser, f"{server}/live/") as page:
        assert page.get_by_role("status").inner_text() == "Ready when you are"
        page.get_by_role("button", name="Start").click()
        page.wait_for_function("omni.state === 'listening'")
        tape = Tape(page)
        page.evaluate(WATCH)
        heard_out(page)
        told = page.evaluate("told")
        assert told.index("Thinking…") < told.index("Speaking and listening")
        check_sound(page, tape)
        assert answers(page) == [ANSWER]
        assert "capital" in page.locator("#turns .you .words").inner_text()
        assert "First sound after" in page.locator("#turns .omni .meta").inner_text()
        assert {"input_audio_buffer.speech_started", "response.done"} <= set(page.wire.types())
        assert "error" not in page.wire.types()
        report(page, "hands-free")


@pytest.mark.parametrize("by", ["mouse", "space"])
def test_push_to_talk_sends_what_was_said_while_held(server: str, browser: Browser, by: str) -> None:
    with opened(browser, f"{server}/live/?mode=hold") as page:
        button = page.get_by_role("button", name="Start")
        button.click()
        page.wait_for_function("omni.state === 'ready'")
        tape = Tape(page)
        button = page.get_by_role("button", name="Hold to talk")
        button.hover()
        page.mouse.down() if by == "mouse" else page.keyboard.down("Space")
        page.get_by_text("Let go to send.").wait_for()
        page.wait_for_function(f"omni.soundSentMs > {1000 * (SPOKEN + 0.2)}")
        page.mouse.up() if by == "mouse" else page.keyboard.up("Space")
        heard_out(page)
        check_sound(page, tape)
        assert answers(page) == [ANSWER]
        kinds = [event["type"] for event in page.wire.sent]
        assert kinds.index("input_audio_buffer.commit") < kinds.index("response.create")
        assert "input_audio_buffer.append" not in kinds[kinds.index("response.create") :]
        report(page, f"push-to-talk by {by}")


TAP = """() => new Promise(requestIdleCallback).then(() => {  // when no sound waits, and too quick for more to come
    const button = document.getElementById("talk");
    for (const type of ["pointerdown", "pointerup"]) button.dispatchEvent(new PointerEvent(type, { pointerId: 1 }));
})"""


def test_a_tap_is_no_question(server: str, browser: Browser) -> None:
    with opened(browser, f"{server}/live/?mode=hold") as page:
        page.get_by_role("button", name="Start").click()
        page.wait_for_function("omni.state === 'ready'")
        page.get_by_role("button", name="Hold to talk").hover()
        page.evaluate(TAP)
        page.get_by_role("alert").get_by_text("for as long as you speak").wait_for()
        assert "response.create" not in [event["type"] for event in page.wire.sent]


def test_typed_question_needs_no_microphone(server: str, browser: Browser) -> None:
    with opened(browser, f"{server}/live/") as page:
        page.get_by_role("button", name="What is the capital of France?").click()
        heard_out(page)
        assert answers(page) == [ANSWER]
        assert page.evaluate("omni.samplesPlayed") == sum(map(len, page.wire.answered())) > 24_000
        ask(page, "What is the capital of Italy?")
        heard_out(page, 2)
        assert "Rome" in answers(page)[1]
        report(page, "typed")


def test_interruption_stops_the_sound_and_marks_the_answer(server: str, browser: Browser) -> None:
    with opened(browser, f"{server}/live/") as page:
        ask(page, "What is the capital of France?")
        page.wait_for_function("omni.samplesPlayed > 6000 && omni.turns[1].text.endsWith('Paris.')")
        page.keyboard.press("Escape")
        page.wait_for_function(f"{QUIET} && omni.turns[1].cut && !omni.turns[1].open")
        played = page.evaluate("omni.samplesPlayed")
        page.wait_for_timeout(500)
        assert page.evaluate("omni.samplesPlayed") == played == page.evaluate("omni.turns[1].heard")
        assert "Interrupted" in page.locator("#turns .omni .meta").inner_text()
        assert page.locator("#turns .omni s").inner_text().endswith("Paris.")
        ask(page, "What is the capital of Italy?")
        heard_out(page, 2)
        assert "Rome" in answers(page)[1]
        told = next(event for event in page.wire.sent if event["type"] == "conversation.item.truncate")
        assert told["audio_end_ms"] == played * 1000 // 24_000
        assert page.wire.types().count("conversation.item.truncated") == 1


def test_end_and_start_again(server: str, browser: Browser) -> None:
    with opened(browser, f"{server}/live/") as page:
        page.get_by_role("button", name="Start").click()
        page.wait_for_function("omni.state === 'listening'")
        page.get_by_role("button", name="Mute").click()
        page.wait_for_function("omni.state === 'ready'")
        ask(page, "Tell me a joke.")
        page.wait_for_function("omni.state === 'thinking' || omni.state === 'speaking'")
        page.get_by_role("button", name="End").click()
        page.wait_for_function("omni.state === 'off'")
        page.get_by_role("button", name="Start").click()
        page.wait_for_function("omni.state === 'listening'")


def test_speaking_up_interrupts(server: str, driver: Playwright, tmp_path: Path) -> None:
    microphone = write_microphone(tmp_path / "microphone.wav", [CAPITAL, CAPITAL], gap=1.6)
    with chromium(driver, microphone) as browser, opened(browser, f"{server}/live/?interrupt=barge-in") as page:
        page.get_by_role("button", name="Start").click()
        page.wait_for_function(f"omni.turns.length === 4 && omni.turns[3].latency !== null && ({QUIET})")
        first, second = page.evaluate("omni.turns.filter((turn) => turn.who === 'omni')")
        assert first["cut"]
        assert first["heard"] <= first["samples"]
        assert first["heard"] < second["samples"]  # that are the same answer's, whole
        assert second["text"] == ANSWER
        assert second["heard"] == second["samples"]


def test_refused_microphone_is_told_and_typing_still_works(server: str, driver: Playwright) -> None:
    with chromium(driver, allowed=False) as browser, opened(browser, f"{server}/live/") as page:
        page.get_by_role("button", name="Start").click()
        page.get_by_role("alert").get_by_text("The microphone is blocked.").wait_for()
        ask(page, "What is the capital of France?")
        heard_out(page)
        assert answers(page) == [ANSWER]


def test_server_away_and_back(browser: Browser, tmp_path: Path) -> None:
    with process(log=tmp_path / "first.log") as (first, address), opened(browser, f"{address}/live/") as page:
        ask(page, "What is the capital of France?")
        heard_out(page)
        first.kill()
        page.get_by_role("alert").get_by_text("The server is away.").wait_for()
        assert page.get_by_role("status").inner_text() == "Not connected"
        assert answers(page) == [ANSWER]
        with process("--port", address.rpartition(":")[2], log=tmp_path / "second.log"):
            page.get_by_role("alert").wait_for(state="hidden")
            ask(page, "What is the capital of Italy?")
            heard_out(page, 2)
            assert "Rome" in answers(page)[1]


def test_the_camera_reaches_the_server(server: str, nano: OmniModel, browser: Browser) -> None:
    with opened(browser, f"{server}/live/") as page:
        assert not page.locator("#view").is_visible()
        page.get_by_role("button", name="Camera").click()
        page.get_by_role("button", name="Show with next question").click()
        page.get_by_role("button", name="Picture taken; remove it").wait_for()
        ask(page, "What do you see?")
        if "see" in nano.abilities:
            heard_out(page)
            assert answers(page)[0]
            assert "error" not in page.wire.types()
        else:
            page.get_by_text("nano never learned to see").wait_for()
        content = next(event for event in page.wire.sent if event["type"] == "conversation.item.create")["item"][
            "content"
        ]
        assert [part["type"] for part in content] == ["input_image", "input_text"]
        assert content[0]["image_url"].startswith("data:image/jpeg;base64,")
        assert page.get_by_alt_text("What the camera saw").is_visible()
        page.get_by_role("button", name="Show with next question").wait_for()


def test_a_key_is_asked_for(nano: OmniModel, browser: Browser) -> None:
    with running(nano, api_key="sesame") as address, opened(browser, f"{address}/live/") as page:
        ask(page, "What is the capital of France?")
        page.get_by_label("API key").fill("sesame")
        page.get_by_role("button", name="Use it").click()
        heard_out(page)
        assert answers(page) == [ANSWER]
    with running(nano, api_key="sesame") as address, opened(browser, f"{address}/live/?mode=hold&key=sesame") as page:
        assert page.url == f"{address}/live/?mode=hold"
        ask(page, "What is the capital of France?")
        heard_out(page)


def test_a_link_cannot_send_sound_elsewhere(server: str, browser: Browser) -> None:
    with opened(browser, f"{server}/live/?server=wss://elsewhere.example/v1/realtime") as page:
        page.get_by_role("alert").get_by_text("only to its own host").wait_for()
        assert page.get_by_role("button", name="Start").is_disabled()


def test_embedded_page_talks_to_another_port(server: str, nano: OmniModel, browser: Browser) -> None:
    with running(nano, origins=(server,)) as other:
        there = f"{other.replace('http', 'ws')}/v1/realtime"
        with opened(browser, f"{server}/live/?embed=1&camera=0&server={there}") as page:
            assert not page.get_by_role("heading", name="omni2").is_visible()
            assert not page.get_by_role("button", name="Camera").is_visible()
            ask(page, "What is the capital of France?")
            heard_out(page)
            assert answers(page) == [ANSWER]


@pytest.mark.parametrize("size", [(360, 640), (390, 844), (1280, 800)])
def test_everything_fits_and_has_a_name(server: str, browser: Browser, size: tuple[int, int]) -> None:
    with opened(browser, f"{server}/live/", viewport={"width": size[0], "height": size[1]}) as page:
        ask(page, "Tell me a joke.")
        page.locator("#turns .omni").wait_for()
        assert page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]") == [*size]
        for control in page.locator("button:visible, input:visible").all():
            box = control.bounding_box()
            assert 0 <= box["x"] <= box["x"] + box["width"] <= size[0]
            assert control.evaluate("one => one.innerText || one.ariaLabel || one.labels?.[0].innerText")


RESAMPLE = """async (rate) => {
    const context = new AudioContext({ sampleRate: rate });
    for (const name of ["player", "capture"]) await context.audioWorklet.addModule(`${name}-worklet.js`);
    const options = { numberOfInputs: 0, outputChannelCount: [1], processorOptions: { rate: 24000 } };
    const player = new AudioWorkletNode(context, "player", options);
    const tape = new AudioWorkletNode(context, "capture");
    player.connect(tape).connect(context.destination);
    const tone = (_, i) => Math.round(16000 * Math.sin((2 * Math.PI * 1000 * i) / 24000));
    player.port.postMessage({ pcm: Int16Array.from({ length: 12000 }, tone) });
    const played = [];
    tape.port.onmessage = ({ data }) => played.push(...data.pcm);
    const end = await new Promise((done) => {
        player.port.onmessage = ({ data }) => data.playing || done(data.position);
    });
    await new Promise((done) => {
        tape.port.onmessage = ({ data }) => { played.push(...data.pcm); if (data.asked) done(); };
        tape.port.postMessage("flush");
    });
    await context.close();
    return [end, played];
}"""


@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100, 48_000])
def test_player_resamples_to_any_device(server: str, browser: Browser, rate: int) -> None:
    with opened(browser, f"{server}/live/") as page:
        end_position, samples = page.evaluate(RESAMPLE, rate)
    assert end_position == 12_000
    played = np.array(samples) / 32_768
    begin, end = np.flatnonzero(np.abs(played) > 0.01)[[0, -1]]
    assert abs((end - begin) / rate - 0.5) < 0.002
    inner = played[begin + 100 : end - 100]
    tone = np.exp(-2j * np.pi * 1000 * np.arange(len(inner)) / rate)
    amplitude = 2 * np.abs(np.mean(inner * tone * np.hanning(len(inner)))) * 2
    assert amplitude == pytest.approx(16_000 / 32_768, rel=0.01)
    rest = inner - (np.linalg.lstsq(np.stack([tone.real, tone.imag]).T, inner, rcond=None)[0] @ [tone.real, tone.imag])
    assert np.sqrt(np.mean(rest**2)) < 0.003 * amplitude
