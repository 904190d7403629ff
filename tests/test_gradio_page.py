"""The Gradio page as it is started, in a real chromium, over the embedded model."""

import subprocess
import sys
import threading
import time
import wave
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from pages import ANSWER, SPOKEN, needs_chromium, opened
from playwright.sync_api import Browser, Page
from programs import heard_out, live_frame, loudest, nano_sees, program, recorded
from serving import ROOT, running

from omni2.hub import NANO_FOLDER
from omni2.omni import OmniModel

APP = ROOT / "app.py"
SPEECH = 30_000  # samples that an answer has at least

pytestmark = [
    pytest.mark.slow,
    pytest.mark.assets,
    pytest.mark.skipif(not NANO_FOLDER.is_dir(), reason="the shipped weights are not there"),
]


@pytest.fixture(scope="module")
def page_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page with its own server inside."""
    with program(sys.executable, APP, log=tmp_path_factory.mktemp("page") / "log", API_URL="") as address:
        yield address


def answered(page: Page) -> str:
    """The answer's words, once it is whole."""
    page.locator(".figures:visible").get_by_text("real-time factor").wait_for()
    return page.get_by_label("Answer").input_value()


@needs_chromium
def test_a_conversation_through_the_live_tab(page_address: str, browser: Browser) -> None:
    with opened(browser, page_address) as page:
        frame = live_frame(page)
        frame.get_by_role("button", name="Start").click()
        heard_out(frame)
        assert frame.locator("#turns .omni .words").inner_text() == ANSWER
        assert "error" not in page.wire.types()
        latency = frame.evaluate("omni.lastLatencyMs")
        print(f"first sample played {latency:.0f} ms after the question's end")  # noqa: T201


@needs_chromium
def test_a_recorded_question_is_asked_when_it_has_arrived(page_address: str, browser: Browser) -> None:
    with opened(browser, page_address) as page:
        page.route("**/upload*", lambda route: (page.wait_for_timeout(2000), route.continue_()))
        page.get_by_role("tab", name="Ask").click()
        page.get_by_role("button", name="Record", exact=True).click()
        recorded(page, "time.duration", SPOKEN + 1)
        page.get_by_role("button", name="Stop", exact=True).click()
        page.get_by_role("button", name="Play", exact=True).wait_for()
        page.get_by_role("button", name="Ask", exact=True).click()
        level = loudest(page, SPEECH)
        assert answered(page) == ANSWER
        assert level > 0.02


@needs_chromium
def test_a_typed_question_and_what_is_kept_of_its_answer(page_address: str, browser: Browser) -> None:
    with opened(browser, page_address) as page:
        page.get_by_role("tab", name="Ask").click()
        page.get_by_label("Or type").fill("What is the capital of France?")
        began = time.perf_counter()
        page.keyboard.press("Enter")
        page.wait_for_function("window.omniPlays?.played > 0")
        print(f"first sound queued {1000 * (time.perf_counter() - began):.0f} ms after Enter")  # noqa: T201
        level = loudest(page, SPEECH)
        assert answered(page) == ANSWER
        assert level > 0.02
        with page.expect_download() as download:
            page.get_by_label("Download").click()
        with wave.open(str(download.value.path())) as kept:
            assert kept.getnframes() == page.evaluate("omniPlays.played")
        assert page.locator(".portrait img").bounding_box()["width"] > 300


@needs_chromium
def test_an_example_asks_at_once(page_address: str, browser: Browser) -> None:
    with opened(browser, page_address) as page:
        page.get_by_role("tab", name="Ask").click()
        page.get_by_role("button", name="🔊 capital").click()
        assert answered(page) == ANSWER


@needs_chromium
def test_a_picture_is_sent(page_address: str, browser: Browser) -> None:
    with opened(browser, page_address) as page:
        page.get_by_role("tab", name="Ask").click()
        page.get_by_role("button", name="Show a picture").click()
        page.locator("input[type=file][accept*=image]").set_input_files(ROOT / "examples" / "pictures" / "apple.png")
        page.get_by_role("button", name="Remove Image").wait_for()
        page.get_by_label("Or type").fill("What is this?")
        page.get_by_role("button", name="Ask", exact=True).click()
        if nano_sees():
            assert answered(page)
        else:
            page.get_by_text("nano never learned to see").wait_for()


