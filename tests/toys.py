"""Tiny random models, whole enough to be asked, quick enough to be asked often.

Answers of random weights never end, and are full of specials where codes should be, so some tokens are made likelier:
every text embedding has the same large first entry, which the residual stream carries to the heads, and there the rows
differ in it.  The other entries are negated on the way: a token makes itself unlikely, and greedy answers move on.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from omni2.bundle import Bundle
from omni2.codec.istft import IstftCodec, IstftConfig
from omni2.codec.stream import to_pcm16
from omni2.config import ModelConfig, Pick, Sampling
from omni2.encoder import AudioEncoder
from omni2.engine import Engine, Step
from omni2.model import OmniLM
from omni2.omni import OmniModel
from omni2.prompt import Prompt, PromptBuilder
from omni2.tokens import AUDIO_LAYERS, TEXT_LAYER, TokenLayout
from omni2.vision import VisionEncoder

LAYOUT = TokenLayout(text_ids=300, text_block=312, codebook_size=24, audio_block=32)
ABILITIES = frozenset({"answer", "transcribe", "speak", "see"})
HEARD, SEEN = 16, 12  # widths of the encoders' features
DRAWN = Sampling(Pick(1.0), Pick(1.0), seed=7)
STEPS = 120  # more than any toy answer takes


def tiny_lm(
    layout: TokenLayout = LAYOUT,
    *,
    seed: int = 7,
    block_size: int = 64,
    stride: int = 1,
    eot: float = 3.0,
    eoa: float = 0.2,
) -> OmniLM:
    """A language model of two layers, width 32, float64, so that batches of any make-up give the same tokens."""
    config = ModelConfig(
        n_layer=2,
        n_head=4,
        n_query_groups=2,
        head_size=8,
        n_embd=32,
        intermediate_size=48,
        block_size=block_size,
        whisper_adapter_dim=HEARD,
        vision_adapter_dim=SEEN,
        audio_stride=stride,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        lm = OmniLM(config, layout)
        with torch.no_grad():
            for weight in lm.parameters():
                if weight.ndim == 2:
                    weight.normal_(std=weight.shape[1] ** -0.5)
            lm.norm.weight.copy_(torch.tensor([4.0, *[-1.0] * 31]))
            table = lm.embedding.weight.normal_(std=0.5)
            text, audio = table[: layout.text_block], table[layout.text_block :].unflatten(0, (AUDIO_LAYERS, -1))
            text *= 3
            text[:, 0] = 8.0
            text[layout.eot, 0] += eot
            audio[:, :, 0] = 0.0
            audio[:, layout.codebook_size :, 0] = -0.6
            audio[-1, layout.eoa, 0] = eoa
    return lm.double().eval()


@cache
def tiny_tokenizer() -> Tokenizer:
    """Byte-level BPE: all bytes and a few merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["what is the capital of france", "the answer is there, says the cat"], trainer)
    return tokenizer


def tiny_codec(seed: int = 0) -> IstftCodec:
    """Frames of 256 samples."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        codec = IstftCodec(
            IstftConfig(
                hop=32,
                n_fft=128,
                n_mels=8,
                width=16,
                encoder_blocks=1,
                decoder_blocks=7,
                codebook_size=LAYOUT.codebook_size,
                codebook_width=4,
            )
        )
    return codec.eval()


def tiny_bundle(*, seed: int = 0, abilities: frozenset[str] = ABILITIES, block_size: int = 64) -> Bundle:
    """All parts of a model, in float32."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = AudioEncoder(80, 1500, HEARD, 2, 1)
        vision = VisionEncoder(width=16, layers=1, patch=8, size=16, out_width=SEEN, mlp_width=16)
    lm = tiny_lm(seed=seed, block_size=block_size).float()
    return Bundle(
        lm, tiny_tokenizer(), encoder.eval(), vision.eval(), tiny_codec(seed), "trimmed", abilities, "the toy"
    )


def tiny_model(*, slots: int = 8, abilities: frozenset[str] = ABILITIES, block_size: int = 64) -> OmniModel:
    """A model that can do everything."""
    return OmniModel(tiny_bundle(abilities=abilities, block_size=block_size), slots=slots)


def tone(seconds: float = 0.3, hertz: float = 440.0) -> npt.NDArray[np.float32]:
    """A sound: (samples,) float32 at 16 kHz."""
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(16_000 * seconds)) / 16_000)).astype(np.float32)


def write_tone(path: Path, seconds: float = 0.3, hertz: float = 440.0) -> Path:
    """A sound file, 16-bit wav at 16 kHz."""
    import wave

    with wave.open(str(path), "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(16_000)
        wav.writeframes(to_pcm16(tone(seconds, hertz)))
    return path


def photo(seed: int = 0) -> npt.NDArray[np.uint8]:
    """A picture of noise: (24, 20, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (24, 20, 3), dtype=np.uint8)


def features(n: int, width: int = HEARD, seed: int = 0) -> Tensor:
    """What an encoder might say: (n, width)."""
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def prompts() -> dict[str, Prompt]:
    """One of each kind."""
    build = PromptBuilder(LAYOUT)
    return {
        "spoken": build.spoken(features(9)),
        "spoken, one row": build.spoken(features(5, seed=1), paired=False),
        "spoken, text": build.spoken(features(7, seed=2), "text"),
        "transcription": build.transcription(features(11, seed=3)),
        "typed": build.typed([4, 5, 6]),
        "typed, speech": build.typed([7, 8], "speech"),
        "typed, speech, two rows": build.typed([9, 3, 1], "speech", paired=True),
        "reading": build.reading([20, 21]),
        "picture": build.picture(features(5, SEEN, 4)),
        "picture and speech": build.picture(features(5, SEEN, 5), features(6, seed=6)),
        "picture and text": build.picture(features(5, SEEN, 6), text=[30, 31], reply="text"),
    }


@torch.no_grad()
def greedy_reference(lm: OmniLM, prompt: Prompt, steps: int = STEPS) -> Iterator[Step]:
    """The greedy steps of `prompt`, without cache, batch or engine: each from a pass over all that came before."""
    layout = lm.layout
    speech, text = prompt.ids[None].clone(), prompt.ids[None].clone()
    if prompt.paired:
        text[0, :AUDIO_LAYERS, -1] = layout.pad_audio
    ended = False
    limit = lm.config.block_size
    for _ in range(min(steps, limit - len(prompt))):
        codes = word = None
        if prompt.audio_out:
            hidden = lm(lm.embed(speech, [prompt.spans]))[0, -1]
            codes = tuple(lm.audio_logits(hidden).argmax(-1).tolist())
        if not ended:
            row = text if prompt.paired or not prompt.audio_out else speech
            word = int(lm.text_logits(lm(lm.embed(row, [prompt.spans]))[0, -1]).argmax())
            ended = word == layout.eot
        fed = layout.pad_text if ended or word is None else word
        nothing = [layout.pad_audio] * AUDIO_LAYERS
        speech = torch.cat([speech, torch.tensor([[*(codes or nothing), fed]])[..., None]], -1)
        text = torch.cat([text, torch.tensor([[*nothing, fed]])[..., None]], -1)
        assert text[0, TEXT_LAYER, -1] == fed
        over = ended if codes is None else codes[-1] == layout.eoa
        last = speech.shape[2] >= limit
        yield Step(codes, word, "end" if over else "length" if last else None)
        if over:
            return


def run(engine: Engine, prompt: Prompt, sampling: Sampling | None = None) -> list[Step]:
    """All steps of one prompt."""
    return list(engine.submit(prompt, sampling))
