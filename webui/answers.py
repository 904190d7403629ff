"""Answers on the Gradio page: words and sound while they come, then a file, a picture and the times."""

import base64
import html
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import gradio as gr

from omni2.client import Stream, to_wav
from omni2.errors import OmniError
from webui.portrait import portrait

PLAYER = Path(__file__).with_name("player.js").read_text("utf-8")
PLAY = """
watch("value", () => props.value?.pieces.forEach((piece, n) => omniPlayer().add(props.value.turn, n, piece)));
"""

Shown = tuple[object, ...]  # new values of the components for words, figures, sound as it comes, file and picture


def sound_place() -> list[gr.components.Component]:
    """The components that `show` fills, but for the words."""
    figures = gr.Markdown(elem_classes="figures")
    player = gr.HTML(html_template="", js_on_load=PLAYER + PLAY, visible="hidden")
    file = gr.Audio(label="Hear it again", interactive=False, buttons=["download"], visible=False)
    return [figures, player, file, gr.Plot(show_label=False, elem_classes="portrait", visible=False)]


def show(start: Callable[[], Stream]) -> Iterator[Shown]:
    """An answer while it comes, then as a file and a picture with its times; leaving the page ends the work."""
    turn, pieces, hidden = uuid.uuid4().hex, [], gr.update(visible=False)
    yield "", "…", None, hidden, hidden
    try:
        with start() as answer:
            for chunk in answer:
                pieces += [base64.b64encode(chunk.pcm).decode()] if chunk.pcm else []
                yield answer.text, gr.skip(), {"turn": turn, "pieces": pieces}, gr.skip(), gr.skip()
            figures = answer.figures()
    except OmniError as error:
        raise plainly(error) from error
    whole = [to_wav(answer.pcm), portrait(answer.pcm)] if answer.pcm else []
    yield answer.text, figures, gr.skip(), *([gr.update(value=one, visible=True) for one in whole] or [hidden, hidden])


def plainly(error: OmniError) -> gr.Error:
    """What went wrong, for the page."""
    return gr.Error(html.escape(str(error)), title="That did not work", print_exception=False)
