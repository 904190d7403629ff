"""A realtime session without server and model; its answers are decoded by hand."""

import json

import numpy as np
import pytest
from realtime import Json, check

from omni2 import Chunk
from omni2.serve.problems import Problem
from omni2.serve.realtime.events import AudioAppend, read_event
from omni2.serve.realtime.items import Item, Part
from omni2.serve.realtime.response import Response
from omni2.serve.realtime.session import Session

RATE = 24_000
PIECE = 4_800  # bytes that the session hears at once: 0.1 s
PICTURE = "data:image/png;base64,AAAA"


class Fake:
    """A session whose answers are decoded by hand; keeps all events, each checked against its type."""

    def __init__(self, **given: object) -> None:
        self.events: list[Json] = []
        self.answering: list[Response] = []
        self.stopped: list[Response] = []
        self.transcribing: list[tuple[Item, Part]] = []
        self.session = Session(self, "toy", RATE, 30.0, **given)

    def send(self, event: Json) -> None:
        self.events.append(check(json.dumps({"event_id": "event_1", **event})))

    def answer(self, response: Response) -> None:
        self.answering.append(response)

    def stop(self, response: Response) -> None:
        self.stopped.append(response)

    def transcribe(self, item: Item, part: Part) -> None:
        self.transcribing.append((item, part))

    def __call__(self, kind: str, **fields: object) -> list[Json]:
        """Send an event; what it was answered with."""
        before = len(self.events)
        event = read_event({"type": kind, **fields})
        if isinstance(event, AudioAppend):
            data = self.session.sound_of(event)
            for begin in range(0, len(data), PIECE):
                self.session.heard(*self.session.ears.push(data[begin : begin + PIECE]))
        else:
            self.session.handle(event)
        return self.events[before:]

    def say(self, *content: Json, role: str = "user", **fields: object) -> str:
        """Create an item; its id."""
        item = {"type": "message", "role": role, "content": list(content)}
        added: str = self("conversation.item.create", item=item, **fields)[0]["item"]["id"]
        return added

    def respond(self, **choices: object) -> Response:
        self("response.create", response=choices)
        return self.answering[-1]

    def told(self, kind: str) -> list[Json]:
        return [event for event in self.events if event["type"] == kind]

    def order(self) -> list[str]:
        """The ids of the conversation's items."""
        return [item.id for item in self.session.conversation.items]


def text(words: str) -> Json:
    return {"type": "input_text", "text": words}


def chunk(words: str, samples: int = 0, reason: str | None = None) -> Chunk:
    return Chunk(np.full(samples, 0.25, np.float32), words, reason)


def code(caught: pytest.ExceptionInfo[Problem]) -> str:
    return caught.value.code


def answered(talk: Fake) -> Response:
    """A spoken answer of 1 s."""
    talk.say(text("hello"))
    response = talk.respond()
    response.say(chunk("one two three four", RATE, "end"))
    return response