@needs_chromium
def test_transcribing_and_reading_aloud(page_address: str, browser: Browser) -> None:
    with opened(browser, page_address) as page:
        page.get_by_role("tab", name="Transcribe").click()
        page.get_by_role("button", name="🔊 capital").click()
        page.get_by_role("button", name="Play", exact=True).wait_for()
        page.get_by_role("button", name="Write it down").click()
        page.wait_for_function("[...document.querySelectorAll('textarea')].some((one) => one.value.includes('France'))")
        page.get_by_role("tab", name="Speak").click()
        page.get_by_role("button", name=ANSWER).click()
        page.wait_for_function(
            "(text) => [...document.querySelectorAll('textarea')].some((one) => one.value === text)", arg=ANSWER
        )
        page.get_by_role("button", name="Read it aloud").click()
        assert loudest(page, SPEECH) > 0.02


@needs_chromium
def test_another_server_is_reached_through_the_pages_own_port(browser: Browser, tmp_path: Path) -> None:
    """With a key that the browser never sees."""
    with (
        running(OmniModel.from_pretrained("nano"), api_key="sesame") as server,
        program(sys.executable, APP, log=tmp_path / "log", API_URL=f"{server}/chat", OMNI2_API_KEY="sesame") as address,
        opened(browser, address) as page,
    ):
        places = set()
        page.on("request", lambda request: places.add(request.url.split("/")[2]))
        page.on("websocket", lambda socket: places.add(socket.url.split("/")[2]))
        page.reload()
        frame = live_frame(page)
        frame.get_by_role("button", name="What is the capital of France?").click()
        heard_out(frame)
        assert frame.locator("#turns .omni .words").inner_text() == ANSWER
        page.get_by_role("tab", name="Ask").click()
        page.get_by_role("button", name="What is the capital of France?").click()
        assert answered(page) == ANSWER
        assert {place for place in places if place} == {address.removeprefix("http://")}


@needs_chromium
def test_a_server_that_is_away_is_told(browser: Browser, tmp_path: Path) -> None:
    with (
        program(sys.executable, APP, log=tmp_path / "log", API_URL="http://127.0.0.1:9/chat") as address,
        opened(browser, address) as page,
    ):
        page.get_by_role("tab", name="Ask").click()
        page.get_by_role("button", name="What is the capital of France?").click()
        page.get_by_text("no server answers at").wait_for()


class Endless(BaseHTTPRequestHandler):
    """Answers with one word after another until the client hangs up."""

    hung_up = threading.Event()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        try:
            while True:
                self.wfile.write(
                    b'data: {"choices": [{"delta": {"audio": {"transcript": "more "}}}]}\n\n' + 4096 * b"\n"
                )
                time.sleep(0.2)
        except OSError:
            self.hung_up.set()

    def log_message(self, *words: object) -> None:
        pass


@needs_chromium
@pytest.mark.parametrize("how", ["button", "leaving"])
def test_stopping_hangs_up_on_the_server(how: str, browser: Browser, tmp_path: Path) -> None:
    Endless.hung_up.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        try:
            with program(sys.executable, APP, log=tmp_path / "log", API_URL=url) as address:
                with opened(browser, address) as page:
                    page.get_by_role("tab", name="Ask").click()
                    page.get_by_role("button", name="Tell me a joke.").click()
                    page.wait_for_function(
                        "[...document.querySelectorAll('textarea')].some((one) => one.value.includes('more'))"
                    )
                    assert not Endless.hung_up.is_set()
                    if how == "button":
                        page.get_by_role("button", name="Interrupt").click()
                        assert Endless.hung_up.wait(60)
                assert Endless.hung_up.wait(60)
        finally:
            server.shutdown()


@pytest.mark.parametrize("target", ["app.py", "app:app"])
def test_gradios_own_command_serves_it(target: str, tmp_path: Path) -> None:
    """`app:app` is a link that set-up makes, for no version of gradio takes module:attribute."""
    folder = ROOT
    if target == "app:app":
        (tmp_path / target).symlink_to(APP)
        folder = tmp_path
    gradio = Path(sys.executable).with_name("gradio")
    with program(gradio, target, log=tmp_path / "log", folder=folder, API_URL="http://127.0.0.1:9") as address:
        assert "omni2" in requests.get(address, timeout=60).text
        assert "live.js" in requests.get(f"{address}/live/", timeout=60).text


def test_the_demonstration_answers_aloud_and_ends(tmp_path: Path) -> None:
    command = [sys.executable, str(APP), "--demo", "--check"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert 'capital.wav: "What is the capital of France?"' in done.stdout
    assert ANSWER in done.stdout
    assert "first sound after" in done.stdout
    assert "real-time factor" in done.stdout
    with wave.open(str(tmp_path / "answer.wav")) as kept:
        assert kept.getnframes() > SPEECH
