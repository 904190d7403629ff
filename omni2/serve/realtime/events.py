"""What a client may send over /v1/realtime: OpenAI's Realtime events, as far as these models can follow them.

Unknown fields (tools, voices, tracing, …) are ignored; `session.created` and `session.updated` tell what is in force.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from omni2.duplex.phrases import PHRASES
from omni2.serve.problems import Problem

Id = Annotated[str, Field(min_length=1, max_length=128)]
Modality = Literal["text", "audio"]
Tokens = Annotated[int, Field(ge=1)] | Literal["inf"]


class Model(BaseModel):
    """Base of all: values are frozen, and of the kind they are declared, "1" is no number."""

    model_config = ConfigDict(frozen=True, strict=True)


M = TypeVar("M", bound=Model)


class Pcm(Model):
    """16-bit little-endian samples, mono."""

    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Literal[24000] = 24000


class G711(Model):
    """Telephone speech: a byte a sample, 8 kHz, mono; µ-law (pcmu) or A-law (pcma)."""

    type: Literal["audio/pcmu", "audio/pcma"]


Format = Annotated[Pcm | G711, Field(discriminator="type")]


class ServerVad(Model):
    """A turn ends with a pause of fixed length."""

    type: Literal["server_vad"]
    threshold: float = Field(default=0.5, ge=0, le=1)
    prefix_padding_ms: int = Field(default=300, ge=0, le=5_000)
    silence_duration_ms: int = Field(default=500, ge=100, le=10_000)
    create_response: bool = True
    interrupt_response: bool = True


class SemanticVad(Model):
    """A turn ends with a pause: a short one if it sounds finished, a longer one if not, as the client is eager."""

    type: Literal["semantic_vad"]
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    create_response: bool = True
    interrupt_response: bool = True


TurnDetection = Annotated[ServerVad | SemanticVad, Field(discriminator="type")]


class Transcription(Model):
    """Asks for the words of what was said; the model itself writes them."""

    model: str | None = None
    language: str | None = None


class Input(Model):
    """How the client sounds."""

    format: Format = Pcm()
    transcription: Transcription | None = None
    turn_detection: TurnDetection | None = ServerVad(type="server_vad")


class Output(Model):
    """How answers sound."""

    format: Format = Pcm()


class Audio(Model):
    """Both directions."""

    input: Input = Input()
    output: Output = Output()


class Own(Model):
    """What OpenAI's protocol has no words for.

    `interruption` is what stops an answer: "command" an order alone (one of `phrases`), "barge-in" also somebody who
    speaks up, "off" nothing; None is what `turn_detection.interrupt_response` says.  With `ducking` the client is told
    of suspicions, to hold its sound meanwhile: `omni2.output_audio_buffer.ducked`, then `….resumed`.
    """

    interruption: Literal["command", "barge-in", "off"] | None = None
    phrases: list[Annotated[str, Field(min_length=1, max_length=100)]] = Field(
        default=list(PHRASES), min_length=1, max_length=16
    )
    ducking: bool = False


class SessionConfig(Model):
    """A session's choices.  `instructions` are kept but not followed: these models take none."""

    type: Literal["realtime"] = "realtime"
    output_modalities: list[Modality] = Field(default=["audio"], min_length=1, max_length=1)
    instructions: str = ""
    max_output_tokens: Tokens = "inf"
    audio: Audio = Audio()
    omni2: Own = Own()


class Content(Model):
    """A part of a message: text, a sound in the session's input format, or a picture as a data URI."""

    type: Literal["input_text", "input_audio", "input_image", "output_text"]
    text: str | None = None
    audio: str | None = None
    transcript: str | None = None
    image_url: str | None = None


class Message(Model):
    """An item of the conversation."""

    type: Literal["message"]
    role: Literal["system", "user", "assistant"]
    content: list[Content] = Field(min_length=1, max_length=64)
    id: Id | None = None


class Reference(Model):
    """An item that the conversation holds already."""

    type: Literal["item_reference"]
    id: Id


class ResponseAudio(Model):
    """The sound of one response."""

    output: Output = Output()


class ResponseConfig(Model):
    """Choices of one response; what is not given is the session's."""

    output_modalities: list[Modality] | None = Field(default=None, min_length=1, max_length=1)
    max_output_tokens: Tokens | None = None
    conversation: Literal["auto", "none"] = "auto"
    metadata: dict[str, str] | None = Field(default=None, max_length=16)
    input: list[Annotated[Message | Reference, Field(discriminator="type")]] | None = Field(default=None, max_length=64)
    audio: ResponseAudio | None = None


class SessionUpdate(Model):
    type: Literal["session.update"]
    session: SessionConfig


class AudioAppend(Model):
    type: Literal["input_audio_buffer.append"]
    audio: str


class AudioCommit(Model):
    type: Literal["input_audio_buffer.commit"]


class AudioClear(Model):
    type: Literal["input_audio_buffer.clear"]


class OutputClear(Model):
    type: Literal["output_audio_buffer.clear"]


class ItemCreate(Model):
    type: Literal["conversation.item.create"]
    item: Message
    previous_item_id: str | None = None


class ItemRetrieve(Model):
    type: Literal["conversation.item.retrieve"]
    item_id: str


class ItemDelete(Model):
    type: Literal["conversation.item.delete"]
    item_id: str


class ItemTruncate(Model):
    type: Literal["conversation.item.truncate"]
    item_id: str
    content_index: int
    audio_end_ms: int = Field(ge=0)


class ResponseCreate(Model):
    type: Literal["response.create"]
    response: ResponseConfig | None = None


class ResponseCancel(Model):
    type: Literal["response.cancel"]
    response_id: str | None = None


ClientEvent = (
    SessionUpdate
    | AudioAppend
    | AudioCommit
    | AudioClear
    | OutputClear
    | ItemCreate
    | ItemRetrieve
    | ItemDelete
    | ItemTruncate
    | ResponseCreate
    | ResponseCancel
)
EVENT: TypeAdapter[ClientEvent] = TypeAdapter(Annotated[ClientEvent, Field(discriminator="type")])


def read_json(text: str | None) -> dict[str, Any]:
    """The JSON object of a message.  Raises Problem for anything else, None stands for a binary message."""
    if text is None:
        raise Problem(400, "invalid_request_error", "invalid_json", "events are JSON in text messages, not binary ones")
    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise Problem(400, "invalid_request_error", "invalid_json", "the message is not JSON") from error
    if not isinstance(value, dict):
        raise Problem(400, "invalid_request_error", "invalid_json", "an event is a JSON object")
    return value


def read_event(fields: dict[str, Any]) -> ClientEvent:
    """A message as an event.  Raises Problem that names the field which does not fit."""
    try:
        return EVENT.validate_python(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"][1:]) or "type"
        raise Problem(400, "invalid_request_error", "invalid_value", f"{field}: {first['msg']:.300}", field) from error


def merge(old: M, new: M) -> M:
    """`old` with what was given in `new`, also inside of its parts."""
    changes = {}
    for name in new.model_fields_set:
        before, value = getattr(old, name), getattr(new, name)
        changes[name] = merge(before, value) if isinstance(value, Model) and isinstance(before, type(value)) else value
    return old.model_copy(update=changes)
