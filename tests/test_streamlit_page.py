"""The Streamlit page: its script alone, and as it is started, in a real chromium over the embedded model."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pages import ANSWER, SPOKEN, needs_chromium
from playwright.sync_api import Browser, Page
from programs import heard_out, live_frame, loudest, nano_sees, program, recorded
from serving import ROOT, running, wav_bytes
from streamlit.testing.v1 import AppTest
from toys import tiny_model

from omni2.client import to_wav
from omni2.codec.stream import to_pcm16
from omni2.hub import NANO_FOLDER
from omni2.omni import OmniModel
from webui.omni_streamlit import live_address

SCRIPT = ROOT / "webui" / "omni_streamlit.py"
QUESTION = "what is the capital"
PICTURE = (ROOT / "examples" / "pictures" / "apple.png").read_bytes()
SPEECH = 30_000  # samples that an answer has at least

needs_nano = pytest.mark.skipif(not NANO_FOLDER.is_dir(), reason="the shipped weights are not there")


@pytest.fixture(scope="module")
def model() -> OmniModel:
    return tiny_model()


@pytest.fixture
def script(model: OmniModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[AppTest]:
    """The page's script over a toy model, turn by turn."""
    with running(model) as address:
        monkeypatch.setenv("API_URL", f"{address}/chat")
        script = AppTest.from_file(str(SCRIPT), default_timeout=120).run()
        yield script.button_group[0].set_value("Turn by turn").run()


def test_turns_are_kept(script: AppTest, model: OmniModel) -> None:
    script.chat_input[0].set_value(QUESTION).run()
    answer = model.answer(text=QUESTION)
    asked, answered = script.session_state.messages
    assert (asked.role, asked.text) == ("user", QUESTION)
    assert (answered.role, answered.text) == ("assistant", answer.text)
    assert answered.sound == to_wav(to_pcm16(answer.audio))
    assert "real-time factor" in answered.note
    script.chat_input[0].set_value("says the cat").run()
    assert [message.text for message in script.session_state.messages][2:] == [
        "says the cat",
        model.answer(text="says the cat").text,
    ]
    assert len(script.chat_message) == 4
    assert not script.exception


def test_a_recording_is_asked_once_and_the_photo_goes_along(script: AppTest, model: OmniModel) -> None:
    script.camera_input[0].set_value(("photo.jpg", PICTURE, "image/jpeg")).run()
    assert not script.session_state.messages
    script.audio_input[0].set_value(("question.wav", wav_bytes(), "audio/wav")).run()
    assert len(script.session_state.messages) == 2
    assert script.session_state.messages[0].picture == PICTURE
    assert script.session_state.messages[1].text == model.answer(wav_bytes(), image=PICTURE).text
    script.run()
    assert len(script.session_state.messages) == 2
    assert not script.exception


def test_a_refusal_is_told_and_the_conversation_goes_on(script: AppTest) -> None:
    script.chat_input[0].set_value("cat " * 100).run()
    assert "shorten it" in script.error[0].value
    assert script.session_state.messages[1].failure == script.error[0].value
    script.chat_input[0].set_value(QUESTION).run()
    assert len(script.session_state.messages) == 4
    assert not script.exception


def test_a_server_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_URL", "http://127.0.0.1:9/chat")
    script = AppTest.from_file(str(SCRIPT), default_timeout=120).run()
    assert script.error[0].value.startswith("no server answers at http://127.0.0.1:9")
    assert script.button[0].label == "Try again"


def test_the_live_client_is_called_where_the_browser_can_reach_it() -> None:
    local = "http://127.0.0.1:60808"
    assert live_address(local, "http://localhost:8501/") == "http://localhost:60808/live/?embed=1"
    assert live_address(local, "https://name.example/page") == "http://name.example:60808/live/?embed=1"
    assert live_address("https://other.example", "http://localhost:8501/") == "https://other.example/live/?embed=1"


