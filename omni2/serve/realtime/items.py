"""The items of a realtime conversation: messages of text, sound and pictures, in order."""

import base64
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from omni2.duplex.heard import Turn, Words
from omni2.omni import Heard
from omni2.serve.limits import from_base64
from omni2.serve.problems import Problem
from omni2.serve.question import Question, from_data_uri
from omni2.serve.realtime.events import G711, Content, Message, Pcm, Reference
from omni2.serve.realtime.wire import WireOut, decode, wire_rate

Samples = npt.NDArray[np.float32]
Json = dict[str, Any]
Status = Literal["completed", "incomplete", "in_progress"]

MOST_ITEMS = 200  # the oldest items go, as the models do not remember them anyway
MOST_MEDIA = 4  # items whose sound and pictures are kept; of older ones the words remain


def new_id(prefix: str) -> str:
    """A fresh id such as "item_0123456789abcdef01234567"."""
    return f"{prefix}_{uuid.uuid4().hex[:24]}"


@dataclass(eq=False)
class Part:
    """Text, a sound (n,) float32 at `rate` Hz with its transcript in `text`, or a picture as a data URI."""

    type: Literal["input_text", "input_audio", "input_image", "output_text", "output_audio"]
    text: str = ""
    sound: Samples | None = None
    rate: int = 0
    image: str | None = None
    words: Words | None = None  # when the words of an answer are said
    whole: bool = True  # the answer was made to its end
    heard: Heard | None = None  # of the sound, if it went through the encoder already

    def as_json(self, form: Pcm | G711 | None = None) -> Json:
        """The part as the protocol writes it; sound and picture only where a format for sound is given."""
        if self.type == "input_image":
            return {"type": self.type, **({"image_url": self.image} if form is not None and self.image else {})}
        if self.type in ("input_text", "output_text"):
            return {"type": self.type, "text": self.text}
        fields: Json = {"type": self.type, "transcript": self.text or (None if self.type == "input_audio" else "")}
        if form is not None and self.sound is not None:
            fields["audio"] = base64.b64encode(WireOut(self.rate, form).push(self.sound, last=True)).decode()
        return fields

    @property
    def seconds(self) -> float:
        """How long its sound is; 0 without."""
        return len(self.sound) / self.rate if self.sound is not None else 0.0

    def cut(self, seconds: float) -> None:
        """Keep the first `seconds` of the sound, and as much of its words, whole words only."""
        assert self.sound is not None
        made, played = len(self.sound), round(seconds * self.rate)
        self.sound = self.sound[:played]
        if self.words is not None:
            self.text = self.words.heard(played, made, self.whole)

    def forget_media(self) -> None:
        """Keep the words alone."""
        self.sound = self.image = self.heard = None


@dataclass(eq=False)
class Item:
    """One message.  `asked` once a response was begun for it."""

    role: Literal["system", "user", "assistant"]
    parts: list[Part] = field(default_factory=list)
    id: str = field(default_factory=lambda: new_id("item"))
    status: Status = "completed"
    asked: bool = False

    def as_json(self, form: Pcm | G711 | None = None) -> Json:
        """The item as the protocol writes it; sounds and pictures only where a format for sound is given."""
        content = [part.as_json(form) for part in self.parts]
        return {
            "id": self.id,
            "object": "realtime.item",
            "type": "message",
            "status": self.status,
            "role": self.role,
            "content": content,
        }


def read_item(message: Message, form: Pcm | G711, param: str = "item") -> Item:
    """A client's message as an item; sounds are in `form`.  Raises Problem for contents that do not fit its role."""
    wanted = {"assistant": ("output_text",), "system": ("input_text",)}.get(message.role)
    parts = []
    for index, content in enumerate(message.content):
        name = f"{param}.content.{index}"
        if content.type not in (wanted or ("input_text", "input_audio", "input_image")):
            why = f"a message of the {message.role} cannot hold {content.type}"
            raise Problem(400, "invalid_request_error", "invalid_value", why, f"{name}.type")
        parts.append(_read_part(content, form, name))
    item = Item(message.role, parts)
    item.id = message.id or item.id
    return item


