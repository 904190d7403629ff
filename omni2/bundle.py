"""Own model folders: everything a model needs, saved and loaded.

    config.json                 format, name, abilities, window, seek, sizes of every part
    model.safetensors           language model and adapters
    audio_encoder.safetensors   Whisper encoder
    vision_encoder.safetensors  CLIP vision tower or EfficientNet, only for models that see
    codec.safetensors           codec
    tokenizer.json              Hugging Face `tokenizers` format

Weights are stored as float16, float32 or (see `omni2.weights`) int8, and loaded as float32; nothing in a folder is run.
"""

import dataclasses
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import nn
from torch.nn.utils import parametrize

from omni2.codec import Codec
from omni2.codec.istft import IstftCodec, IstftConfig
from omni2.config import GREEDY, ModelConfig, Seek
from omni2.efficientnet import EfficientNet
from omni2.encoder import AudioEncoder, Encoder, Window
from omni2.errors import CheckpointError
from omni2.model import LanguageModel, OmniLM
from omni2.tokens import TokenLayout
from omni2.vision import VisionEncoder
from omni2.weights import line, read_into, require, write

FORMAT = 1
CONFIG, MODEL, CODEC, TOKENIZER = "config.json", "model.safetensors", "codec.safetensors", "tokenizer.json"
AUDIO_ENCODER, VISION_ENCODER = "audio_encoder.safetensors", "vision_encoder.safetensors"
ENCODERS = (AUDIO_ENCODER, VISION_ENCODER)
FILES = (CONFIG, MODEL, AUDIO_ENCODER, VISION_ENCODER, CODEC, TOKENIZER)
POSITIONS = "positional_embedding"  # of the audio encoder: stored only where it differs from the exact sinusoids

T = TypeVar("T")
Config = dict[str, Any]


@dataclass(frozen=True)
class Bundle:
    """A model with all its parts, on the CPU, in evaluation mode, in float32 unless `Parts` made them otherwise.

    `window` is the audio encoder's window the model was trained on; `abilities` what it learned ("answer", "see", …);
    `seek` how it had best search for the text of an answer (see `Sampling`).
    """

    lm: LanguageModel
    tokenizer: Tokenizer
    audio_encoder: Encoder
    vision_encoder: VisionEncoder | EfficientNet | None
    codec: Codec
    window: Window
    abilities: frozenset[str]
    name: str
    seek: Seek = GREEDY

    def trainable(self) -> OmniLM:
        """The language model in torch.  Raises CheckpointError if it is a compiled one."""
        if not isinstance(self.lm, OmniLM):
            raise CheckpointError('compiled weights cannot be changed or saved; load the model with weights="float32"')
        return self.lm


