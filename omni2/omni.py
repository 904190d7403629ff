"""The model as one object: questions in, answers out, streamed as speech and text.

bytes → waveform / picture → features → Prompt → Engine → Step → frame → SpeechStream → Chunk
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from omni2.audio import SAMPLE_RATE, Sound, to_waveform
from omni2.bundle import Bundle, save
from omni2.codec.stream import SpeechStream
from omni2.config import Sampling
from omni2.encoder import Window
from omni2.engine import Conversation, Engine, FinishReason
from omni2.errors import AbilityError, InputError
from omni2.hub import load_bundle
from omni2.prompt import Prompt, PromptBuilder, Reply
from omni2.tokens import DelayLine
from omni2.vision import Picture, load_picture
from omni2.words import WordStream

Samples = npt.NDArray[np.float32]

LISTENING = 2.5  # seconds at a microphone that `OmniModel.listen` hears; its training data are as long


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer: new samples (n,) float32 at `sample_rate`, in [-1, 1], and new text; either may be empty.

    `finish_reason` is None but in the last chunk: "end", or "length" where the context was full.
    """

    audio: Samples
    text: str
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class Timings:
    """Seconds from the call on: first text, first sound (None where there was none), all; and seconds of sound made."""

    first_text: float | None
    first_audio: float | None
    total: float
    audio: float

    @property
    def rtf(self) -> float | None:
        """Real-time factor: seconds of work a second of sound; None without sound."""
        return self.total / self.audio if self.audio else None


@dataclass(frozen=True)
class Answer:
    """A whole answer: its text, its sound (samples,) float32 at `sample_rate` (empty for text), and the times."""

    text: str
    audio: Samples
    sample_rate: int
    finish_reason: FinishReason
    timings: Timings


