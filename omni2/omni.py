"""The model as one object: questions in, answers out, streamed as speech and text.

bytes → waveform / picture → features → Prompt → Engine → Step → frame → SpeechStream → Chunk
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from omni2.answer import Answer, AnswerStream, Chunk, Samples, Timings
from omni2.audio import SAMPLE_RATE, Sound, to_waveform
from omni2.bundle import Bundle, save
from omni2.codec.stream import CHUNK_FRAMES, SpeechStream
from omni2.config import ROWS, Sampling
from omni2.duplex.events import Policy
from omni2.duplex.finished import finished
from omni2.duplex.heard import Memory
from omni2.duplex.overheard import LISTENING, Overheard, overheard
from omni2.duplex.phrases import PHRASES
from omni2.duplex.session import Session
from omni2.encoder import FRAME_RATE, Window
from omni2.engine import Conversation, Engine
from omni2.errors import AbilityError, InputError
from omni2.model import OmniLM
from omni2.pace import Pace
from omni2.precision import Weights, load_as
from omni2.prompt import Prompt, PromptBuilder, Reply
from omni2.static import StaticLM
from omni2.vision import Picture, load_picture
from omni2.words import WordStream

__all__ = ["LISTENING", "SAMPLE_RATE", "Answer", "AnswerStream", "Chunk", "Heard", "OmniModel", "Samples", "Timings"]

SURE = 0.9  # how likely an order has to be: talk that is none comes near it far more often than it reaches this
FAINT = 0.01  # how likely an order has to be to a network for the language model to be asked
WORDY = (64, 12)  # tokens a transcript may have: so many, and so many more for each second of sound


@dataclass(frozen=True)
class Heard:
    """Sound that went through the encoder, to be used more than once: features (T, width), `seconds` of sound."""

    features: Tensor
    seconds: float


class OmniModel:
    """A loaded model.  Calls keep no state on it: any number of streams may be open at once, in any threads."""

    def __init__(
        self,
        bundle: Bundle,
        device: str | torch.device = "cpu",
        slots: int = 8 * ROWS,
        realtime: bool = False,
        recorded: bool = False,
    ) -> None:
        self.bundle = bundle
        for part in (bundle.lm, bundle.audio_encoder, bundle.vision_encoder):
            if part is not None:
                part.to(device)
            if isinstance(part, torch.nn.Module):
                part.eval()
        pace = Pace(bundle.codec.frame_size / bundle.codec.sample_rate)
        lm = bundle.lm
        if recorded:
            if not isinstance(lm, OmniLM):
                raise InputError("steps are recorded of weights in torch alone; these are compiled by OpenVINO")
            lm = StaticLM(lm)
        self.engine = Engine(lm, slots, pace, realtime)
        self.prompts = PromptBuilder(bundle.lm.layout, bundle.lm.config.audio_stride, bundle.lm.config.text_lead)
        self.sample_rate = bundle.codec.sample_rate

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "nano",
        *,
        device: str | torch.device = "cpu",
        slots: int = 8 * ROWS,
        weights: Weights = "float32",
        realtime: bool = False,
        recorded: bool = False,
    ) -> "OmniModel":
        """Load "nano" (ships with the package), a folder, or a hub id such as "gpt-omni/mini-omni2".

        A folder is one of `save_pretrained` or a released one.  `slots` rows of the batch bound the conversations at
        once: a spoken question takes two, or `ROWS` where its words count as well (see `Seek`).  `realtime` refuses
        (BusyError) the spoken answer that would make those under way fall behind real time, by what steps and sound
        have taken so far.  `recorded` is for GPUs: steps are compiled for few shapes, as CUDA graphs need them
        (`omni2.static`); the first of each takes long.

        `weights` "float32" computes in torch, token for token as the released code.  "int8" and "bfloat16" are
        compiled for the CPU, several times faster, and differ a little; on other devices "bfloat16" is torch's.  "auto"
        takes what is fastest: int8 on a CPU, bfloat16 elsewhere; float32 where neither can be had.

        Raises CheckpointError, saying which file is missing or damaged; InputError for weights the device has not.
        """
        return cls(load_as(name, weights, device), device, slots, realtime, recorded)

    @property
    def abilities(self) -> frozenset[str]:
        """What the model learned: of "answer", "transcribe", "speak", "see", "listen", "history"."""
        return self.bundle.abilities

    def stream(
        self,
        audio: Sound | Heard | None = None,
        *,
        text: str | None = None,
        image: Picture | None = None,
        rate: float = SAMPLE_RATE,
        reply: Reply = "speech",
        window: Window | None = None,
        history: Sequence[tuple[str, str]] = (),
        sampling: Sampling | None = None,
        first_chunk_frames: int = 1,
        chunk_frames: int | None = None,
    ) -> AnswerStream:
        """Answer a spoken or typed question, about a picture or not; describe a picture that comes alone.

        `audio` is a file (path, bytes), samples (n,) at `rate` Hz, float in [-1, 1] or int16, or what `hear` made of
        them.  With the `reply` "speech" both speech and text are streamed, with "text" text alone.  `window` is the
        encoder's: "exact" or "trimmed", by default what the model was trained on.  `history` are the turns before,
        oldest first: what was asked ("" if that is not known in words) and answered; of use to models that learned
        "history".  Sound comes in chunks of `first_chunk_frames`, doubling up to `chunk_frames` (85 ms each); by
        default up to `CHUNK_FRAMES`, and no faster than frames come when the machine is busy.

        All checks and the prefill happen in this call, and the writing down if the question's words count as well (see
        `Seek`).  Raises InputError (and ContextLengthError) for input that cannot be used, AbilityError for what the
        model never learned, BusyError when all rows are taken or there is no time (see `from_pretrained`).
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
        prompt = self.prompts.question(picture, heard, ids, reply, past)
        sampling = (sampling or Sampling()).settled(self.bundle.seek)
        speech = self._speech(prompt, sampling.seed, first_chunk_frames, chunk_frames)
        steps = self.engine.submit(prompt, sampling)
        if heard is not None and not past and self._doubts(steps, prompt, sampling):
            words = self.transcribe(Heard(heard, heard.shape[0] / FRAME_RATE))
            second = self.prompts.question(picture, None, self._read(words), reply) if words else None
            steps = self.engine.submit(prompt, sampling, second)
        return self._tell(steps, prompt, speech)

    def answer(
        self,
        audio: Sound | Heard | None = None,
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
        self,
        audio: Sound | Heard,
        *,
        rate: float = SAMPLE_RATE,
        window: Window | None = None,
        sampling: Sampling | None = None,
    ) -> str:
        """The words of a sound (see `stream` for its forms and the errors).

        What runs on is cut, by default at more tokens than anybody says in the time (`WORDY`).
        """
        self._need("transcribe")
        heard = self._hear(audio, rate, window)
        prompt = self.prompts.transcription(heard)
        most = len(prompt) + round(WORDY[0] + WORDY[1] * heard.shape[0] / FRAME_RATE)
        sampling = sampling or Sampling(max_tokens=most)
        return self._start(prompt, sampling).collect().text.strip()

    def listen(self, audio: Sound, *, rate: float = SAMPLE_RATE, threshold: float = SURE) -> bool:
        """Whether the sound just heard is an order to stop ("Stop Omni"): `ordered`, decided at once.

        `threshold`, in (0, 1), is how likely it has to be: higher misses more orders and obeys fewer that were none.
        `omni2.duplex.judge.Judge` decides better, over several questions.  Raises as `ordered` does.
        """
        if not 0 < threshold < 1:
            raise InputError(f"a threshold lies between 0 and 1, not {threshold}")
        return self.ordered(audio, rate=rate) > threshold

    @torch.inference_mode()
    def ordered(self, audio: Sound, *, rate: float = SAMPLE_RATE) -> float:
        """How likely, from 0 to 1, the sound just heard ends with an order to stop.

        `audio` is a file or samples (see `stream`) up to now, of which the last `LISTENING` seconds count; ask again
        at least every half second.  One forward pass, which takes no row of the batch and waits for no answer; where
        there is a network for `overheard`, it rules out most talk without one, and has half the say about the rest.

        Raises AbilityError if the model never learned to listen, InputError for sound that cannot be used.
        """
        self._need("listen")
        features = self._latest(audio, rate)
        said = overheard(self.bundle.audio_encoder, features)
        if said is not None and said.order < FAINT:
            return said.order
        prompt, lm, layout = self.prompts.listening(features), self.bundle.lm, self.bundle.lm.layout
        hidden = lm(lm.embed(prompt.ids.to(self.engine.device)[None], [prompt.spans]))[0, -1]
        irq, n_irq = lm.text_logits(hidden)[[layout.irq, layout.n_irq]].float()
        logit = irq - n_irq
        if said is not None:
            logit = (logit + torch.logit(torch.tensor(said.order), eps=1e-6)) / 2
        return float(logit.sigmoid())

    def hear(self, audio: Sound, *, rate: float = SAMPLE_RATE, window: Window | None = None) -> Heard:
        """Sound (see `stream` for its forms and the errors) through the encoder, for several calls to share.

        In the pause that may end a turn this hides the encoder's time; if the person goes on, throw it away and encode
        the longer sound.  Safe to call in a thread of its own.
        """
        wave = to_waveform(audio, rate)
        return Heard(self._hear(wave, SAMPLE_RATE, window), wave.size / SAMPLE_RATE)

    def finished(self, heard: Heard) -> float | None:
        """How likely, from 0 to 1, what was heard is a finished turn; None for encoders that nobody trained for it.

        The sound ends with `omni2.duplex.finished.PAUSE` seconds without speech.
        """
        return finished(self.bundle.audio_encoder, heard.features)

    def overheard(self, audio: Sound | Heard, *, rate: float = SAMPLE_RATE) -> Overheard | None:
        """What is said at the end of a sound while an answer is played: an order, a nod, or something else?

        The last `LISTENING` seconds count.  None for encoders that nobody trained for it.  Raises InputError for sound
        that cannot be used.
        """
        features = audio.features if isinstance(audio, Heard) else self._latest(audio, rate)
        return overheard(self.bundle.audio_encoder, features)

    def tokens(self, text: str) -> int:
        """Positions that `text` takes in a prompt."""
        return len(self.bundle.tokenizer.encode(text.strip()).ids)

    def session(
        self,
        policy: Policy = "command",
        *,
        phrases: Sequence[str] = PHRASES,
        history: bool | None = None,
        turns: Sequence[tuple[str, str]] = (),
        sampling: Sampling | None = None,
    ) -> Session:
        """A conversation by voice: it is spoken to while it speaks; see `omni2.duplex.session.Session`.

        `policy` says what stops an answer: "command" an order alone (one of `phrases`), "barge-in" also somebody who
        speaks up, "off" nothing.  `history`: whether earlier turns (to begin with `turns`, questions with answers) are
        put into prompts, by default if the model learned to use them.  They take up to half of the model's context.
        Raises InputError for another policy or without phrases.
        """
        remembers = "history" in self.abilities if history is None else history
        room = self.bundle.lm.config.block_size // 2 if remembers else 0
        return Session(self, policy, phrases, Memory(room, self.tokens, turns), remembers, sampling)

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

    def _start(self, prompt: Prompt, sampling: Sampling | None) -> AnswerStream:
        sampling = (sampling or Sampling()).settled(self.bundle.seek)
        speech = self._speech(prompt, sampling.seed)
        return self._tell(self.engine.submit(prompt, sampling), prompt, speech)

    def _doubts(self, steps: Conversation, prompt: Prompt, sampling: Sampling) -> bool:
        """Whether the words of a spoken question are to count as well; then `steps` are closed."""
        seek = sampling.seek
        if seek is None or not seek.cascade or not prompt.written or "transcribe" not in self.abilities:
            return False
        doubts = True
        try:
            doubts = not steps.likely(seek.sure)
        finally:
            if doubts:
                steps.close()
        return doubts

    def _speech(self, prompt: Prompt, seed: int, first: int = 1, most: int | None = None) -> SpeechStream | None:
        if not prompt.audio_out:
            return None
        if most is not None:
            return SpeechStream(self.bundle.codec, first, most, seed)
        return SpeechStream(self.bundle.codec, first, max(CHUNK_FRAMES, first), seed, self.engine.load)

    def _tell(self, steps: Conversation, prompt: Prompt, speech: SpeechStream | None) -> AnswerStream:
        words = WordStream(self.bundle.tokenizer, self.bundle.lm.layout)
        lead = self.bundle.lm.config.text_lead
        pace = (lead, self.bundle.codec.frame_size) if lead and prompt.audio_out else None
        return AnswerStream(steps, words, speech, self.sample_rate, pace)

    def _need(self, ability: str) -> None:
        if ability not in self.abilities:
            known = ", ".join(sorted(self.abilities))
            raise AbilityError(f"{self.bundle.name} never learned to {ability}; it can {known}")

    def _hear(self, audio: Sound | Heard, rate: float, window: Window | None) -> Tensor:
        if isinstance(audio, Heard):
            return audio.features
        return self.bundle.audio_encoder.encode(to_waveform(audio, rate), window or self.bundle.window)

    def _latest(self, audio: Sound, rate: float) -> Tensor:
        """Features of the last `LISTENING` seconds; what is missing is silence."""
        length = round(LISTENING * SAMPLE_RATE)
        wave = np.pad(to_waveform(audio, rate), (length, 0))[-length:]
        return self.bundle.audio_encoder.encode(wave, self.bundle.window)

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
