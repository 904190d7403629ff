"""Weights and inputs of the parity fixtures from a seed: the released names and token layout at toy size.

`parity_seed11.json` holds what the released code of Mini-Omni2 answered for seed 11.
"""

import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor

SETTINGS = {  # the keys of model_config.yaml
    **{"name": "parity", "block_size": 2048, "vocab_size": 50254, "padded_vocab_size": 181120, "padding_multiple": 512},
    **{"n_layer": 2, "n_head": 4, "n_query_groups": 2, "head_size": 16, "n_embd": 64, "intermediate_size": 128},
    **{"rotary_percentage": 1.0, "rope_base": 1000000, "rope_condense_ratio": 1, "parallel_residual": False},
    **{"bias": False, "add_qkv_bias": True, "lm_head_bias": False, "norm_class_name": "RMSNorm", "norm_eps": 1e-6},
    **{"mlp_class_name": "LLaMAMLP", "shared_attention_norm": False, "scale_embeddings": False},
    **{"tie_word_embeddings": True, "post_adapter": False, "post_adapter_layers": 6, "asr_adapter": "llamamlp"},
    **{"text_vocab_size": 152000, "audio_vocab_size": 4160, "cat_audio_vocab_size": 29120},
    **{"whisper_adapter_dim": 768, "vision_adapter_dim": 512},
}


def shapes(whisper: int, vision: int) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter of lit_model.pth but `lm_head.weight`, which repeats the table."""
    width, inner, head = 64, 128, 16
    found: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (181_120, width),
        "transformer.ln_f.weight": (width,),
    }
    for layer in range(2):
        block = f"transformer.h.{layer}"
        found |= {f"{block}.norm_1.weight": (width,), f"{block}.norm_2.weight": (width,)}
        found |= {f"{block}.attn.attn.weight": (8 * head, width), f"{block}.attn.attn.bias": (8 * head,)}
        found |= {f"{block}.attn.proj.weight": (width, 4 * head), f"{block}.mlp.proj.weight": (width, inner)}
        found |= {f"{block}.mlp.fc_1.weight": (inner, width), f"{block}.mlp.fc_2.weight": (inner, width)}
    for name, features in (("whisper_adapter", whisper), ("vision_adapter", vision)):
        if features:
            found |= {f"{name}.fc_1.weight": (inner, features), f"{name}.fc_2.weight": (inner, features)}
            found[f"{name}.proj.weight"] = (width, inner)
    return found


def normal(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers that depend on seed and name alone, float64."""
    return np.random.RandomState((seed * 1_000_003 + zlib.crc32(name.encode())) % 2**32).standard_normal(shape)


@lru_cache
def weight(seed: int, name: str, shape: tuple[int, ...]) -> Tensor:
    """One parameter, float32: the table as drawn, norms near one, the rest scaled by 2 / sqrt(last axis)."""
    x = normal(seed, name, shape)
    if "norm" in name or "ln_f" in name:
        x = 1 + 0.1 * x
    elif name != "transformer.wte.weight":
        x = x * (2 / shape[-1] ** 0.5)
    return torch.from_numpy(x.astype(np.float32))


def state_dict(seed: int, whisper: int = 768, vision: int = 512) -> dict[str, Tensor]:
    """The weights of lit_model.pth; `whisper` and `vision` are the widths of the features, 0 for no pictures."""
    state = {name: weight(seed, name, shape) for name, shape in shapes(whisper, vision).items()}
    return {"lm_head.weight": state["transformer.wte.weight"], **state}


def inputs(seed: int, frames: int = 37) -> tuple[Tensor, Tensor, list[int]]:
    """Features of a sound (frames, 768) and a picture (50, 512), and the token ids of a typed question."""
    sound, picture = normal(seed, "audio", (frames, 768)), normal(seed, "image", (50, 512))
    text: list[int] = np.random.RandomState(seed).randint(0, 151_000, 9).tolist()
    return torch.from_numpy(sound).float(), torch.from_numpy(picture).float(), text


def write(folder: Path, state: dict[str, Tensor], **settings: object) -> Path:
    """Make the language model's part of a released folder."""
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / "lit_model.pth")
    (folder / "model_config.yaml").write_text(yaml.safe_dump(SETTINGS | settings))
    return folder
