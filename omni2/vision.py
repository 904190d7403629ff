"""Pictures in: any file or array becomes a checked RGB picture and CLIP features of all its patches.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (arXiv 2103.00020) and
the openai/CLIP release; that every token is projected, not the class token alone, is mini-omni2's (arXiv 2410.11190).
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor, nn

from omni2.errors import CheckpointError, InputError

Picture = str | Path | bytes | Image.Image | npt.NDArray[Any]

MIN_SIDE = 8  # pixels
MAX_PIXELS = 64_000_000  # pixels: decoded as RGB, 192 MB
MAX_RATIO = 50  # of the longer to the shorter side: of a longer strip the centre crop shows nothing
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO")  # decoded by Pillow itself, no outside program

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # red, green, blue in [0, 1], of CLIP's training pictures
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HEAD_SIZE = 64  # of every CLIP vision transformer

RENAMED = {  # openai/CLIP's name under `visual.` -> transformers' name
    "conv1": "embeddings.patch_embedding",
    "ln_pre": "pre_layrnorm",
    "ln_post": "post_layernorm",
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def load_picture(source: Picture) -> Image.Image:
    """Return any picture as a PIL image of mode RGB, turned upright by its EXIF tag, transparency laid on white.

    `source` is a path, the file's bytes (PNG, JPEG, WebP, GIF, BMP, TIFF, PPM, ICO; the first frame), a PIL image, or
    an array of uint8 or of floats in [0, 1], shaped (height, width), (height, width, 3) or (height, width, 4).
    Raises InputError: no such file, damaged, of another format, shape or dtype, a side below 8 pixels, more than 64
    million pixels (checked before decoding), one side more than 50 times the other.
    """
    if not isinstance(source, str | Path | bytes | Image.Image | np.ndarray):
        raise InputError(f"a picture is a path, bytes, a PIL image or an array, not {type(source).__name__}")
    name = source if isinstance(source, str | Path) else "the picture"
    try:
        if isinstance(source, Image.Image | np.ndarray):
            return _upright_rgb(source if isinstance(source, Image.Image) else _from_array(source))
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            return _upright_rgb(opened)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{name} has more than {MAX_PIXELS:,} pixels; make it smaller") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{name} is not a picture; give PNG, JPEG or WebP") from error
    except FileNotFoundError as error:
        raise InputError(f"cannot open {name}: {error.strerror}") from error
    except Exception as error:  # Pillow's decoders raise anything on damaged data
        raise InputError(f"{name} cannot be decoded, it is damaged or cut short: {error}") from error


def _check_size(picture: Image.Image) -> None:
    """Refuse sizes outside the limits; only the picture's header has been read so far."""
    width, height = picture.size
    if min(width, height) < MIN_SIDE:
        raise InputError(f"a picture of {width}x{height} pixels; give at least {MIN_SIDE}x{MIN_SIDE}")
    if width * height > MAX_PIXELS:
        raise InputError(f"a picture of {width}x{height} has more than {MAX_PIXELS:,} pixels; make it smaller")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise InputError(f"a picture of {width}x{height} pixels is a strip; crop it")


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    """uint8 or float (height, width[, 3 or 4]) as a PIL image."""
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise InputError(f"a picture is (height, width), (height, width, 3) or (height, width, 4), not {array.shape}")
    if np.issubdtype(array.dtype, np.floating):
        if not array.size or not (array.min() >= 0 and array.max() <= 1):  # written so that NaN fails too
            raise InputError("a float picture has values outside [0, 1]; divide by 255 or convert to uint8")
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise InputError(f"a picture of {array.dtype}; give uint8 or floats in [0, 1]")
    if not array.size:
        raise InputError(f"a picture of {array.shape[1]}x{array.shape[0]} pixels is empty")
    return Image.fromarray(np.ascontiguousarray(array))


def _upright_rgb(picture: Image.Image) -> Image.Image:
    """Decode, turn upright, scale 16 bits to 8, lay on white; never the caller's own object."""
    _check_size(picture)
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith(("I", "F")):
        levels = np.asarray(upright, dtype=np.float32)
        scale = 257 if levels.max() > 255 else 1  # 65,535 is 257 times 255
        upright = Image.fromarray(np.clip(levels / scale, 0, 255).astype(np.uint8))
    if upright.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in upright.info:
        layer = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return upright.convert("RGB") if upright.mode != "RGB" or upright is picture else upright


