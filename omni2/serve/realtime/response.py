"""One response of a realtime conversation: from its first event to the last, whichever way it ends."""

import base64
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from omni2.duplex.heard import Words
from omni2.omni import Chunk
from omni2.prompt import Reply
from omni2.serve.problems import Problem
from omni2.serve.question import Question
from omni2.serve.realtime.events import G711, Pcm, ResponseConfig, SessionConfig
from omni2.serve.realtime.items import Conversation, Item, Json, Part, Samples, new_id
from omni2.serve.realtime.wire import WireOut

Send = Callable[[Json], None]
Status = Literal["in_progress", "completed", "cancelled", "incomplete", "failed"]
Reason = Literal["turn_detected", "client_cancelled", "max_output_tokens"]


class Response:
    """Tells a decoded answer in the protocol's events; `end` may come at any time, and what comes after it is nothing.

    response.created · output_item.added · conversation.item.added · content_part.added · deltas · their done events ·
    content_part.done · conversation.item.done · output_item.done · response.done
    """

    def __init__(
        self, send: Send, conversation: Conversation, session: SessionConfig, config: ResponseConfig, rate: int
    ) -> None:
        self.id = new_id("resp")
        self.question = Question()
        self.item = Item("assistant", status="in_progress")
        self.status: Status = "in_progress"
        self._send, self._conversation, self._config, self._rate = send, conversation, config, rate
        self._modality = (config.output_modalities or session.output_modalities)[0]
        self._limit = config.max_output_tokens or session.max_output_tokens
        self._format: Pcm | G711 = (config.audio or session.audio).output.format
        self._wire = WireOut(rate, self._format)
        self._sound: list[Samples] = []
        self.seconds = 0.0  # of sound sent
        self._details: Json | None = None
        self._before: str | None = None  # the item before this one

    @property
    def reply(self) -> Reply:
        """What the model is asked for."""
        return "speech" if self._modality == "audio" else "text"

    @property
    def most(self) -> int | None:
        """The bound on its tokens."""
        return self._limit if isinstance(self._limit, int) else None

    def begin(self) -> None:
        """Say that it is being made."""
        self._send({"type": "response.created", "response": self._as_json()})

    def say(self, chunk: Chunk) -> None:
        """Pass a piece of the answer on; with the last one the response ends."""
        if self.status != "in_progress":
            return
        if not self.item.parts:
            self._open()
        part = self.item.parts[0]
        if chunk.text:
            part.text += chunk.text
            if part.words is not None:
                part.words.add(chunk.text, chunk.start)
            self._event("output_audio_transcript.delta" if self._sounds else "output_text.delta", delta=chunk.text)
        if self._sounds:
            self._sound.append(chunk.audio)
            self.seconds += chunk.audio.size / self._rate
            self._emit_sound(self._wire.push(chunk.audio, last=chunk.finish_reason is not None))
        if chunk.finish_reason == "end":
            self.end("completed")
        elif chunk.finish_reason == "length":
            self.end("incomplete", "max_output_tokens")

    def end(self, status: Status, reason: Reason | None = None, problem: Problem | None = None) -> None:
        """Close what is open and say how it ended; once ended, nothing."""
        if self.status != "in_progress":
            return
        self.status = status
        if status != "completed":
            self._details = {"type": status, **({"reason": reason} if reason else {})}
        if self._details is not None and problem is not None:
            self._details["error"] = {"type": problem.kind, "code": problem.code, "message": problem.message}
        if self.item.parts:
            self._close()
        self._send({"type": "response.done", "response": self._as_json()})

    @property
    def _sounds(self) -> bool:
        return self._modality == "audio"

    def _open(self) -> None:
        self._send({"type": "response.output_item.added", **self._place(), "item": self.item.as_json()})
        if self._config.conversation == "auto":
            self._before = self._conversation.add(self.item)
            added = {"previous_item_id": self._before, "item": self.item.as_json()}
            self._send({"type": "conversation.item.added", **added})
        words = Words(self._rate) if self._sounds else None
        self.item.parts.append(Part("output_audio" if self._sounds else "output_text", rate=self._rate, words=words))
        self._event("content_part.added", part=self._part())

    def _close(self) -> None:
        part = self.item.parts[0]
        self.item.status = "completed" if self.status == "completed" else "incomplete"
        if self._sounds:
            part.whole = self.status == "completed"
            part.sound = np.concatenate([np.zeros(0, np.float32), *self._sound])
            self._event("output_audio.done")
            self._event("output_audio_transcript.done", transcript=part.text)
        else:
            self._event("output_text.done", text=part.text)
        self._event("content_part.done", part=self._part())
        if self._config.conversation == "auto":
            done = {"previous_item_id": self._before, "item": self.item.as_json()}
            self._send({"type": "conversation.item.done", **done})
        self._send({"type": "response.output_item.done", **self._place(), "item": self.item.as_json()})

    def _emit_sound(self, data: bytes) -> None:
        if data:
            self._event("output_audio.delta", delta=base64.b64encode(data).decode())

    def _event(self, name: str, **fields: Any) -> None:  # noqa: ANN401 (values of JSON)
        place = {"item_id": self.item.id, "content_index": 0}
        self._send({"type": f"response.{name}", **self._place(), **place, **fields})

    def _place(self) -> Json:
        return {"response_id": self.id, "output_index": 0}

    def _part(self) -> Json:
        text = self.item.parts[0].text
        return {"type": "audio", "transcript": text} if self._sounds else {"type": "text", "text": text}

    def _as_json(self) -> Json:
        limit, kept = self._limit, self._config.conversation == "auto"
        return {
            "object": "realtime.response",
            "id": self.id,
            "status": self.status,
            "status_details": self._details,
            "output": [self.item.as_json()] if self.item.parts and self.status != "in_progress" else [],
            "conversation_id": self._conversation.id if kept else None,
            "output_modalities": [self._modality],
            "max_output_tokens": limit,
            "audio": {"output": {"format": self._format.model_dump()}},
            "usage": None,
            "metadata": self._config.metadata,
        }
