"""The released servers' `/chat`: a spoken question as JSON, the answer as parts of sound and text, or as sound."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from omni2.codec.stream import to_pcm16
from omni2.config import Sampling
from omni2.omni import AnswerStream
from omni2.serve.desk import Desk
from omni2.serve.limits import from_base64, picture, sound
from omni2.serve.reply import streamed

router = APIRouter(tags=["chat"])

BOUNDARY = b"--frame"
MULTIPART = "multipart/x-mixed-replace; boundary=frame"


class Question(BaseModel):
    """What is asked; `max_tokens` counts the prompt too, `stream_stride` is frames of 85 ms a piece of sound."""

    audio: str = Field(description="base64 of a sound file")
    image: str | None = Field(None, description="base64 of a picture file")
    stream_stride: int = Field(4, ge=1, le=64)
    max_tokens: int = Field(2048, ge=1)


@router.post("/chat", responses={200: {"content": {MULTIPART: {}}}}, response_class=Response)
async def chat(question: Question, request: Request) -> Response:
    """Mini-Omni2's contract: parts `audio/wav` (headerless s16le, 24 kHz, mono) and `text/plain` in turn.

    An error after the first byte is a last part, `application/json`.
    """
    return await streamed(_parts(request.app.state.desk, question), MULTIPART)


@router.post("/chat/raw", responses={200: {"content": {"audio/pcm": {}}}}, response_class=Response)
async def chat_raw(question: Question, request: Request) -> Response:
    """Mini-Omni's contract: the answer's sound alone, s16le, mono.  An error after the first byte cuts it short."""
    desk: Desk = request.app.state.desk
    return await streamed(_pcm(desk, question), f"audio/pcm; rate={desk.model.sample_rate}; channels=1")


async def _parts(desk: Desk, question: Question) -> AsyncGenerator[bytes, None]:
    """The body of `/chat`.  It ends with an empty part, for the released client never reads the last one."""
    text, begun = "", False
    try:
        async with aclosing(desk.answer(lambda: _ask(desk, question))) as chunks:
            async for chunk in chunks:
                text += chunk.text
                if chunk.audio.size:
                    yield _part("audio/wav", to_pcm16(chunk.audio)) + _part("text/plain", text.encode())
                    text, begun = "", True
        if text:
            yield _part("text/plain", text.encode())
        yield _part("text/plain", b"")
    except Exception as error:
        if not begun:
            raise
        yield _part("application/json", json.dumps(desk.report(error).body).encode())
    yield BOUNDARY + b"--\r\n"


def _part(kind: str, content: bytes) -> bytes:
    return BOUNDARY + f"\r\nContent-Type: {kind}\r\n\r\n".encode() + content + b"\r\n"


async def _pcm(desk: Desk, question: Question) -> AsyncGenerator[bytes, None]:
    async with aclosing(desk.answer(lambda: _ask(desk, question))) as chunks:
        async for chunk in chunks:
            if chunk.audio.size:
                yield to_pcm16(chunk.audio)


def _ask(desk: Desk, question: Question) -> AnswerStream:
    """Decode what came in and open the answer; runs on a thread.  Raises Problem, InputError, AbilityError."""
    image = question.image and picture(from_base64(question.image, "image"), desk.settings)
    return desk.model.stream(
        audio=sound(from_base64(question.audio, "audio"), desk.settings),
        image=image or None,
        sampling=Sampling(max_tokens=question.max_tokens),
        chunk_frames=question.stream_stride,
    )
