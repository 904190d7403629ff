"""The Streamlit page: `API_URL=http://host:60808/chat streamlit run webui/omni_streamlit.py`."""

import base64
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import streamlit as st

from omni2.client import Client, Stream, to_wav
from omni2.errors import OmniError

API_URL = os.environ.get("API_URL", "http://127.0.0.1:60808/chat")
AVATARS = {"user": ":material/person:", "assistant": ":material/graphic_eq:"}
LOOPBACK = ("localhost", "127.0.0.1")
PLAYER = Path(__file__).with_name("player.js").read_text("utf-8")
PLAY = "export default ({ data }) => omniPlayer().add(data.turn, data.number, data.piece);"


@dataclass
class Message:
    """One side's part of a turn; `note` is told in small letters, `failure` in red ones."""

    role: str
    text: str = ""
    sound: bytes | None = None
    picture: bytes | None = None
    note: str = ""
    failure: str = ""

    def show(self) -> None:
        """Put it on the page."""
        with st.chat_message(self.role, avatar=AVATARS[self.role]):
            if self.picture:
                st.image(self.picture, width=240)
            if self.text:
                st.write(self.text)
            if self.sound:
                st.audio(self.sound)
            if self.note:
                st.caption(self.note)
            if self.failure:
                st.error(self.failure)


def live_address(server: str, page: str) -> str:
    """Where a browser finds the live client of `server`, given the address of the `page` that it looks at.

    A server beside the page is called by the page's own host name: the browser may be on another machine.
    """
    parts, host = urlsplit(server), urlsplit(page).hostname
    if parts.hostname in LOOPBACK and host:
        parts = parts._replace(netloc=f"{host}:{parts.port or 80}")
    return f"{parts.geturl()}/live/?embed=1"


def live(client: Client) -> None:
    """The browser client, if the server is there."""
    try:
        client.health()
    except OmniError as error:
        st.error(str(error))
        st.button("Try again")
    else:
        st.iframe(live_address(client.base, st.context.url or ""), height=640)


def chat(client: Client) -> None:
    """Turn by turn: the conversation so far, the turn that was just asked for, the inputs for the next."""
    messages: list[Message] = st.session_state.setdefault("messages", [])
    said = st.container()  # it grows: without it the inputs would move, and start anew, at every turn
    with said:
        for message in messages:
            message.show()
    left, right = st.columns(2)
    recording = left.audio_input("Speak", key="recording")
    with right.popover("Show a picture", width="stretch"):
        photo = st.camera_input("It goes along with every question until you clear it", key="photo")
    typed = st.chat_input("Or type a question", max_chars=500)
    picture = photo.getvalue() if photo else None
    new = recording is not None and recording.file_id != st.session_state.get("heard")
    if not (typed or new):
        return
    with said:
        if typed:
            messages.append(Message("user", typed, picture=picture))
            turn(messages, lambda: client.ask(typed, picture))
        else:
            st.session_state.heard, sound = recording.file_id, recording.getvalue()
            messages.append(Message("user", sound=sound, picture=picture))
            turn(messages, lambda: client.chat(sound, picture))


def turn(messages: list[Message], ask: Callable[[], Stream]) -> None:
    """Show the question, which is the last of `messages`, and its answer while it comes; keep that too."""
    messages[-1].show()
    answer = Message("assistant")
    messages.append(answer)
    with st.chat_message("assistant", avatar=AVATARS["assistant"]):
        try:
            with ask() as stream:
                with st.container(gap=None):
                    st.write_stream(hear(stream, answer))
                answer.note = stream.figures()
            if answer.sound:
                st.audio(answer.sound)
            st.caption(answer.note)
        except OmniError as error:
            answer.failure = str(error)
            st.error(answer.failure)


def hear(stream: Stream, answer: Message) -> Iterator[str]:
    """The words of `stream`; its sound is played as it comes, and `answer` keeps both."""
    play = st.components.v2.component("omni2_player", js=PLAYER + PLAY)
    number, name = 0, uuid.uuid4().hex
    for chunk in stream:
        if chunk.pcm:
            piece = base64.b64encode(chunk.pcm).decode()
            play(data={"turn": name, "number": number, "piece": piece}, key=f"{name} {number}")
            number += 1
        answer.text, answer.sound = stream.text, to_wav(stream.pcm)
        yield chunk.text


def main() -> None:
    st.set_page_config("omni2")
    st.title("omni2", anchor=False)
    st.caption("Speak, type, show. It answers aloud.")
    how = st.segmented_control(
        "How", ["Live", "Turn by turn"], default="Live", required=True, label_visibility="collapsed"
    )
    client = Client(API_URL, os.environ.get("OMNI2_API_KEY"))
    (live if how == "Live" else chat)(client)


if __name__ == "__main__":
    main()
