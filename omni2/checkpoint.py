"""The released folders of gpt-omni/mini-omni2 and gpt-omni/mini-omni in this library's names.

This is the only file that knows theirs: litgpt's parameter names and its fused, interleaved query, key and value rows,
the `model_config.yaml`, openai/whisper's and openai/CLIP's archives, and the hub folder of the codec.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from omni2.bundle import Bundle, load_tokenizer
from omni2.config import ModelConfig
from omni2.encoder import AudioEncoder
from omni2.errors import CheckpointError
from omni2.model import OmniLM
from omni2.pickles import load_pickle, read_torchscript
from omni2.tokens import RELEASED, TokenLayout
from omni2.vision import VisionEncoder
from omni2.weights import Uninitialised, build, line

MINI_OMNI, MINI_OMNI2, SNAC = "gpt-omni/mini-omni", "gpt-omni/mini-omni2", "hubertsiuzdak/snac_24khz"
CONFIG, WEIGHTS, TOKENIZER = "model_config.yaml", "lit_model.pth", "tokenizer.json"
WHISPER, CLIP = "small.pt", "ViT-B-32.pt"
FILES = (CONFIG, WEIGHTS, TOKENIZER, WHISPER, CLIP)
SNAC_FILES = ("config.json", "pytorch_model.bin")
SNAC_FOLDERS = ("snac_24khz", "snac")

Fetch = Callable[[str, str], Path]

FIXED: dict[str, object] = {  # entries of model_config.yaml that this library has one answer to; others are ignored
    "padded_vocab_size": RELEASED.vocab_size,
    "text_vocab_size": RELEASED.text_block,
    "audio_vocab_size": RELEASED.audio_block,
    "norm_class_name": "RMSNorm",
    "mlp_class_name": "LLaMAMLP",
    "asr_adapter": "llamamlp",
    "rotary_percentage": 1,
    "rope_condense_ratio": 1,
    "add_qkv_bias": True,
    "bias": False,
    "lm_head_bias": False,
    "parallel_residual": False,
    "shared_attention_norm": False,
    "scale_embeddings": False,
}
RENAMED = (  # a part of the released name -> ours
    ("transformer.wte.", "embedding."),
    ("transformer.ln_f.", "norm."),
    ("transformer.h.", "blocks."),
    ("attn.attn.", "attn.qkv."),
    ("fc_1.", "gate."),
    ("fc_2.", "up."),
    ("whisper_adapter.", "audio_adapter."),
)


def missing(repo: str, file: str) -> Path:
    """The `fetch` that fetches nothing.  Raises CheckpointError with the command that does."""
    raise CheckpointError(f"{file} of {repo} is missing; get it with: hf download {repo} {file}")


def load_released(folder: str | Path) -> tuple[OmniLM, TokenLayout]:
    """Read `lit_model.pth` and `model_config.yaml` of a released folder: float32, evaluation mode, on the CPU.

    Sizes are those of the weights.  `lm_head` must equal the embedding table, to which it is tied.  Unknown entries of
    the configuration and the post adapter, which the released code switches off, are ignored.
    Raises CheckpointError: a file is missing, damaged or unsafe, or the model is of another kind.
    """
    folder = Path(folder)
    settings = _read_settings(folder / CONFIG)
    file = folder / WEIGHTS
    if not file.is_file():
        repo = _repo(settings)
        raise CheckpointError(f"{file} is missing; get it with: hf download {repo} {WEIGHTS} --local-dir {folder}")
    state = {name: value for name, value in load_pickle(file).items() if "post_adapter" not in name}
    if not all(isinstance(value, Tensor) and value.is_floating_point() for value in state.values()):
        raise CheckpointError(f"{file} holds more than weights; download {_repo(settings)} again")
    try:
        head, table = state.pop("lm_head.weight", None), state["transformer.wte.weight"]
        if head is not None and not torch.equal(head, table):
            raise CheckpointError(f"{file}: lm_head.weight is not transformer.wte.weight, to which it is tied")
        config = _sizes(settings, state)
        own = {_rename(name): _separate(name, value, config).float() for name, value in state.items()}
        return build(lambda: OmniLM(config, RELEASED), own), RELEASED
    except (LookupError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else line(error)
        raise CheckpointError(f"{file} does not fit {CONFIG} beside it: {reason}") from error


def load_released_bundle(folder: str | Path, snac_folder: str | Path | None = None, fetch: Fetch = missing) -> Bundle:
    """Load a released folder with its encoders and codec; the vision encoder only if the model has a vision adapter.

    The codec is in `snac_folder`, or in `snac_24khz` or `snac` inside `folder`.  Of what is not there, all but the
    language model itself is asked of `fetch` by hub id and file name; it returns the file's path.
    Raises CheckpointError as `load_released` and `fetch` do, and for encoders and codecs of other sizes.
    """
    folder = Path(folder)
    lm, _ = load_released(folder)
    width = lm.config.vision_adapter_dim
    repo = MINI_OMNI2 if width else MINI_OMNI

    def locate(file: str) -> Path:
        return folder / file if (folder / file).is_file() else fetch(repo, file)

    tokenizer = load_tokenizer(locate(TOKENIZER))
    state = load_pickle(locate(WHISPER)).get("model_state_dict")
    if not isinstance(state, dict):
        raise CheckpointError(f"{WHISPER} holds no model_state_dict; it is not a checkpoint of openai-whisper")
    with Uninitialised():
        audio = AudioEncoder.from_whisper({name: value for name, value in state.items() if isinstance(value, Tensor)})
        vision = VisionEncoder.from_openai(read_torchscript(locate(CLIP))) if width else None
    if audio.width != lm.config.whisper_adapter_dim or (vision and vision.proj.shape[1] != width):
        raise CheckpointError(f"{folder}: the encoders' features do not fit the adapters; download {repo} again")
    from omni2.codec.snac import SnacCodec

    codec = SnacCodec.from_folder(snac_folder or _snac_folder(folder, fetch))
    abilities = {"answer", "transcribe"} | ({"see"} if vision else set())
    return Bundle(lm, tokenizer, audio, vision, codec, "exact", frozenset(abilities), folder.resolve().name)


def _snac_folder(folder: Path, fetch: Fetch) -> Path:
    for name in SNAC_FOLDERS:
        if (folder / name).is_dir():
            return folder / name
    return {fetch(SNAC, file).parent for file in SNAC_FILES}.pop()


def _read_settings(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise CheckpointError(f"{file} is missing; get it with: hf download {MINI_OMNI2} {CONFIG}")
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise CheckpointError(f"cannot read {file}: {line(error)}") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{file} holds no settings; download it again")
    for key, value in FIXED.items():
        if settings.get(key, value) != value:
            raise CheckpointError(f"{file}: {key} is {settings[key]}, only {value} can be used")
    return settings


def _repo(settings: Mapping[str, Any]) -> str:
    return MINI_OMNI2 if settings.get("vision_adapter_dim") else MINI_OMNI


def _sizes(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> ModelConfig:
    """Sizes from the weights' shapes; what these do not tell, from the settings.  Raises KeyError, TypeError."""
    n_embd, n_head = state["transformer.wte.weight"].shape[1], settings["n_head"]
    n_layer = len({name.split(".")[2] for name in state if name.startswith("transformer.h.")})
    if settings.get("n_layer", n_layer) != n_layer:
        raise ValueError(f"{n_layer} of {settings['n_layer']} layers")
    inner = state["transformer.h.0.mlp.fc_1.weight"].shape[0]
    adapter, hears = state["whisper_adapter.fc_1.weight"].shape
    vision = state.get("vision_adapter.fc_1.weight")
    return ModelConfig(
        n_layer=n_layer,
        n_head=n_head,
        n_query_groups=settings.get("n_query_groups") or n_head,
        head_size=settings.get("head_size") or n_embd // n_head,
        n_embd=n_embd,
        intermediate_size=inner,
        block_size=settings["block_size"],
        whisper_adapter_dim=hears,
        vision_adapter_dim=0 if vision is None else vision.shape[1],
        adapter_size=0 if adapter == inner else adapter,
        norm_eps=float(settings.get("norm_eps", 1e-6)),
        rope_base=float(settings.get("rope_base", 1_000_000)),
    )


def _rename(name: str) -> str:
    for theirs, ours in RENAMED:
        name = name.replace(theirs, ours)
    return name


def _separate(name: str, value: Tensor, config: ModelConfig) -> Tensor:
    """Fused rows, for each query group its query heads, one key head, one value head → all queries, keys, values."""
    if ".attn.attn." not in name:
        return value
    queries = config.n_head // config.n_query_groups
    groups = value.reshape(config.n_query_groups, queries + 2, config.head_size, *value.shape[1:])
    parts = (groups[:, :queries], groups[:, queries : queries + 1], groups[:, queries + 1 :])
    return torch.cat([part.flatten(0, 2) for part in parts])
