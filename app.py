"""The Gradio page: `python app.py`, `gradio app.py` or `gradio app:app`; also the entry of a Hugging Face Space.

With `API_URL=http://host:60808/chat` it talks to that server, otherwise it starts one inside itself.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import gradio as gr

from omni2.errors import OmniError
from webui.answers import Shown, plainly, show, sound_place
from webui.backend import client, routes, start_server
from webui.demo import demonstrate

ROOT = Path(__file__).resolve().parent
RECORDINGS = sorted(map(str, (ROOT / "examples" / "audio").glob("*.wav")))
SEATS = 16  # answers at once; the server has limits of its own
QUESTIONS = ["What is the capital of France?", "Tell me a joke.", "What is seven plus five?"]
SENTENCES = ["The capital of France is Paris.", "There are seven days in a week."]
LIVE = '<iframe src="live/?embed=1" title="Live conversation" allow="microphone; camera; autoplay"></iframe>'
CSS = (ROOT / "webui" / "page.css").read_text("utf-8")
THEME = gr.themes.Soft(primary_hue="teal", secondary_hue="teal", neutral_hue="stone", font=["system-ui", "sans-serif"])
THEME.set(  # enough contrast for white on it, and the live client's own colours
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover="*primary_600",
    button_primary_background_fill_hover_dark="*primary_600",
    block_label_text_color="*primary_800",
    block_title_text_color="*primary_800",
    body_background_fill="#f6f5f1",
    body_background_fill_dark="#111514",
    background_fill_primary="#f6f5f1",
    background_fill_primary_dark="#111514",
)


def ask(audio: str | None, text: str, image: str | None) -> Iterator[Shown]:
    """Answer what was typed, or else what was spoken, about a picture or not."""
    if not (audio or text.strip() or image):
        raise gr.Error("Speak, type or show something first.", title="Nothing was asked", print_exception=False)
    server = client()
    if text.strip() or not audio:
        yield from show(lambda: server.ask(text.strip(), image))
    else:
        yield from show(lambda: server.chat(audio, image))


def speak(text: str) -> Iterator[Shown]:
    """Read a text aloud."""
    for _, *shown in show(lambda: client().speak(text)):
        yield tuple(shown)


def transcribe(audio: str | None) -> str:
    """Write down what is said."""
    if not audio:
        raise gr.Error("Record or upload something first.", title="Nothing was said", print_exception=False)
    try:
        return client().transcribe(audio)
    except OmniError as error:
        raise plainly(error) from error


def wait_for(recorder: gr.Audio, button: gr.Button) -> None:
    """Keep `button` off from when a recording begins until it has arrived: before that there is nothing to ask."""
    silent = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    recorder.start_recording(lambda: gr.Button(interactive=False), None, button, **silent)
    gr.on([recorder.stop_recording, recorder.clear], lambda: gr.Button(interactive=True), None, button, **silent)


with gr.Blocks(title="omni2", analytics_enabled=False, delete_cache=(600, 600)) as app:
    gr.Markdown("# omni2\nSpeak, type, show. It answers aloud.", elem_classes="heading")
    with gr.Tab("Talk"):
        gr.HTML(LIVE, js_on_load=None, elem_classes="live")
    with gr.Tab("Ask"):
        samples = gr.Column()
        with gr.Row():
            with gr.Column():
                spoken = gr.Audio(label="Speak", sources=["microphone", "upload"], type="filepath")
                typed = gr.Textbox(label="Or type", placeholder="Goes before a spoken question", max_length=500)
                with gr.Accordion("Show a picture", open=False):
                    seen = gr.Image(show_label=False, sources=["upload", "webcam", "clipboard"], type="filepath")
                with gr.Row():
                    go = gr.Button("Ask", variant="primary", min_width=120)
                    stop = gr.Button("Interrupt", min_width=120)
            with gr.Column():
                words = gr.Textbox(label="Answer", lines=2, interactive=False, elem_classes="answer")
                answer = [words, *sound_place()]
        with samples:
            examples = gr.Examples(
                [[path, "", None] for path in RECORDINGS] + [[None, question, None] for question in QUESTIONS],
                [spoken, typed, seen],
                label="Try one",
                example_labels=[f"🔊 {Path(path).stem}" for path in RECORDINGS] + QUESTIONS,
            )
        asked = gr.on([go.click, typed.submit], ask, [spoken, typed, seen], answer)
        tried = examples.load_input_event.then(ask, [spoken, typed, seen], answer)
        wait_for(spoken, go)
        stop.click(None, cancels=[asked, tried], js="() => window.omniPlays?.stop()")
    with gr.Tab("Transcribe"):
        heard = gr.Audio(label="Speak", sources=["microphone", "upload"], type="filepath")
        write = gr.Button("Write it down", variant="primary")
        written = gr.Textbox(label="What was said", lines=2, interactive=False, elem_classes="answer")
        write.click(transcribe, heard, written)
        wait_for(heard, write)
        gr.Examples(RECORDINGS, heard, example_labels=[f"🔊 {Path(path).stem}" for path in RECORDINGS])
    with gr.Tab("Speak"):
        text = gr.Textbox(label="Text", lines=2, max_length=500)
        read = gr.Button("Read it aloud", variant="primary")
        gr.Examples(SENTENCES, text)
        gr.on([read.click, text.submit], speak, text, sound_place())


def main() -> None:
    parser = argparse.ArgumentParser(description="The Gradio page, and a server for it unless API_URL names one.")
    parser.add_argument("--demo", action="store_true", help="first ask a recorded question and keep answer.wav")
    parser.add_argument("--check", action="store_true", help="with --demo: end after the answer")
    options = parser.parse_args()
    try:
        os.environ["API_URL"] = os.environ.get("API_URL") or start_server()
        if options.demo:
            demonstrate(client(), ROOT / "examples" / "audio" / "capital.wav", Path("answer.wav"))
    except OmniError as error:
        sys.exit(f"app.py: {error}")
    if not options.check:
        app.queue(default_concurrency_limit=SEATS).launch(
            app_kwargs={"routes": routes()}, theme=THEME, css=CSS, footer_links=[], run_history=False,
            enable_monitoring=False, ssr_mode=False, max_file_size="32mb",
        )  # fmt: skip


if __name__ == "__main__":
    main()
