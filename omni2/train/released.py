"""A new model of the released shape: Qwen2's weights in the language model, Whisper, CLIP and SNAC around it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from omni2 import hub
from omni2.bundle import Bundle, load_tokenizer
from omni2.checkpoint import CLIP, MINI_OMNI2, SNAC, SNAC_FILES, WHISPER
from omni2.codec.snac import SnacCodec
from omni2.config import ModelConfig
from omni2.encoder import AudioEncoder
from omni2.errors import CheckpointError
from omni2.model import OmniLM
from omni2.pickles import load_pickle, read_torchscript
from omni2.tokens import RELEASED, TokenLayout
from omni2.vision import VisionEncoder
from omni2.weights import Uninitialised, line

QWEN2 = "Qwen/Qwen2-0.5B"
QWEN2_FILES = ("config.json", "model.safetensors", "tokenizer.json")
CONTEXT = 2048  # positions: `block_size` of the released models
RENAMED = (  # a part of Qwen2's name -> ours
    ("layers.", "blocks."),
    ("input_layernorm.", "norm_1."),
    ("post_attention_layernorm.", "norm_2."),
    ("self_attn.o_proj.", "attn.proj."),
    ("mlp.gate_proj.", "mlp.gate."),
    ("mlp.up_proj.", "mlp.up."),
    ("mlp.down_proj.", "mlp.proj."),
    ("embed_tokens.", "embedding."),
)


def begin(
    qwen2: str = QWEN2,
    encoders: str = MINI_OMNI2,
    snac: str = SNAC,
    layout: TokenLayout = RELEASED,
    name: str = "mini-omni2",
) -> Bundle:
    """A model before its first stage, from hub ids or folders; `encoders` holds `small.pt` and `ViT-B-32.pt`.

    It answers nothing yet.  Raises CheckpointError: files missing and not to be had, damaged, or of other models.
    """
    with Uninitialised():
        state = load_pickle(locate(encoders, WHISPER)).get("model_state_dict")
        if not isinstance(state, dict):
            raise CheckpointError(f"{WHISPER} holds no model_state_dict; it is not a checkpoint of openai-whisper")
        audio = AudioEncoder.from_whisper({key: value for key, value in state.items() if isinstance(value, Tensor)})
        vision = VisionEncoder.from_openai(read_torchscript(locate(encoders, CLIP)))
    config, weights, tokenizer = (locate(qwen2, file) for file in QWEN2_FILES)
    lm = grow(config, weights, layout, audio.width, vision.proj.shape[1])
    codec = SnacCodec.from_folder({locate(snac, file).parent for file in SNAC_FILES}.pop())
    return Bundle(lm, load_tokenizer(tokenizer), audio, vision, codec, "exact", frozenset(), name)


def locate(name: str, file: str) -> Path:
    """A file of a folder or a hub id.  Raises CheckpointError when it cannot be had."""
    if hub.is_hub_id(name):
        return hub.fetch(name, file)
    path = Path(name) / file
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    return path


def grow(config: Path, weights: Path, layout: TokenLayout, hears: int, sees: int, seed: int = 0) -> OmniLM:
    """A language model with Qwen2's weights; `hears` and `sees` are the widths of the encoders' features.

    Qwen2's rows of the table keep their ids.  New rows, for special tokens and codes, are drawn about the mean row with
    the deviation of all; the adapters start as torch makes them.
    Raises CheckpointError: not Qwen2's weights, or more tokens than the layout has room for.
    """
    settings = json.loads(config.read_text(encoding="utf-8"))
    try:
        state = load_file(weights)
        heads, width = settings["num_attention_heads"], settings["hidden_size"]
        sizes = ModelConfig(
            n_layer=settings["num_hidden_layers"],
            n_head=heads,
            n_query_groups=settings["num_key_value_heads"],
            head_size=width // heads,
            n_embd=width,
            intermediate_size=settings["intermediate_size"],
            block_size=CONTEXT,
            whisper_adapter_dim=hears,
            vision_adapter_dim=sees,
            norm_eps=settings["rms_norm_eps"],
            rope_base=_rope_base(settings),
        )
        own = _ours({name.removeprefix("model."): value.float() for name, value in state.items()}, sizes.n_layer)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            lm = OmniLM(sizes, layout)
            own["embedding.weight"] = _more_rows(own["embedding.weight"], layout)
            missing, unknown = lm.load_state_dict(own, strict=False)
    except (OSError, SafetensorError, LookupError, ValueError, TypeError, RuntimeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else line(error)
        raise CheckpointError(f"{weights} holds no Qwen2 that can be used: {reason}") from error
    if unknown or any("_adapter." not in name for name in missing):
        raise CheckpointError(f"{weights} holds no Qwen2: {[*unknown, *missing][0]} does not fit")
    return lm


def _rope_base(settings: Mapping[str, Any]) -> float:
    """Transformers 5 moved it from the top of the settings."""
    return float(settings.get("rope_theta") or settings["rope_parameters"]["rope_theta"])


def _ours(state: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Qwen2's names → ours; queries, keys and values become one matrix; the tied head is left out."""
    own = {}
    for name, value in state.items():
        if name.startswith("lm_head.") or ("self_attn" in name and "o_proj" not in name):
            continue
        for theirs, ours in RENAMED:
            name = name.replace(theirs, ours)
        own[name] = value
    for layer in range(layers):
        for kind in ("weight", "bias"):
            parts = [state[f"layers.{layer}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            own[f"blocks.{layer}.attn.qkv.{kind}"] = torch.cat(parts)
    return own


def _more_rows(table: Tensor, layout: TokenLayout) -> Tensor:
    """Qwen2's table with the rows of `layout` behind it."""
    known = table[: layout.text_ids]
    if len(known) < layout.text_ids:
        raise ValueError(f"{len(known)} tokens, not {layout.text_ids}")
    mean, deviation = known.mean(0), known.std(0)
    new = mean + deviation * torch.randn(layout.vocab_size - len(known), table.shape[1])
    return torch.cat([known, new])