def _read_part(content: Content, form: Pcm | G711, name: str) -> Part:
    needed = {"input_audio": "audio", "input_image": "image_url"}.get(content.type, "text")
    value = getattr(content, needed)
    if value is None:
        why = f"{content.type} needs {needed}"
        raise Problem(400, "invalid_request_error", "missing_required_parameter", why, f"{name}.{needed}")
    if content.type == "input_audio":
        data = from_base64(value, f"{name}.audio")
        if isinstance(form, Pcm) and len(data) % 2:
            raise Problem(400, "invalid_request_error", "invalid_audio", "half a sample is missing", f"{name}.audio")
        return Part("input_audio", content.transcript or "", decode(data, form), wire_rate(form))
    if content.type == "input_image":
        from_data_uri(value, f"{name}.image_url")  # now, while its sender waits for an error
        return Part("input_image", image=value)
    return Part(content.type, value)


class Conversation:
    """The items in their order, bounded in number and in media kept."""

    def __init__(self) -> None:
        self.id = new_id("conv")
        self.items: list[Item] = []

    def find(self, item_id: str) -> Item:
        """The item of that id.  Raises Problem 404."""
        for item in self.items:
            if item.id == item_id:
                return item
        raise Problem(404, "invalid_request_error", "item_not_found", f"no item {item_id!r}", "item_id")

    def add(self, item: Item, after: str | None = None) -> str | None:
        """Put `item` behind the item `after` ("root": first; None: last); returns the id of the one before it.

        Raises Problem: no such item, or the id is taken.
        """
        if any(item.id == other.id for other in self.items):
            raise Problem(400, "invalid_request_error", "item_already_exists", f"{item.id!r} is taken", "item.id")
        place = len(self.items)
        if after is not None:
            place = 0 if after == "root" else self.items.index(self.find(after)) + 1
        before = self.items[place - 1].id if place else None
        self.items.insert(place, item)
        self._bound()
        return before

    def _bound(self) -> None:
        del self.items[:-MOST_ITEMS]
        heavy = [part for item in self.items for part in item.parts if part.sound is not None or part.image is not None]
        for part in heavy[:-MOST_MEDIA]:
            part.forget_media()

    def question(self) -> Question:
        """What the user has said since the last response, or said last if that is nothing new."""
        users = [item for item in self.items if item.role == "user"]
        new = [item for item in users if not item.asked] or users[-1:]
        for item in new:
            item.asked = True
        return question(new)

    def history(self) -> tuple[Turn, ...]:
        """What was asked, as far as it is known in words, and what was heard of the answers."""
        turns: list[Turn] = []
        asked = ""
        for item in self.items:
            said = " ".join(part.text for part in item.parts if part.text.strip())
            if item.role == "user":
                asked = said
            elif item.role == "assistant" and said and item.status != "in_progress":
                turns.append((asked, said))
                asked = ""
        return tuple(turns)

    def resolve(self, given: Sequence[Message | Reference], form: Pcm | G711) -> list[Item]:
        """The items that a response was given as its own input.  Raises Problem for unknown ids and bad content."""
        return [
            self.find(one.id) if isinstance(one, Reference) else read_item(one, form, f"response.input.{index}")
            for index, one in enumerate(given)
        ]


def question(items: Sequence[Item]) -> Question:
    """What `items` ask together: the last that was said, by voice or in writing, and the last picture."""
    said = pictured = None
    for item in items:
        if item.role == "user":
            said = _words(item) or said
            pictured = next((part.image for part in reversed(item.parts) if part.image is not None), pictured)
    asked = said or Question()
    return replace(asked, image=pictured)


def _words(item: Item) -> Question | None:
    for part in reversed(item.parts):
        if part.sound is not None:
            return Question(part.sound, part.rate, heard=part.heard)
    text = "\n".join(part.text for part in item.parts if part.type == "input_text" and part.text.strip())
    return Question(text=text) if text else None
