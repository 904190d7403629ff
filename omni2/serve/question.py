"""What a client asks, whatever protocol it speaks: media out of its request, one call of the model, the answer."""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from omni2.audio import SAMPLE_RATE, Sound, to_waveform
from omni2.config import Sampling
from omni2.duplex.heard import Memory, Turn
from omni2.omni import AnswerStream, Chunk, Heard, OmniModel
from omni2.prompt import Reply
from omni2.serve.desk import Desk
from omni2.serve.limits import from_base64, picture
from omni2.serve.problems import Problem
from omni2.serve.settings import Settings

DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,", re.ASCII | re.IGNORECASE)


def from_data_uri(uri: str, param: str) -> bytes:
    """The bytes of `data:image/…;base64,…`.  Raises Problem 422 for any other address: nothing is ever fetched."""
    match = DATA_URI.match(uri)
    if match is None:
        why = f"{param} must be a data URI (data:image/png;base64,…); the server fetches no address"
        raise Problem(422, "invalid_request_error", "unsupported_image_url", why, param)
    return from_base64(uri[match.end() :], param)


@dataclass(frozen=True)
class Question:
    """A sound (a file's bytes, or samples (n,) at `rate` Hz), a text, a picture (data URI); sound goes before text.

    `heard` is what the encoder made of the sound already.  `history` are the turns before, for models that learned to
    use them; the oldest leave where there is no room.
    """

    sound: Sound | None = None
    rate: float = SAMPLE_RATE
    text: str | None = None
    image: str | None = None
    history: tuple[Turn, ...] = ()
    heard: Heard | None = None

    def stream(self, model: OmniModel, reply: Reply, sampling: Sampling, settings: Settings) -> AnswerStream:
        """Decode the media and ask `model`: slow, for a thread of the desk's.  Raises what `OmniModel.stream` does."""
        seen = picture(from_data_uri(self.image, "image_url"), settings) if self.image is not None else None
        past: tuple[Turn, ...] = ()
        if self.history and "history" in model.abilities:
            past = Memory(model.bundle.lm.config.block_size // 2, model.tokens, self.history).turns
        if self.sound is None:
            return model.stream(text=self.text, image=seen, reply=reply, sampling=sampling, history=past)
        heard = self.heard or to_waveform(self.sound, self.rate, settings.max_audio_seconds)
        return model.stream(heard, image=seen, reply=reply, sampling=sampling, history=past)


async def ask(
    desk: Desk, question: Question, reply: Reply = "speech", sampling: Sampling | None = None, most: int | None = None
) -> AsyncGenerator[Chunk, None]:
    """The chunks of an answer, from a seat that is held until the last; close it with `aclosing`.

    `most` bounds the frames of a spoken reply, the text tokens of a written one.  Raises what `Question.stream` does,
    and Problem 503 when no seat is free.
    """
    frame, made = desk.model.bundle.codec.frame_size, 0.0
    chosen = sampling or Sampling()
    async with aclosing(desk.answer(lambda: question.stream(desk.model, reply, chosen, desk.settings))) as chunks:
        async for chunk in chunks:
            made += chunk.audio.size / frame if reply == "speech" else bool(chunk.text)
            if most is not None and made >= most and chunk.finish_reason is None:
                yield replace(chunk, finish_reason="length")
                return
            yield chunk
