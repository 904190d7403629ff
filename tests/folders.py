"""A tiny model of every part and what its parts make of the same inputs; the parts of a released folder."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn

from omni2.bundle import Bundle
from omni2.codec.istft import IstftCodec, IstftConfig
from omni2.config import ModelConfig
from omni2.encoder import AudioEncoder
from omni2.model import OmniLM
from omni2.tokens import TokenLayout
from omni2.vision import VisionEncoder

LAYOUT = TokenLayout(text_ids=50, text_block=64, codebook_size=16, audio_block=24)
SIZES = ModelConfig(
    **{"n_layer": 2, "n_head": 4, "n_query_groups": 2, "head_size": 8, "n_embd": 32, "intermediate_size": 48},
    **{"block_size": 64, "whisper_adapter_dim": 64, "vision_adapter_dim": 24, "adapter_size": 40, "audio_stride": 2},
    **{"rope_base": 10_000.0},
)
SNAC = {
    **{"sampling_rate": 24_000, "encoder_dim": 4, "encoder_rates": [2, 4, 8, 8], "latent_dim": None},
    **{"decoder_dim": 32, "decoder_rates": [8, 8, 4, 2], "attn_window_size": None, "codebook_size": 4096},
    **{"codebook_dim": 4, "vq_strides": [4, 2, 1], "noise": True, "depthwise": True},
}


def tokenizer(size: int = 40) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel()
    made.train_from_iterator(["the quick brown fox jumps over the lazy dog"], trainers.BpeTrainer(vocab_size=size))
    return made


def tiny() -> Bundle:
    torch.manual_seed(0)
    audio, codec = AudioEncoder(8, 100, 64, 1, 2), IstftCodec(IstftConfig(width=16, n_mels=20, codebook_size=16))
    vision = VisionEncoder(64, 2, 8, 16, 24, 96)
    for part in (lm := OmniLM(SIZES, LAYOUT), audio, vision, codec):
        part.eval()
    abilities = frozenset({"see", "answer", "speak"})
    return Bundle(lm, tokenizer(), audio, vision, codec, "trimmed", abilities, "tiny")


@torch.inference_mode()
def outputs(bundle: Bundle, codes: int = 16) -> dict[str, Tensor]:
    """What every part makes of the same inputs."""
    rng = torch.Generator().manual_seed(3)
    wave = torch.randn(8000, generator=rng) * 0.1
    text = torch.randint(0, 16, (1, 8, 7), generator=rng)
    lm = bundle.lm
    hidden = lm(lm.embed(text))
    made = {
        "text": lm.text_logits(hidden),
        "audio": lm.audio_logits(hidden),
        "heard": bundle.audio_encoder.encode(wave, "trimmed"),
        "codes": bundle.codec.encode(wave),
        "sound": bundle.codec.decode(torch.randint(0, codes, (3, 7), generator=rng), seed=1),
    }
    made["adapted"] = lm.adapt(made["heard"], "audio")
    if bundle.vision_encoder:
        made["seen"] = bundle.vision_encoder(torch.randn(1, 3, 16, 16, generator=rng))[0]
        made["pictured"] = lm.adapt(made["seen"], "image")
    return made


def same(one: Bundle, other: Bundle, tolerance: float = 0.0) -> None:
    left, right = outputs(one), outputs(other)
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.allclose(value, right[name], rtol=0, atol=tolerance), name
    assert one.tokenizer.to_str() == other.tokenizer.to_str()
    for field in ("window", "abilities", "name"):
        assert getattr(one, field) == getattr(other, field)
    assert (one.lm.config, one.lm.layout) == (other.lm.config, other.lm.layout)


class Holder(nn.Module):
    """Weights at dotted names, as a module that TorchScript can save."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        for child in {name.split(".")[0] for name in weights if "." in name}:
            below = {name[len(child) + 1 :]: value for name, value in weights.items() if name.startswith(f"{child}.")}
            self.add_module(child, Holder(below))
        for name, value in weights.items():
            if "." not in name:
                self.register_parameter(name, nn.Parameter(value))

    def forward(self, x: Tensor) -> Tensor:
        return x


def clip_weights(width: int = 64, out: int = 32) -> dict[str, Tensor]:
    """openai/CLIP's names: one layer, patches of 8 in pictures of 16, 5 tokens."""
    shapes = {"class_embedding": (width,), "positional_embedding": (5, width), "proj": (width, out)}
    shapes |= {"conv1.weight": (width, 3, 8, 8)}
    block = "transformer.resblocks.0"
    for name in ("ln_pre", "ln_post", f"{block}.ln_1", f"{block}.ln_2"):
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    for name, rows, columns in (
        ("attn.in_proj_", 3 * width, width),
        ("attn.out_proj.", width, width),
        ("mlp.c_fc.", 2 * width, width),
        ("mlp.c_proj.", width, 2 * width),
    ):
        shapes |= {f"{block}.{name}weight": (rows, columns), f"{block}.{name}bias": (rows,)}
    return {f"visual.{name}": torch.randn(shape).half() * 0.1 for name, shape in shapes.items()}


def snac_folder(folder: Path) -> None:
    from omni2.codec import snac  # imports the package without the warning it gives

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SNAC))
    torch.save(snac.SNAC(**SNAC).state_dict(), folder / "pytorch_model.bin")
