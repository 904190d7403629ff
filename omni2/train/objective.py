"""What the language model is trained to reduce: nats of the text, of each audio layer, and of what it heard."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from omni2.encoder import AudioEncoder
from omni2.model import OmniLM, Placed
from omni2.tokens import AUDIO_LAYERS
from omni2.train.ear import encoded
from omni2.train.samples import Batch, Heard
from omni2.train.stages import Stage

AUDIO = tuple(f"audio_{layer}" for layer in range(AUDIO_LAYERS))
PARTS = ("text", *AUDIO, "heard")


class Objective(nn.Module):
    """The losses of a batch, as the one module that processes share; with an `ear` the batch holds mels (see there)."""

    def __init__(self, lm: OmniLM, ear: AudioEncoder | None = None) -> None:
        super().__init__()
        self.lm, self.ear = lm, ear

    def forward(self, batch: Batch) -> Tensor:
        """Sums of nats over the batch, (9,) float32 in the order of `PARTS`; divide by `counts` for means."""
        lm = self.lm
        batch = batch.to(lm.embedding.weight.device)
        tapped: list[Tensor] = []
        hook = lm.blocks[len(lm.blocks) // 2 - 1].register_forward_hook(lambda _, __, out: tapped.append(out))
        with _attention():
            hidden = lm(lm.put(batch.ids, [self._encoded(placed) for placed in batch.features])).flatten(0, 1)
        hook.remove()
        text = F.cross_entropy(lm.text_logits(hidden[batch.text.at]).float(), batch.text.what, reduction="sum")
        audio = text.new_zeros(AUDIO_LAYERS)
        if len(batch.audio.at):
            logits = lm.audio_logits(hidden[batch.audio.at]).float()
            nats = F.cross_entropy(logits.flatten(0, 1), batch.audio.what.flatten(), reduction="none")
            audio = nats.view(-1, AUDIO_LAYERS).sum(0)
        heard = self._heard(tapped[0].flatten(0, 1), batch.heard)
        return torch.cat([(text + self._idle())[None], audio, heard[None]])

    def _encoded(self, placed: Placed) -> Placed:
        """Features that stand for themselves, or are made of mels here."""
        if self.ear is None or placed.modality != "audio":
            return placed
        return encoded(self.ear, placed, self.lm.config.audio_stride)

    def _idle(self) -> Tensor:
        """Nothing, from every adapter that learns: sharded processes sum gradients up only if all have the same ones,
        also where the batch of one has no sound or picture."""
        nothing = self.lm.embedding.weight.new_zeros(())
        for name, weight in self.lm.named_parameters():
            if "adapter" in name and weight.requires_grad:
                nothing = nothing + 0 * weight.sum()
        return nothing

    def _heard(self, states: Tensor, heard: Heard) -> Tensor:
        """Connectionist temporal classification (Graves et al., 2006) of the words in the prompts' sound.

        `states` (positions, n_embd) are the hidden ones half-way up: what was said has to stand there in the terms of
        the text head, so that the upper half can answer speech as it answers text.  The blank is the text layer's
        `pad`.  Nats a token, summed over the sounds.
        """
        lm = self.lm
        if not heard.counts:
            return states.new_zeros((), dtype=torch.float32)
        said = torch.log_softmax(lm.text_logits(lm.norm(states[heard.at])).float(), -1)
        frames, counts = torch.tensor(heard.lengths), torch.tensor(heard.counts)
        blank = lm.layout.pad_text
        nats = F.ctc_loss(said, heard.ids, frames, counts, blank, reduction="none", zero_infinity=True)
        return (nats / counts.to(nats)).sum()


def _attention() -> AbstractContextManager[None]:
    """Plain products for attention in bfloat16 on a CPU: a tenth of a step less than with the fused kernel there."""
    return sdpa_kernel(SDPBackend.MATH) if torch.is_autocast_enabled("cpu") else nullcontext()


def per_part(counts: Tensor) -> Tensor:
    """Counts of text tokens, audio steps and sounds (3,) → what each of `PARTS` is divided by, (9,); at least one."""
    words, steps, sounds = counts.clamp(min=1)
    return torch.stack([words, *[steps] * AUDIO_LAYERS, sounds])


def weights(stage: Stage) -> Tensor:
    """What each of `PARTS` counts in the loss, (9,): text and the mean of the audio layers alike."""
    return torch.tensor([1.0, *[1 / AUDIO_LAYERS] * AUDIO_LAYERS, stage.heard])


def named(means: Tensor) -> dict[str, float]:
    """Means (9,) by name, and their mean over the audio layers as "audio"."""
    values = dict(zip(PARTS, map(float, means.tolist()), strict=True))
    return values | {"audio": sum(values[name] for name in AUDIO) / AUDIO_LAYERS}


def losses(lm: OmniLM, batch: Batch) -> dict[str, Tensor]:
    """Nats a token of one batch: "text", "audio" (its seven layers' mean) and "heard"; zero where there is none."""
    means = Objective(lm)(batch) / per_part(batch.counts)
    return {"text": means[0], "audio": means[1:-1].mean(), "heard": means[-1]}
