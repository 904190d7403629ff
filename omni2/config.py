"""Sizes of a model and choices of a request: frozen, checked where they are made."""

from dataclasses import dataclass, replace

from omni2.errors import InputError


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of an `OmniLM`; the names are those of the released `model_config.yaml`.

    `audio_stride` neighbouring encoder frames make one position of the prompt (1 in the released models).
    `text_lead` is how many steps a word is written before its sound begins, in models whose text keeps pace with the
    speech, in one row; with 0 the text runs ahead, a token a step, in a row of its own (the released models).
    `vision_adapter_dim` is 0 for a model without pictures.
    """

    n_layer: int
    n_head: int
    n_query_groups: int
    head_size: int
    n_embd: int
    intermediate_size: int
    block_size: int
    whisper_adapter_dim: int
    vision_adapter_dim: int = 0
    adapter_size: int = 0
    audio_stride: int = 1
    text_lead: int = 0
    norm_eps: float = 1e-6
    rope_base: float = 1_000_000.0

    def __post_init__(self) -> None:
        if (
            self.n_head % self.n_query_groups
            or self.head_size % 2
            or min(self.n_layer, self.audio_stride, self.text_lead + 1) < 1
        ):
            raise ValueError(f"impossible sizes: {self}")


@dataclass(frozen=True)
class Pick:
    """How one token is drawn from logits; temperature 0 is greedy.  top_k 0 and top_p 1 cut nothing."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 10:
            raise InputError(f"temperature is 0 (greedy) to 10, not {self.temperature}")
        if self.top_k < 0:
            raise InputError(f"top_k is 0 (off) or more, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is above 0 and at most 1 (off), not {self.top_p}")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always drawn."""
        return self.temperature == 0 or self.top_k == 1


@dataclass(frozen=True)
class Seek:
    """How the likeliest text is searched for (see `omni2.search`); one beam takes the likeliest token at each step.

    With a `cascade` above 0 a spoken question is written down first, and a text counts by the logarithm of how likely
    it is as an answer to the sound, and `cascade` times that of how likely as one to what was written.  Not so where
    the best answer to the sound alone is as likely as `sure` (1: never), nor behind earlier turns: "And of Italy?" has
    no second word to make up for one misheard.
    """

    beams: int = 1
    cascade: float = 0.0
    sure: float = 1.0

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise InputError(f"beams are 1 (no search) or more, not {self.beams}")
        if not 0 <= self.cascade <= 10:
            raise InputError(f"the weight of a cascade is 0 (off) to 10, not {self.cascade}")
        if not 0 <= self.sure <= 1:
            raise InputError(f"sure is a probability, 0 to 1 (never), not {self.sure}")


GREEDY = Seek()
ROWS = 4  # of a batch that an answer takes at most, with two beams and a cascade; two without


@dataclass(frozen=True)
class Sampling:
    """Choices of one request: text and audio layers apart; greedy by default, as in the released models.

    `max_tokens` counts the prompt in; None is the model's context.  The same `seed` gives the same answer.
    What is to `seek` is told, written and spoken, when it is found; None is what the model was made for, and nothing
    where the text is drawn.
    """

    text: Pick = Pick()
    audio: Pick = Pick()
    seed: int = 0
    max_tokens: int | None = None
    seek: Seek | None = None

    def __post_init__(self) -> None:
        if self.seek not in (None, GREEDY) and not self.text.greedy:
            raise InputError("the text is to be drawn, and the likeliest sought; take temperature 0, or no search")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InputError(f"max_tokens is 1 or more, not {self.max_tokens}")

    def settled(self, own: Seek) -> "Sampling":
        """The same, with what is to `seek` if that was left to the model, which has its `own`."""
        return self if self.seek is not None else replace(self, seek=own if self.text.greedy else GREEDY)
