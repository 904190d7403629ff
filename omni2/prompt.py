"""Prompts: what stands in the eight layers before the answer begins, one builder for each kind of turn.

    spoken question   audio layers  input  feature × T  eoa  answer      text layer  input  pad × T  eot  answer
    typed question                  pad …                    answer                  input  ids …    eot  answer
    picture                         image  feature × 50  image end, then as above
    microphone                      as a spoken question      text layer ends in listen; the answer is irq or n_irq
    earlier turns                   pad …           before all else, text layer  input  ids …  eot  answer  ids …  eot

Source: gpt-omni/mini-omni2's released prompts.  A model knows no task names: what a turn asks for lies in the last
position (`reply`) and in the answer's text marker (`marker`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from omni2.errors import InputError
from omni2.model import Span
from omni2.tokens import AUDIO_LAYERS, LAYERS, TokenLayout

Reply = Literal["text", "speech"]
History = Sequence[tuple[list[int], list[int]]]  # token ids of earlier questions (none if unknown) and their answers


@dataclass(frozen=True)
class Prompt:
    """Layer-local ids (8, T) and the features that replace some of them.

    `audio_out` / `text_out` say what is decoded.  With `paired`, a second row that differs only in its last position
    (`pad` in the audio layers) decodes the text, and the first one the speech (batch-parallel decoding).
    """

    ids: Tensor
    spans: tuple[Span, ...]
    audio_out: bool
    paired: bool

    def __len__(self) -> int:
        return self.ids.shape[1]

    @property
    def written(self) -> bool:
        """Whether the answer's text is decoded apart from its speech, if there is any: it can be searched for."""
        return self.paired or not self.audio_out


class PromptBuilder:
    """Builders for one layout; `audio_stride` encoder frames make one position.

    With `text_lead` the text keeps pace with the speech and no prompt is paired (see `ModelConfig`).  `history` is what
    was said before, oldest first; a model makes use of it if it learned to.
    """

    def __init__(self, layout: TokenLayout, audio_stride: int = 1, text_lead: int = 0) -> None:
        self.layout, self.stride, self.paced = layout, audio_stride, text_lead > 0

    def question(
        self, picture: Tensor | None, heard: Tensor | None, text: list[int] | None, reply: Reply, history: History = ()
    ) -> Prompt:
        """A question spoken, typed or (about a picture) neither; see `spoken`, `typed` and `picture`."""
        if picture is not None:
            return self.picture(picture, heard, text, reply, history=history)
        if heard is not None:
            return self.spoken(heard, reply, history=history)
        return self.typed(text or [], reply, history=history)

    def spoken(self, audio: Tensor, reply: Reply = "speech", paired: bool = True, history: History = ()) -> Prompt:
        """Encoder features (T, width) of a spoken question → spoken (A1A2) or text (A1T2) answer."""
        return self._heard(audio, self.layout.answer_text, reply, paired, history)

    def transcription(self, audio: Tensor) -> Prompt:
        """Encoder features (T, width) → its words (A1T1)."""
        return self._heard(audio, self.layout.asr, "text", False)

    def listening(self, audio: Tensor) -> Prompt:
        """Encoder features (T, width) of the last seconds at the microphone → one token, `irq` (stop) or `n_irq`.

        For models that learned it; the released weights did not (arXiv 2410.11190 names the two states alone).
        """
        return self._heard(audio, self.layout.listen, "text", False)

    def typed(self, text: list[int], reply: Reply = "text", paired: bool = False, history: History = ()) -> Prompt:
        """Token ids of a typed question → text (T1T2) or spoken (T1A2) answer."""
        return self._read(text, self.layout.answer_text, reply, paired, history)

    def reading(self, text: list[int]) -> Prompt:
        """Token ids of a sentence → the same sentence aloud (T1A1), for models that learned it."""
        return self._read(text, self.layout.speak, "speech", False)

    def picture(
        self,
        image: Tensor,
        audio: Tensor | None = None,
        text: list[int] | None = None,
        reply: Reply = "speech",
        paired: bool = True,
        history: History = (),
    ) -> Prompt:
        """Picture features (50, width), alone (a caption) or with a spoken or a typed question.

        With a spoken question the prompt is the released one: the sound's features begin one position early, on
        `input`, and the text layer has neither `input` nor `eot`.  Typed questions and captions (ImageQA_T, ImageCAP)
        follow the typed prompt behind the picture.
        """
        if audio is not None and text is not None:
            raise InputError("a picture comes with a spoken or a typed question, not with both")
        c = self.layout
        shown = [c.image, *[c.pad_audio] * image.shape[0], c.image_end]
        spans = [Span(1, image, "image")]
        if audio is not None:
            n = -(-audio.shape[0] // self.stride)
            spans.append(Span(len(shown), audio, "audio"))
            audio_row = [*shown, c.input_audio, *[c.pad_audio] * n, c.eoa]
            text_row = [c.pad_text] * len(audio_row)
        else:
            text_row = [*[c.pad_text] * len(shown), c.input_text, *(text or []), c.eot]
            audio_row = [*shown, *[c.pad_audio] * (len(text_row) - len(shown))]
        return self._finish(audio_row, text_row, c.answer_text, reply, paired, tuple(spans), history)

    def _heard(self, audio: Tensor, marker: int, reply: Reply, paired: bool, history: History = ()) -> Prompt:
        c, n = self.layout, -(-audio.shape[0] // self.stride)
        audio_row = [c.input_audio, *[c.pad_audio] * n, c.eoa]
        text_row = [c.input_text, *[c.pad_text] * n, c.eot]
        return self._finish(audio_row, text_row, marker, reply, paired, (Span(1, audio, "audio"),), history)

    def _read(self, text: list[int], marker: int, reply: Reply, paired: bool, history: History = ()) -> Prompt:
        text_row = [self.layout.input_text, *text, self.layout.eot]
        return self._finish([self.layout.pad_audio] * len(text_row), text_row, marker, reply, paired, (), history)

    def _past(self, question: list[int], answer: list[int]) -> list[int]:
        """The text layer of an earlier turn."""
        asked = [self.layout.input_text, *question, self.layout.eot] if question else []
        return [*asked, self.layout.answer_text, *answer, self.layout.eot]

    def _finish(
        self,
        audio_row: list[int],
        text_row: list[int],
        marker: int,
        reply: Reply,
        paired: bool,
        spans: tuple[Span, ...],
        history: History,
    ) -> Prompt:
        speech = reply == "speech"
        past = [token for question, answer in history for token in self._past(question, answer)]
        last = self.layout.answer_audio if speech else self.layout.pad_audio
        audio_row = [*[self.layout.pad_audio] * len(past), *audio_row, last]
        ids = torch.tensor([audio_row] * AUDIO_LAYERS + [[*past, *text_row, marker]])
        spans = tuple(replace(span, start=span.start + len(past)) for span in spans)
        assert ids.shape[0] == LAYERS
        return Prompt(ids, spans, speech, speech and paired and not self.paced)
