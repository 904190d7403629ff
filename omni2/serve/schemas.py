"""OpenAI's HTTP bodies, as far as these models can follow them; unknown fields are ignored."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

SpeechFormat = Literal["wav", "pcm", "mp3", "opus", "flac", "aac"]
ChatFormat = Literal["wav", "pcm16", "mp3", "opus", "flac", "aac"]
Tokens = Annotated[int, Field(ge=1)]


class TextPart(BaseModel):
    """Words."""

    type: Literal["text"]
    text: str


class SoundData(BaseModel):
    """A sound file; its format is found out."""

    data: str = Field(description="base64 of a sound file")
    format: str = "wav"


class SoundPart(BaseModel):
    """A spoken question."""

    type: Literal["input_audio"]
    input_audio: SoundData


class PictureAddress(BaseModel):
    """A picture inside of its address."""

    url: str = Field(description="data:image/…;base64,…; no other address is taken, nothing is fetched")


class PicturePart(BaseModel):
    """What the question is about."""

    type: Literal["image_url"]
    image_url: PictureAddress


Part = Annotated[TextPart | SoundPart | PicturePart, Field(discriminator="type")]


class UserMessage(BaseModel):
    """What is asked."""

    role: Literal["user"]
    content: str | list[Part]


class OtherMessage(BaseModel):
    """Instructions, earlier answers and tools: read over, for the models have no memory of them."""

    role: Literal["system", "developer", "assistant", "tool", "function"]


class AudioChoice(BaseModel):
    """The answer's sound; there is one voice, whatever is asked for."""

    format: ChatFormat = "wav"


class ChatRequest(BaseModel):
    """`POST /v1/chat/completions`."""

    messages: list[Annotated[UserMessage | OtherMessage, Field(discriminator="role")]] = Field(min_length=1)
    model: str | None = None
    modalities: list[Literal["text", "audio"]] | None = None
    audio: AudioChoice | None = None
    stream: bool | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: float | None = Field(default=None, ge=0, le=2, description="of the words; greedy by default")
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: Literal[1] | None = None


class SpeechRequest(BaseModel):
    """`POST /v1/audio/speech`."""

    input: str = Field(min_length=1)
    model: str | None = None
    response_format: SpeechFormat = "mp3"
    speed: Literal[1] | None = Field(default=None, description="other speeds are not offered")
    stream_format: Literal["audio"] = "audio"


class TranscriptionRequest(BaseModel):
    """`POST /v1/audio/transcriptions`, a form."""

    file: bytes = Field(json_schema_extra={"format": "binary"})
    model: str | None = None
    language: str | None = None
    response_format: Literal["json", "text", "verbose_json"] = "json"
    stream: Literal["false", "False"] | None = None


class AudioAnswer(BaseModel):
    """The sound of an answer in base64, and its words."""

    id: str
    data: str
    expires_at: int = Field(description="always 0: nothing is kept")
    transcript: str


class AnswerMessage(BaseModel):
    """An answer: words in `content`, or sound and words in `audio`."""

    role: Literal["assistant"] = "assistant"
    content: str | None = None
    refusal: str | None = None
    audio: AudioAnswer | None = None


class AnswerChoice(BaseModel):
    """The one answer."""

    index: int = 0
    message: AnswerMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class ChatReply(BaseModel):
    """The reply of `/v1/chat/completions` that is not streamed."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[AnswerChoice]


class Segment(BaseModel):
    """The whole of a transcription; what is not measured is 0."""

    id: int = 0
    seek: int = 0
    start: float = 0.0
    end: float
    text: str
    tokens: list[int]
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float = 0.0
    no_speech_prob: float = 0.0


class Transcript(BaseModel):
    """The reply of `/v1/audio/transcriptions` in the format json."""

    text: str


class VerboseTranscript(Transcript):
    """And in the format verbose_json; `duration` in seconds."""

    task: Literal["transcribe"] = "transcribe"
    language: str
    duration: float
    segments: list[Segment]


class ModelCard(BaseModel):
    """One model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "omni2"


class ModelList(BaseModel):
    """All models, which is one."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
