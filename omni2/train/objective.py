"""What the language model is trained to reduce: nats of the text, of each audio layer, and of what it heard."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import pad_sequence

from omni2.model import OmniLM, Span
from omni2.tokens import AUDIO_LAYERS, TEXT_LAYER
from omni2.train.samples import IGNORE, Batch
from omni2.train.stages import Stage

AUDIO = tuple(f"audio_{layer}" for layer in range(AUDIO_LAYERS))
PARTS = ("text", *AUDIO, "heard")


class Objective(nn.Module):
    """The losses of a batch, as the one module that processes share."""

    def __init__(self, lm: OmniLM) -> None:
        super().__init__()
        self.lm = lm

    def forward(self, batch: Batch) -> Tensor:
        """Sums of nats over the batch, (9,) float32 in the order of `PARTS`; divide by `counts` for means."""
        lm, device = self.lm, self.lm.embedding.weight.device
        ids, targets = batch.ids.to(device), batch.targets.to(device)
        tapped: list[Tensor] = []
        hook = lm.blocks[len(lm.blocks) // 2 - 1].register_forward_hook(lambda _, __, out: tapped.append(out))
        with _attention():
            hidden = lm(lm.embed(ids, [s.prompt.spans for s in batch.samples]))
        hook.remove()
        text_targets, audio_targets = targets[:, TEXT_LAYER], targets[:, :AUDIO_LAYERS].transpose(1, 2)
        says, sounds = text_targets != IGNORE, audio_targets[..., 0] != IGNORE
        text = F.cross_entropy(lm.text_logits(hidden[says]).float(), text_targets[says], reduction="sum")
        audio = text.new_zeros(AUDIO_LAYERS)
        if batch.counts[1]:
            logits, aims = lm.audio_logits(hidden[sounds]).float(), audio_targets[sounds]
            nats = F.cross_entropy(logits.flatten(0, 1), aims.flatten(), reduction="none")
            audio = nats.view(-1, AUDIO_LAYERS).sum(0)
        return torch.cat([(text + self._idle())[None], audio, self._heard(tapped[0], batch)[None]])

    def _idle(self) -> Tensor:
        """Nothing, from every adapter that learns: sharded processes sum gradients up only if all have the same ones,
        also where the batch of one has no sound or picture."""
        nothing = self.lm.embedding.weight.new_zeros(())
        for name, weight in self.lm.named_parameters():
            if "adapter" in name and weight.requires_grad:
                nothing = nothing + 0 * weight.sum()
        return nothing

    def _heard(self, states: Tensor, batch: Batch) -> Tensor:
        """Connectionist temporal classification (Graves et al., 2006) of the words in the prompts' sound.

        `states` (B, T, n_embd) are the hidden ones half-way up: what was said has to stand there in the terms of the
        text head, so that the upper half can answer speech as it answers text.  The blank is the text layer's `pad`.
        Nats a token, summed over the sounds.
        """
        lm = self.lm
        spoken = [(row, s, sound(s.prompt.spans)) for row, s in enumerate(batch.samples) if s.heard]
        if not spoken:
            return states.new_zeros((), dtype=torch.float32)
        lengths = [-(-span.features.shape[0] // lm.config.audio_stride) for _, _, span in spoken]
        pieces = [states[row, span.start :][:n] for (row, _, span), n in zip(spoken, lengths, strict=True)]
        said = torch.log_softmax(lm.text_logits(lm.norm(pad_sequence(pieces))).float(), -1)
        heard = torch.tensor([token for _, s, _ in spoken for token in s.heard], device=said.device)
        counts = torch.tensor([len(s.heard) for _, s, _ in spoken])
        blank, frames = lm.layout.pad_text, torch.tensor(lengths)
        nats = F.ctc_loss(said, heard, frames, counts, blank, reduction="none", zero_infinity=True)
        return (nats / counts.to(nats)).sum()


def _attention() -> AbstractContextManager[None]:
    """Plain products for attention in bfloat16 on a CPU: a tenth of a step less than with the fused kernel there."""
    return sdpa_kernel(SDPBackend.MATH) if torch.is_autocast_enabled("cpu") else nullcontext()


def sound(spans: tuple[Span, ...]) -> Span:
    """The one span of sound in a prompt that has sound."""
    return next(span for span in spans if span.modality == "audio")


def per_part(counts: Tensor) -> Tensor:
    """Counts of text tokens, audio steps and sounds (3,) → what each of `PARTS` is divided by, (9,); at least one."""
    return counts.clamp(min=1).repeat_interleave(torch.tensor([1, AUDIO_LAYERS, 1], device=counts.device))


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