def centre(picture: Image.Image, size: int) -> Image.Image:
    """The middle square of a picture, its shorter side resized to `size` pixels (bicubic)."""
    width, height = picture.size
    short = min(width, height)
    resized = picture.resize((size * width // short, size * height // short), Image.Resampling.BICUBIC)
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return resized.crop((left, top, left + size, top + size))


def clip_pixels(picture: Image.Image, size: int = 224) -> Tensor:
    """CLIP's pre-processing of an RGB picture: float32 (3, size, size), about zero mean and unit variance.

    The centre of the picture, then CLIP's mean and deviation by channel.
    """
    levels = np.asarray(centre(picture, size), dtype=np.float32) / np.float32(255)
    normal = (levels - np.array(CLIP_MEAN, np.float32)) / np.array(CLIP_STD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(normal.transpose(2, 0, 1)))


class VisionEncoder(nn.Module):
    """CLIP's vision transformer (run by transformers) with its final norm and projection on every token.

    ViT-B/32: width 768, 12 layers, patches of 32 pixels, pictures of 224, output 512; hence 1 + 7 * 7 = 50 tokens.
    """

    def __init__(self, width: int, layers: int, patch: int, size: int, out_width: int, mlp_width: int) -> None:
        super().__init__()
        from transformers import CLIPVisionConfig, CLIPVisionModel

        self.size, self.out_width = size, out_width
        config = CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=mlp_width,
            num_hidden_layers=layers,
            num_attention_heads=max(1, width // HEAD_SIZE),
            image_size=size,
            patch_size=patch,
            hidden_act="quick_gelu",
        )
        model = CLIPVisionModel(config)
        self.tower: nn.Module = getattr(model, "vision_model", model)  # before transformers 5 a shell was around it
        self.proj = nn.Parameter(torch.empty(width, out_width).normal_(std=width**-0.5))

    @classmethod
    def from_openai(cls, state: Mapping[str, Tensor]) -> "VisionEncoder":
        """Build from openai/CLIP's weights (`read_torchscript("ViT-B-32.pt")`), in float32; other parts are ignored.

        Sizes come from the shapes. Raises CheckpointError: weights missing or not those of a vision transformer.
        """
        own = {name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")}
        try:
            width, _, patch, _ = own["conv1.weight"].shape
            grid = round((own["positional_embedding"].shape[0] - 1) ** 0.5)
            layers = len({name.split(".")[2] for name in own if name.startswith("transformer.resblocks.")})
            mlp_width = own["transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
            encoder = cls(width, layers, patch, patch * grid, own["proj"].shape[1], mlp_width)
            encoder.tower.load_state_dict(_transformers_names(own))
            with torch.no_grad():
                encoder.proj.copy_(own["proj"])
        except (KeyError, ValueError, IndexError, RuntimeError) as error:
            reason = str(error).replace("\n", " ")
            raise CheckpointError(f"not the weights of a CLIP vision transformer: {reason}") from error
        return encoder.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode `clip_pixels` (B, 3, size, size) to (B, tokens, out_width), the class token first."""
        hidden = self.tower(pixel_values=pixels).last_hidden_state
        projected: Tensor = self.tower.get_submodule("post_layernorm")(hidden) @ self.proj
        return projected

    @torch.no_grad()
    def encode(self, picture: Image.Image) -> Tensor:
        """Features (tokens, out_width) of one RGB picture, on the encoder's device, in its dtype, without gradients."""
        encoded: Tensor = self(clip_pixels(picture, self.size).to(self.proj)[None])[0]
        return encoded


def _transformers_names(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """openai/CLIP's vision weights under transformers' names; the fused query, key, value are cut in three."""
    renamed = {
        "embeddings.class_embedding": own["class_embedding"],
        "embeddings.position_embedding.weight": own["positional_embedding"],
    }
    for name, value in own.items():
        if name in ("class_embedding", "positional_embedding", "proj", "input_resolution"):
            continue
        owner, _, leaf = name.rpartition(".")
        prefix = ""
        if owner.startswith("transformer.resblocks."):
            _, _, layer, owner = owner.split(".", 3)
            prefix = f"encoder.layers.{layer}."
        if leaf.startswith("in_proj_"):
            for which, third in zip("qkv", value.chunk(3), strict=True):
                renamed[f"{prefix}self_attn.{which}_proj.{leaf.removeprefix('in_proj_')}"] = third
        else:
            renamed[f"{prefix}{RENAMED[owner]}.{leaf}"] = value
    return renamed