def save(bundle: Bundle, folder: str | Path, dtype: torch.dtype = torch.float16, compact: Collection[str] = ()) -> None:
    """Write `bundle` to `folder` (made if missing), weights as `dtype`, float16 or float32.

    The files named in `compact`, `ENCODERS` for instance, take half as much as in float16: their matrices and
    convolutions are stored in int8.  Files are replaced one by one when complete, so a model may be saved over the
    folder it was loaded from.
    Raises CheckpointError: the folder cannot be written, a name in `compact` that is no file of weights, or weights
    that float16 cannot hold.
    """
    if dtype not in (torch.float16, torch.float32):
        raise CheckpointError(f"weights are saved as float16 or float32, not {dtype}")
    folder = Path(folder)
    codec, codec_config = _codec_parts(bundle.codec)
    lm, vision, encoder = bundle.trainable(), bundle.vision_encoder, bundle.audio_encoder
    if not isinstance(encoder, AudioEncoder):
        raise CheckpointError(f"a {type(encoder).__name__} cannot be saved, only the encoder in torch")
    exact = AudioEncoder(1, encoder.n_ctx, encoder.width, 1, 0).positional_embedding
    left_out = {POSITIONS} if torch.equal(encoder.positional_embedding.cpu(), exact) else ()
    config = {
        "format": FORMAT,
        "name": bundle.name,
        "abilities": sorted(bundle.abilities),
        "window": bundle.window,
        "seek": dataclasses.asdict(bundle.seek),
        "model": dataclasses.asdict(lm.config),
        "layout": dataclasses.asdict(lm.layout),
        "audio_encoder": _audio_sizes(encoder),
        "vision_encoder": _vision_sizes(vision) if vision else None,
        "codec": codec_config,
    }
    parts = {MODEL: lm, CODEC: codec, AUDIO_ENCODER: encoder, VISION_ENCODER: vision}
    if unknown := {*compact} - {*parts}:
        raise CheckpointError(f"no weights are in {', '.join(sorted(unknown))}; compact are some of {', '.join(parts)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, part in parts.items():
            if part is None:
                (folder / name).unlink(missing_ok=True)
            else:
                absent = frozenset(left_out) if part is encoder else frozenset[str]()
                write(folder / name, part, dtype, absent, name in compact)
        bundle.tokenizer.save(str(folder / TOKENIZER))
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {folder}: {line(error)}") from error


class Parts:
    """How the parts are made of their weights: here in torch, in float32.  Others compute the same in other ways."""

    def language_model(self, config: ModelConfig, layout: TokenLayout, file: Path) -> LanguageModel:
        """The language model with the weights of `file`.  Raises CheckpointError."""
        return read_into(lambda: OmniLM(config, layout), file)

    def audio_encoder(self, sizes: dict[str, int], file: Path) -> Encoder:
        """The audio encoder with the weights of `file`.  Raises CheckpointError."""
        return read_into(lambda: AudioEncoder(**sizes), file, optional=frozenset({POSITIONS}))

    def codec(self, codec: Codec) -> Codec:
        """What stands for `codec`."""
        return codec

    def remake(self, bundle: "Bundle") -> "Bundle":
        """A bundle in torch with its parts made in this way."""
        return bundle


TORCH = Parts()


def load(folder: str | Path, parts: Parts = TORCH) -> Bundle:
    """Load what `save` wrote.

    Raises CheckpointError, naming the file: missing, damaged, of another format, sizes that do not fit the weights.
    """
    folder = Path(folder)
    file = folder / CONFIG
    config = _read_config(file)
    layout = _parse(TokenLayout, _take(config, "layout", dict, file), file)
    model = _parse(ModelConfig, _take(config, "model", dict, file), file)
    audio = _integers(_take(config, "audio_encoder", dict, file), AUDIO_SIZES, file)
    window: Any = _take(config, "window", str, file)
    abilities = _take(config, "abilities", list, file)
    if window not in ("exact", "trimmed") or not all(isinstance(ability, str) for ability in abilities):
        raise CheckpointError(f'{file}: "window" is exact or trimmed, "abilities" a list of names')
    seek = _parse(Seek, _take(config, "seek", dict, file), file) if "seek" in config else GREEDY
    encoder = parts.audio_encoder(audio, folder / AUDIO_ENCODER)
    vision: VisionEncoder | EfficientNet | None = None
    if config.get("vision_encoder") is not None:
        vision = _load_vision(_take(config, "vision_encoder", dict, file), folder)
    lm = parts.language_model(model, layout, folder / MODEL)
    if encoder.width != model.whisper_adapter_dim:
        raise CheckpointError(f"{file}: the model takes features {model.whisper_adapter_dim} wide, not {encoder.width}")
    if (vision.out_width if vision else 0) != model.vision_adapter_dim:
        raise CheckpointError(f"{file}: the vision encoder does not fit vision_adapter_dim {model.vision_adapter_dim}")
    tokenizer = load_tokenizer(folder / TOKENIZER)
    if tokenizer.get_vocab_size() > layout.text_ids:
        raise CheckpointError(f"{folder / TOKENIZER} has more than {layout.text_ids} tokens; it is another model's")
    codec = parts.codec(_load_codec(_take(config, "codec", dict, file), folder))
    name = _take(config, "name", str, file)
    if "see" in abilities and vision is None:
        raise CheckpointError(f'{file}: "see" is an ability, but there is no vision encoder')
    return Bundle(lm, tokenizer, encoder, vision, codec, window, frozenset(abilities), name, seek)


def load_tokenizer(file: Path) -> Tokenizer:
    """Read a `tokenizer.json`.  Raises CheckpointError: missing or damaged."""
    require(file)
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises nothing more precise
        raise CheckpointError(f"{file} is damaged; download or save it again: {line(error)}") from error


# ---- sizes of the parts

AUDIO_SIZES = ("n_mels", "n_ctx", "width", "heads", "layers")
VISION_SIZES = ("width", "layers", "patch", "size", "out_width", "mlp_width")
SNAC_KEYS = (
    *("sampling_rate", "encoder_dim", "encoder_rates", "latent_dim", "decoder_dim", "decoder_rates"),
    *("attn_window_size", "codebook_size", "codebook_dim", "vq_strides"),
)


def _audio_sizes(encoder: AudioEncoder) -> Config:
    """The arguments `encoder` was made with."""
    first: Any = encoder.blocks[0]
    values = (encoder.n_mels, encoder.n_ctx, encoder.width, first.attn.heads, len(encoder.blocks))
    return dict(zip(AUDIO_SIZES, values, strict=True))


def _vision_sizes(encoder: VisionEncoder | EfficientNet) -> Config:
    """The arguments `encoder` was made with, from its weights' shapes; EfficientNet takes none and is named."""
    if isinstance(encoder, EfficientNet):
        return {"kind": "efficientnet-lite0"}
    tower: Any = encoder.tower
    width, _, patch, _ = tower.embeddings.patch_embedding.weight.shape
    layers = tower.encoder.layers
    values = (width, len(layers), patch, encoder.size, encoder.out_width, layers[0].mlp.fc1.out_features)
    return dict(zip(VISION_SIZES, values, strict=True))


def _load_vision(config: Config, folder: Path) -> VisionEncoder | EfficientNet:
    if config == {"kind": "efficientnet-lite0"}:
        return read_into(EfficientNet, folder / VISION_ENCODER)
    sizes = _integers(config, VISION_SIZES, folder / CONFIG)
    return read_into(lambda: VisionEncoder(**sizes), folder / VISION_ENCODER)


def _codec_parts(codec: Codec) -> tuple[nn.Module, Config]:
    """The module that holds the codec's weights, and its entry in config.json."""
    if isinstance(codec, IstftCodec):
        return codec, {"kind": "istft", **dataclasses.asdict(codec.config)}
    from omni2.codec.snac import SnacCodec

    if not isinstance(codec, SnacCodec):
        raise CheckpointError(f"a {type(codec).__name__} cannot be saved, only the codecs of this library")
    noise = any(type(module).__name__ == "NoiseBlock" for module in codec.modules())
    config = {"kind": "snac", "noise": noise, "depthwise": codec.model.decoder.model[0].groups > 1}
    return codec.model, config | {key: getattr(codec.model, key) for key in SNAC_KEYS}


def _load_codec(config: Config, folder: Path) -> Codec:
    kind = (sizes := dict(config)).pop("kind", None)
    if kind == "istft":
        istft = _parse(IstftConfig, sizes, folder / CONFIG)
        return read_into(lambda: IstftCodec(istft), folder / CODEC)
    if kind == "snac":
        from omni2.codec.snac import SHAPE, SnacCodec  # isort: skip
        from snac import SNAC  # isort: skip (its warning is silenced there)

        if any(sizes.get(key, "nothing") != value for key, value in SHAPE.items()):
            raise CheckpointError(f"{folder / CONFIG}: the SNAC codec is not the one for 24 kHz")
        return SnacCodec(read_into(lambda: _without_weight_norm(SNAC(**sizes)), folder / CODEC))
    raise CheckpointError(f"{folder / CONFIG}: unknown codec {kind!r}; update omni2")


def _without_weight_norm(model: nn.Module) -> nn.Module:
    """`model` with plain weights in the place of direction and length, as `SnacCodec` keeps them."""
    for module in model.modules():
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")
    return model


# ---- config.json


def _read_config(file: Path) -> Config:
    require(file)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read {file}: {line(error)}") from error
    if not isinstance(config, dict) or "format" not in config:
        raise CheckpointError(f'{file} is not of this library (no "format" in it); give a folder that it saved')
    if config["format"] != FORMAT:
        raise CheckpointError(f"{file} has format {config['format']!r}, this version reads {FORMAT}; update omni2")
    return config


def _take(config: Config, key: str, kind: type[T], file: Path) -> T:
    value = config.get(key)
    if not isinstance(value, kind):
        raise CheckpointError(f'{file}: "{key}" is missing or not a {kind.__name__}; save the model again')
    return value


def _integers(values: Config, keys: tuple[str, ...], file: Path) -> dict[str, int]:
    if set(values) != set(keys) or not all(type(value) is int and value > 0 for value in values.values()):
        raise CheckpointError(f"{file}: {values} should have positive whole numbers for {', '.join(keys)}")
    return values


def _parse(kind: type[T], values: Config, file: Path) -> T:
    """A dataclass of whole numbers, floats and tuples of whole numbers, from JSON."""
    kinds = {field.name: field.type for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    made: Config = {}
    try:
        for key, value in values.items():
            several = kinds[key] not in (int, float)
            for one in value if several else (value,):
                if type(one) is not int and not (kinds[key] is float and isinstance(one, float)):
                    raise TypeError(f"{key} is {value!r}")
            made[key] = tuple(value) if several else value
        return kind(**made)
    except KeyError as error:
        raise CheckpointError(f"{file}: unknown entry {error} for a {kind.__name__}; update omni2") from error
    except (TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{file}: not a {kind.__name__}: {line(error)}") from error
