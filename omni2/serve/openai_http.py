"""OpenAI's HTTP routes: chat completions with sound and pictures, speech, transcriptions, models."""

import base64
import json
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import PlainTextResponse, Response

from omni2.audio import SAMPLE_RATE
from omni2.config import Pick, Sampling
from omni2.omni import Chunk
from omni2.serve.desk import Desk
from omni2.serve.limits import from_base64, sound
from omni2.serve.problems import Problem
from omni2.serve.question import Question, ask, from_data_uri
from omni2.serve.reply import streamed
from omni2.serve.schemas import (
    AnswerChoice,
    AnswerMessage,
    AudioAnswer,
    ChatReply,
    ChatRequest,
    ModelCard,
    ModelList,
    Segment,
    SoundPart,
    SpeechRequest,
    TextPart,
    Transcript,
    TranscriptionRequest,
    UserMessage,
    VerboseTranscript,
)
from omni2.serve.sound import MEDIA_TYPES, FileWriter, sound_file

router = APIRouter(prefix="/v1", tags=["openai"])

FINISH: dict[str, Literal["stop", "length"]] = {"end": "stop", "length": "length"}
EVENTS = "text/event-stream"
STARTED = int(time.time())


@router.post("/chat/completions", response_model=ChatReply, responses={200: {"content": {EVENTS: {}}}})
async def chat_completions(body: ChatRequest, request: Request) -> ChatReply | Response:
    """Answer the last message of the user.  Earlier messages are read over: the models have no memory of turns yet.

    With "audio" in `modalities` the answer is spoken and its words are its transcript.  `max_tokens` counts the words'
    tokens of a written answer, and of a spoken one the frames of 85 ms.
    """
    desk: Desk = request.app.state.desk
    answer = ChatAnswer(desk, body)
    return await streamed(answer.events(), EVENTS) if body.stream else await answer.whole()


@router.post("/audio/speech", responses={200: {"content": {"audio/*": {}}}}, response_class=Response)
async def speech(body: SpeechRequest, request: Request) -> Response:
    """Read `input` aloud; the sound is sent as it is made.  pcm is s16le, 24 kHz, mono."""
    desk: Desk = request.app.state.desk
    return await streamed(_spoken(desk, body), MEDIA_TYPES[body.response_format])


FORM = {"requestBody": {"content": {"multipart/form-data": {"schema": TranscriptionRequest.model_json_schema()}}}}


@router.post("/audio/transcriptions", response_model=VerboseTranscript | Transcript, openapi_extra=FORM)
async def transcriptions(request: Request) -> Transcript | Response:
    """Write down what is said in `file`."""
    desk: Desk = request.app.state.desk
    form = await _form(request)
    wave = await desk.run(sound, form.file, desk.settings)
    async with desk.seat():
        text = await desk.run(desk.model.transcribe, wave)
    if form.response_format == "text":
        return PlainTextResponse(text + "\n")
    if form.response_format == "json":
        return Transcript(text=text)
    seconds = len(wave) / SAMPLE_RATE
    segment = Segment(end=seconds, text=text, tokens=desk.model.bundle.tokenizer.encode(text).ids)
    language = form.language or "english"
    return VerboseTranscript(text=text, language=language, duration=seconds, segments=[segment] if text else [])


@router.get("/models")
async def models(request: Request) -> ModelList:
    """The model behind this server."""
    return ModelList(data=[_card(request)])


@router.get("/models/{name:path}")
async def model(name: str, request: Request) -> ModelCard:
    """The same, by its name."""
    card = _card(request)
    if name != card.id:
        raise Problem(404, "invalid_request_error", "model_not_found", f"this server's model is {card.id}", "model")
    return card


def _card(request: Request) -> ModelCard:
    return ModelCard(id=request.app.state.desk.model.bundle.name, created=STARTED)


