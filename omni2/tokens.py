"""The token layout: which row of the one embedding table means what, how layers lag, how codes make a frame.

A step has eight token layers: seven of audio (0-6) and one of text (7).  All share one table of rows: first the text
block, then one block for each audio layer.  Ids are local to their block everywhere but in the table itself; `rows`
shifts them.  Source: gpt-omni/mini-omni2 (arXiv 2410.11190, arXiv 2408.16725).
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

AUDIO_LAYERS = 7
LAYERS = AUDIO_LAYERS + 1
TEXT_LAYER = 7
FIRST_FRAME_STEP = AUDIO_LAYERS  # the step, from 0, after which the first whole frame exists
FRAME_ORDER = (0, 1, 4, 2, 3, 5, 6)  # layers in codebook order: one coarse code, two middle, four fine


@dataclass(frozen=True)
class TokenLayout:
    """Block sizes and special ids.

    `text_ids` ids of the tokenizer come first in the text block of `text_block` rows, its specials right behind;
    `codebook_size` codes come first in each audio block of `audio_block` rows, its specials right behind.
    """

    text_ids: int
    text_block: int
    codebook_size: int
    audio_block: int

    def __post_init__(self) -> None:
        if self.text_ids + 9 > self.text_block or self.codebook_size + 7 > self.audio_block:
            raise ValueError(f"no room for the special tokens in {self}")

    # text specials
    @property
    def eot(self) -> int:
        """End of text."""
        return self.text_ids

    @property
    def pad_text(self) -> int:
        """Nothing in the text layer."""
        return self.text_ids + 1

    @property
    def input_text(self) -> int:
        """The question begins."""
        return self.text_ids + 2

    @property
    def answer_text(self) -> int:
        """The answer begins."""
        return self.text_ids + 3

    @property
    def asr(self) -> int:
        """The answer is a transcription."""
        return self.text_ids + 4

    @property
    def speak(self) -> int:
        """The answer reads the question aloud.  Unused by the released weights, as the three that follow."""
        return self.text_ids + 5

    @property
    def listen(self) -> int:
        """The answer says whether the sound is an order to stop."""
        return self.text_ids + 6

    @property
    def irq(self) -> int:
        """Stop."""
        return self.text_ids + 7

    @property
    def n_irq(self) -> int:
        """Go on."""
        return self.text_ids + 8

    # audio specials, the same in each layer
    @property
    def eoa(self) -> int:
        """End of audio."""
        return self.codebook_size

    @property
    def pad_audio(self) -> int:
        """Nothing in an audio layer."""
        return self.codebook_size + 1

    @property
    def input_audio(self) -> int:
        """The question begins."""
        return self.codebook_size + 2

    @property
    def answer_audio(self) -> int:
        """The spoken answer begins."""
        return self.codebook_size + 3

    @property
    def image(self) -> int:
        """The picture begins (id 4 above the codes is the released `split`, unused)."""
        return self.codebook_size + 5

    @property
    def image_end(self) -> int:
        """The picture ends."""
        return self.codebook_size + 6

    # the table
    @property
    def vocab_size(self) -> int:
        """Rows of the embedding table."""
        return self.text_block + AUDIO_LAYERS * self.audio_block

    def offsets(self) -> Tensor:
        """What to add to the ids of each layer to get table rows: (8,) int64."""
        audio = [self.text_block + layer * self.audio_block for layer in range(AUDIO_LAYERS)]
        return torch.tensor([*audio, 0])

    def is_frame(self, codes: Sequence[int]) -> bool:
        """Whether all seven are codes of the codec, not specials."""
        return all(code < self.codebook_size for code in codes)


RELEASED = TokenLayout(text_ids=151_936, text_block=152_000, codebook_size=4096, audio_block=4160)
NANO = TokenLayout(text_ids=2048, text_block=2112, codebook_size=1024, audio_block=1088)


def delay(frames: Tensor, layout: TokenLayout, steps: int | None = None) -> Tensor:
    """Frames (n, 7) in codebook order → what the audio layers emit, (7, steps): layer j lags by j + 1, then `eoa`.

    Without `steps`, as many as the last layer needs to emit its `eoa`: n + 8.
    """
    n = frames.shape[0]
    length = n + LAYERS if steps is None else steps
    out = torch.full((AUDIO_LAYERS, length), layout.pad_audio)
    for place, layer in enumerate(FRAME_ORDER):
        column = torch.cat([frames[:, place], frames.new_tensor([layout.eoa])])[: max(length - layer - 1, 0)]
        out[layer, layer + 1 : layer + 1 + len(column)] = column
    return out


class DelayLine:
    """The inverse of `delay`, one step at a time."""

    def __init__(self) -> None:
        self._recent: deque[Sequence[int]] = deque(maxlen=AUDIO_LAYERS)
        self._steps = 0

    def push(self, codes: Sequence[int]) -> tuple[int, ...] | None:
        """The seven audio ids of one step → the frame this completes, in codebook order; None before the first."""
        self._recent.append(codes)
        self._steps += 1
        if self._steps <= FIRST_FRAME_STEP:
            return None
        return tuple(self._recent[layer][layer] for layer in FRAME_ORDER)  # frame k: layer j's id of step k + j + 1
