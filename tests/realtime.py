"""Realtime conversations in tests: every event checked as strictly as the SDK's types allow, and what to say."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from openai.types.realtime import RealtimeServerEvent
from pydantic import BaseModel, TypeAdapter
from torch import Tensor
from toys import tiny_model
from websockets.sync.client import ClientConnection, connect

from omni2 import OmniModel
from omni2.audio import SAMPLE_RATE, load_audio
from omni2.codec.stream import to_pcm16

CAPITAL = Path(__file__).parents[1] / "examples" / "audio" / "capital.wav"
EVENTS: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
UNTYPED = {"session": {"id", "object", "omni2"}}  # OpenAI sends them, its types leave them out
Json = dict[str, Any]


def check(raw: str | bytes) -> Json:
    """An event, valid without any conversion and without a field that its type does not have."""
    unknown(EVENTS.validate_json(raw, strict=True))
    fields: Json = json.loads(raw)
    assert fields["event_id"].startswith("event_")
    return fields


def unknown(value: object, name: str = "") -> None:
    if isinstance(value, BaseModel):
        extra = set(value.model_extra or ()) - UNTYPED.get(name, set())
        assert not extra, f"{type(value).__name__} has no {extra}"
        for field in type(value).model_fields:
            unknown(getattr(value, field), field)
    elif isinstance(value, list):
        for one in value:
            unknown(one, name)


def question(rate: int = 24_000, before: float = 0.5, after: float = 1.0) -> bytes:
    """'What is the capital of France?' between silence, as s16le at `rate` Hz."""
    pause = [np.zeros(round(seconds * SAMPLE_RATE), np.float32) for seconds in (before, after)]
    wave = np.concatenate([pause[0], load_audio(CAPITAL), pause[1]])
    return to_pcm16(soxr.resample(wave, SAMPLE_RATE, rate))


def append(data: bytes) -> Json:
    return {"type": "input_audio_buffer.append", "audio": base64.b64encode(data).decode()}


def typed(text: str, **fields: object) -> Json:
    content = [{"type": "input_text", "text": text}]
    return {
        "type": "conversation.item.create",
        "item": {"type": "message", "role": "user", "content": content},
        **fields,
    }


def update(**fields: object) -> Json:
    return {"type": "session.update", "session": {"type": "realtime", **fields}}


def push_to_talk(**given: object) -> Json:
    return update(audio={"input": {"turn_detection": None, **given}})


RESPOND: Json = {"type": "response.create"}
COMMIT: Json = {"type": "input_audio_buffer.commit"}
CANCEL: Json = {"type": "response.cancel"}


def endless_model(steps: int = 4_000) -> OmniModel:
    """A toy that goes on speaking: its answers end with its context; 4,000 steps make 1.4 s of sound."""
    model = tiny_model(block_size=steps)
    lm = model.bundle.lm
    original, eoa = lm.audio_logits, lm.layout.eoa

    def audio_logits(hidden: Tensor) -> Tensor:
        logits = original(hidden)
        logits[:, -1, eoa] = -torch.inf
        return logits

    lm.audio_logits = audio_logits
    return model


def answered(response: Json) -> bool:
    """Whether it was decoded to an end; the toy's often is that of its context."""
    return response["status"] in ("completed", "incomplete") and bool(response["output"])


class Client:
    """A plain client that keeps every event it got."""

    def __init__(self, address: str, query: str = "", **options: Any) -> None:  # noqa: ANN401
        address = address.replace("http", "ws", 1) + "/v1/realtime" + query
        self._connecting = connect(address, max_size=None, **options)
        self.events: list[Json] = []

    def __enter__(self) -> "Client":
        self.socket: ClientConnection = self._connecting.__enter__()
        assert self.until("session.created")["type"] == "session.created"
        return self

    def __exit__(self, *error: Any) -> None:  # noqa: ANN401
        self._connecting.__exit__(*error)

    def say(self, *events: Json | str | bytes) -> None:
        for event in events:
            self.socket.send(event if isinstance(event, str | bytes) else json.dumps(event))

    def until(self, kind: str) -> Json:
        """Read up to the next event of that type."""
        while True:
            event = check(self.socket.recv(timeout=60))
            self.events.append(event)
            if event["type"] == kind:
                return event

    def all(self, kind: str) -> list[Json]:
        return [event for event in self.events if event["type"] == kind]

    def sound(self) -> bytes:
        return b"".join(base64.b64decode(event["delta"]) for event in self.all("response.output_audio.delta"))