class AnswerStream(Iterator[Chunk]):
    """Chunks as they are decoded.  `close`, leaving a `with` block or dropping it stops the work and frees its rows."""

    def __init__(self, steps: Conversation, words: WordStream, speech: SpeechStream | None, sample_rate: int) -> None:
        self._steps, self._words, self._speech = steps, words, speech
        self.sample_rate = sample_rate
        self._frames = DelayLine()
        self._done = False

    def __next__(self) -> Chunk:
        while not self._done:
            step = next(self._steps)
            text = self._words.push(step.text) if step.text is not None else ""
            pieces = []
            if self._speech is not None and step.codes is not None:
                frame = self._frames.push(step.codes)
                if frame is not None and self._words.layout.is_frame(frame):
                    pieces.append(self._speech.push(frame))
            if step.finish_reason:
                self._done = True
                text += self._words.flush()
                if self._speech is not None:
                    pieces.append(self._speech.flush())
            audio = np.concatenate([np.zeros(0, np.float32), *pieces])
            if text or audio.size or step.finish_reason:
                return Chunk(audio, text, step.finish_reason)
        raise StopIteration

    def collect(self, began: float | None = None, each: Callable[[str, int], None] | None = None) -> Answer:
        """Run to the end and put the chunks together; `began` (time.perf_counter) is when the question was there.

        `each` is told of every chunk as it comes: its text and how many samples it has.
        """
        began = time.perf_counter() if began is None else began
        text, audio, reason = "", [np.zeros(0, np.float32)], None
        first_text = first_audio = None
        with self:
            for chunk in self:
                now = time.perf_counter() - began
                if chunk.text and first_text is None:
                    first_text = now
                if chunk.audio.size and first_audio is None:
                    first_audio = now
                text += chunk.text
                audio.append(chunk.audio)
                reason = chunk.finish_reason
                if each is not None:
                    each(chunk.text, chunk.audio.size)
        samples = np.concatenate(audio)
        timings = Timings(first_text, first_audio, time.perf_counter() - began, samples.size / self.sample_rate)
        return Answer(text, samples, self.sample_rate, reason or "length", timings)

    def close(self) -> None:
        """Stop decoding; the iterator is exhausted from now on."""
        self._done = True
        self._steps.close()

    def __enter__(self) -> "AnswerStream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class OmniModel:
    """A loaded model.  Calls keep no state on it: any number of streams may be open at once, in any threads."""

    def __init__(self, bundle: Bundle, device: str | torch.device = "cpu", slots: int = 16) -> None:
        self.bundle = bundle
        bundle.lm.to(device).eval()
        bundle.audio_encoder.to(device).eval()
        if bundle.vision_encoder is not None:
            bundle.vision_encoder.to(device).eval()
        self.engine = Engine(bundle.lm, slots)
        self.prompts = PromptBuilder(bundle.lm.layout, bundle.lm.config.audio_stride, bundle.lm.config.text_lead)
        self.sample_rate = bundle.codec.sample_rate

    @classmethod
    def from_pretrained(
        cls, name: str | Path = "nano", *, device: str | torch.device = "cpu", slots: int = 16
    ) -> "OmniModel":
        """Load "nano" (ships with the package), a folder, or a hub id such as "gpt-omni/mini-omni2".

        A folder is one of `save_pretrained` or a released one.  `slots` rows of the batch bound the conversations at
        once: a spoken question takes two.  Raises CheckpointError, saying which file is missing or damaged.
        """
        return cls(load_bundle(name), device, slots)

    @property
    def abilities(self) -> frozenset[str]:
        """What the model learned: of "answer", "transcribe", "speak", "see", "listen", "history"."""
        return self.bundle.abilities

    def stream(
        self,
        audio: Sound | None = None,
        *,
        text: str | None = None,
        image: Picture | None = None,
        rate: float = SAMPLE_RATE,
        reply: Reply = "speech",
        window: Window | None = None,
        history: Sequence[tuple[str, str]] = (),
        sampling: Sampling | None = None,
        first_chunk_frames: int = 1,
        chunk_frames: int = 4,
    ) -> AnswerStream:
        """Answer a spoken or typed question, about a picture or not; describe a picture that comes alone.

        `audio` is a file (path, bytes) or samples (n,) at `rate` Hz, float in [-1, 1] or int16.  With the `reply`
        "speech" both speech and text are streamed, with "text" text alone.  `window` is the encoder's: "exact" or
        "trimmed", by default what the model was trained on.  `history` are the turns before, oldest first: what was
        asked ("" if that is not known in words) and answered; of use to models that learned "history".  Sound comes in
        chunks of `first_chunk_frames`, growing to `chunk_frames` (85 ms each).

        All checks and the prefill happen in this call.  Raises InputError (and ContextLengthError) for input that
        cannot be used, AbilityError for what the model never learned, BusyError when all rows are taken.
        """
        if reply not in ("speech", "text"):
            raise InputError(f'reply is "speech" or "text", not {reply!r}')
        if audio is None and text is None and image is None:
            raise InputError("nothing was asked; give audio, text or image")
        if audio is not None and text is not None:
            raise InputError("a question is spoken or typed; give audio or text, not both")
        self._need("see" if image is not None else "answer")
        picture = self._see(image) if image is not None else None
        heard = self._hear(audio, rate, window) if audio is not None else None
        ids = self._read(text) if text is not None else None
        past = [(self._read(asked) if asked.strip() else [], self._read(told)) for asked, told in history]
        if picture is not None:
            prompt = self.prompts.picture(picture, heard, ids, reply, history=past)
        elif heard is not None:
            prompt = self.prompts.spoken(heard, reply, history=past)
        else:
            prompt = self.prompts.typed(ids or [], reply, history=past)
        return self._start(prompt, sampling, first_chunk_frames, chunk_frames)

    def answer(
        self,
        audio: Sound | None = None,
        *,
        text: str | None = None,
        image: Picture | None = None,
        rate: float = SAMPLE_RATE,
        reply: Reply = "speech",
        window: Window | None = None,
        history: Sequence[tuple[str, str]] = (),
        sampling: Sampling | None = None,
    ) -> Answer:
        """What `stream` yields, collected; the same arguments and errors."""
        began = time.perf_counter()
        return self.stream(
            audio, text=text, image=image, rate=rate, reply=reply, window=window, history=history, sampling=sampling
        ).collect(began)

    def transcribe(
        self, audio: Sound, *, rate: float = SAMPLE_RATE, window: Window | None = None, sampling: Sampling | None = None
    ) -> str:
        """The words of a sound (see `stream` for its forms and the errors)."""
        self._need("transcribe")
        prompt = self.prompts.transcription(self._hear(audio, rate, window))
        return self._start(prompt, sampling).collect().text.strip()

    @torch.inference_mode()
    def listen(self, audio: Sound, *, rate: float = SAMPLE_RATE, threshold: float = 0.5) -> bool:
        """Whether the sound just heard is an order to stop ("Stop Omni").

        `audio` is a file or samples (see `stream`) up to now, of which the last `LISTENING` seconds count; ask again
        at least every half second.  `threshold`, in (0, 1), is how sure the model has to be: higher misses more orders
        and obeys fewer that were none.  One forward pass, which takes no row of the batch and waits for no answer.

        Raises AbilityError if the model never learned to listen, InputError for sound that cannot be used.
        """
        self._need("listen")
        if not 0 < threshold < 1:
            raise InputError(f"a threshold lies between 0 and 1, not {threshold}")
        length = round(LISTENING * SAMPLE_RATE)
        wave = np.pad(to_waveform(audio, rate), (length, 0))[-length:]
        prompt = self.prompts.listening(self.bundle.audio_encoder.encode(wave, self.bundle.window))
        lm, layout = self.bundle.lm, self.bundle.lm.layout
        hidden = lm(lm.embed(prompt.ids.to(self.engine.device)[None], [prompt.spans]))[0, -1]
        irq, n_irq = lm.text_logits(hidden)[[layout.irq, layout.n_irq]].float()
        return bool((irq - n_irq).sigmoid() > threshold)

    def read_aloud(self, text: str, *, sampling: Sampling | None = None) -> AnswerStream:
        """Stream `text` read aloud.  Raises AbilityError if the model never learned to, InputError for empty text."""
        self._need("speak")
        return self._start(self.prompts.reading(self._read(text)), sampling)

    def speak(self, text: str, *, sampling: Sampling | None = None) -> Answer:
        """What `read_aloud` yields, collected; the same errors."""
        began = time.perf_counter()
        return self.read_aloud(text, sampling=sampling).collect(began)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write config.json, the weights as safetensors in `dtype` and tokenizer.json into `folder`."""
        save(self.bundle, Path(folder), dtype)

    def _start(
        self, prompt: Prompt, sampling: Sampling | None, first_chunk_frames: int = 1, chunk_frames: int = 4
    ) -> AnswerStream:
        sampling = sampling or Sampling()
        speech = None
        if prompt.audio_out:
            speech = SpeechStream(self.bundle.codec, first_chunk_frames, chunk_frames, sampling.seed)
        words = WordStream(self.bundle.tokenizer, self.bundle.lm.layout)
        return AnswerStream(self.engine.submit(prompt, sampling), words, speech, self.sample_rate)

    def _need(self, ability: str) -> None:
        if ability not in self.abilities:
            known = ", ".join(sorted(self.abilities))
            raise AbilityError(f"{self.bundle.name} never learned to {ability}; it can {known}")

    def _hear(self, audio: Sound, rate: float, window: Window | None) -> Tensor:
        return self.bundle.audio_encoder.encode(to_waveform(audio, rate), window or self.bundle.window)

    def _see(self, image: Picture) -> Tensor:
        assert self.bundle.vision_encoder is not None
        return self.bundle.vision_encoder.encode(load_picture(image))

    def _read(self, text: str) -> list[int]:
        if not isinstance(text, str) or not text.strip():
            raise InputError("the text is empty; write a question")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise InputError("the text holds half of a character (a surrogate); give whole Unicode text")
        ids: list[int] = self.bundle.tokenizer.encode(text.strip()).ids
        return ids