@pytest.fixture(scope="module")
def page_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page beside a server with the embedded model."""
    options = ["--server.headless", "true", "--server.port", "0", "--server.address", "127.0.0.1"]
    command = [sys.executable, "-m", "streamlit", "run", SCRIPT, *options]
    log = tmp_path_factory.mktemp("page") / "log"
    with (
        running(OmniModel.from_pretrained("nano")) as server,
        program(*command, log=log, API_URL=f"{server}/chat") as address,
    ):
        yield address


@contextmanager
def visited(browser: Browser, address: str, turn_by_turn: bool = True) -> Iterator[Page]:
    with browser.new_context() as window:
        window.set_default_timeout(120_000)
        page = window.new_page()
        page.goto(address)
        if turn_by_turn:
            page.get_by_text("Turn by turn").click()
            page.get_by_placeholder("Or type a question").wait_for()
        yield page


@needs_chromium
@needs_nano
@pytest.mark.slow
@pytest.mark.assets
def test_a_conversation_through_the_live_client(page_address: str, browser: Browser) -> None:
    with visited(browser, page_address, turn_by_turn=False) as page:
        frame = live_frame(page)
        frame.get_by_role("button", name="Start").click()
        heard_out(frame)
        assert frame.locator("#turns .omni .words").inner_text() == ANSWER


@needs_chromium
@needs_nano
@pytest.mark.slow
@pytest.mark.assets
def test_a_typed_question_is_answered_aloud(page_address: str, browser: Browser) -> None:
    with visited(browser, page_address) as page:
        assert page.locator("video").count() == 0  # the camera is off until it is asked for
        page.get_by_placeholder("Or type a question").fill("What is the capital of France?")
        page.keyboard.press("Enter")
        assert loudest(page, SPEECH) > 0.02
        page.get_by_text("real-time factor").wait_for()
        assert page.get_by_text(ANSWER).is_visible()
        played = page.evaluate("omniPlays.played")
        kept = page.get_by_test_id("stAudio")
        page.wait_for_function("document.querySelector('[data-testid=stAudio]').duration > 0")
        assert abs(kept.evaluate("one => one.duration") - played / 24_000) < 0.01


def take_photo(page: Page) -> None:
    """With the button, once the camera has a picture to give: until then it stays without effect."""
    page.get_by_role("button", name="Show a picture").click()
    page.get_by_role("button", name="Take Photo").wait_for()
    page.wait_for_function(TAKE_PHOTO, polling=1000)


TAKE_PHOTO = """() => {
    const button = (name) => [...document.querySelectorAll("button")].find((one) => one.innerText === name);
    if (document.querySelector("video")?.videoHeight > 0) button("Take Photo")?.click();
    return Boolean(button("Clear photo"));
}"""


@needs_chromium
@needs_nano
@pytest.mark.slow
@pytest.mark.assets
def test_a_recorded_question_and_a_photo(page_address: str, browser: Browser) -> None:
    with visited(browser, page_address) as page:
        recorder = page.get_by_test_id("stAudioInput").element_handle()
        page.get_by_role("button", name="Record").click()
        recorded(page, "[data-testid=stAudioInputWaveformTimeCode]", SPOKEN + 1)
        page.get_by_role("button", name="Stop recording").click()
        assert loudest(page, SPEECH) > 0.02
        page.get_by_text("real-time factor").wait_for()
        assert page.get_by_text(ANSWER).is_visible()
        take_photo(page)
        page.keyboard.press("Escape")
        page.get_by_placeholder("Or type a question").fill("What is this?")
        page.keyboard.press("Enter")
        if nano_sees():
            page.get_by_text("real-time factor").nth(1).wait_for()
            assert page.get_by_test_id("stAlert").count() == 0
        else:
            page.get_by_text("nano never learned to see").wait_for()
        assert recorder.evaluate("one => one.isConnected")  # no turn made the inputs anew