class ChatAnswer:
    """One answer of `/v1/chat/completions`, whole or as server-sent events."""

    def __init__(self, desk: Desk, body: ChatRequest) -> None:
        self._desk, self._body = desk, body
        self._id = f"chatcmpl-{uuid.uuid4().hex[:24]}"
        self._audio_id = f"audio_{uuid.uuid4().hex[:24]}"
        self._created = int(time.time())
        self._model = desk.model.bundle.name
        self._spoken = "audio" in (body.modalities or ())
        self._format = body.audio.format if body.audio else "wav"
        self._question = _question(body)

    def _chunks(self) -> AsyncGenerator[Chunk, None]:
        body = self._body
        pick = Pick(body.temperature or 0.0, top_p=body.top_p or 1.0)
        sampling = Sampling(text=pick, seed=body.seed or 0)
        most = body.max_completion_tokens or body.max_tokens
        return ask(self._desk, self._question, "speech" if self._spoken else "text", sampling, most)

    async def whole(self) -> ChatReply:
        """The reply in one piece."""
        text, reason, message = "", "end", AnswerMessage()
        samples = [np.zeros(0, np.float32)]
        async with aclosing(self._chunks()) as chunks:
            async for chunk in chunks:
                text += chunk.text
                samples.append(chunk.audio)
                reason = chunk.finish_reason or reason
        if not self._spoken:
            message = AnswerMessage(content=text)
        else:
            sound = np.concatenate(samples)
            file = await self._desk.run(sound_file, sound, self._format, self._desk.model.sample_rate)
            data = base64.b64encode(file).decode()
            message = AnswerMessage(audio=AudioAnswer(id=self._audio_id, data=data, expires_at=0, transcript=text))
        choice = AnswerChoice(message=message, finish_reason=FINISH[reason])
        return ChatReply(id=self._id, created=self._created, model=self._model, choices=[choice])

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The reply as server-sent events: deltas, the reason of the end, [DONE].  A late error is an event too."""
        begun = False
        writer = FileWriter(self._format, self._desk.model.sample_rate) if self._spoken else None
        try:
            async with aclosing(self._chunks()) as chunks:
                async for chunk in chunks:
                    if not begun:
                        yield self._event({"role": "assistant", "content": None if writer else ""})
                        begun = True
                    for delta in self._deltas(chunk, writer):
                        yield self._event(delta)
                    if chunk.finish_reason:
                        yield self._event({}, FINISH[chunk.finish_reason])
        except Exception as error:
            if not begun:
                raise
            yield _sse(self._desk.report(error).body)
        yield b"data: [DONE]\n\n"

    def _deltas(self, chunk: Chunk, writer: FileWriter | None) -> list[dict[str, Any]]:
        if writer is None:
            return [{"content": chunk.text}] if chunk.text else []
        data = writer.push(chunk.audio) + (writer.close() if chunk.finish_reason else b"")
        deltas = [{"transcript": chunk.text}] if chunk.text else []
        deltas += [{"data": base64.b64encode(data).decode()}] if data else []
        return [{"audio": {"id": self._audio_id, **delta}} for delta in deltas]

    def _event(self, delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        fields = {"id": self._id, "object": "chat.completion.chunk", "created": self._created, "model": self._model}
        return _sse({**fields, "choices": [choice]})


def _sse(fields: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(fields)}\n\n".encode()


def _question(body: ChatRequest) -> Question:
    """The last message of the user.  Raises Problem: there is none, or its media cannot be used."""
    message = next((one for one in reversed(body.messages) if isinstance(one, UserMessage)), None)
    if message is None:
        raise Problem(422, "invalid_request_error", "no_question", "no message of the user", "messages")
    if isinstance(message.content, str):
        return Question(text=message.content)
    heard = image = None
    words = []
    for part in message.content:
        if isinstance(part, TextPart):
            words.append(part.text)
        elif isinstance(part, SoundPart):
            heard = from_base64(part.input_audio.data, "input_audio.data")
        else:
            from_data_uri(part.image_url.url, "image_url.url")
            image = part.image_url.url
    return Question(heard, text="\n".join(words) if words else None, image=image)


async def _spoken(desk: Desk, body: SpeechRequest) -> AsyncGenerator[bytes, None]:
    writer = FileWriter(body.response_format, desk.model.sample_rate)
    async with aclosing(desk.answer(lambda: desk.model.read_aloud(body.input))) as chunks:
        async for chunk in chunks:
            data = writer.push(chunk.audio)
            if data:
                yield data
    yield writer.close()


class _Parser(MultiPartParser):
    """Keeps uploads in memory: nothing of a request goes to disk.  Their size is bounded by the body's."""

    spool_max_size = 0  # no limit, for a SpooledTemporaryFile


async def _form(request: Request) -> TranscriptionRequest:
    """The form of `/v1/audio/transcriptions`.  Raises Problem 400 and 422."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Problem(422, "invalid_request_error", "invalid_request", "send a multipart/form-data form", "file")
    try:
        form = await _Parser(request.headers, request.stream(), max_files=1).parse()
        try:
            fields = {name: value if isinstance(value, str) else await value.read() for name, value in form.items()}
        finally:
            await form.close()
        return TranscriptionRequest.model_validate(fields)
    except MultiPartException as error:
        raise Problem(400, "invalid_request_error", "invalid_form", error.message) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = str(first["loc"][0])
        raise Problem(422, "invalid_request_error", "invalid_request", f"{param}: {first['msg']}", param) from error
