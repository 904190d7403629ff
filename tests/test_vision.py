import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from omni2.errors import CheckpointError, InputError
from omni2.vision import VisionEncoder, clip_pixels, load_picture

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    data = io.BytesIO()
    picture.save(data, kind, **options)
    return data.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data = b"IDAT" + zlib.compress(b"")
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "JPEG", "GIF"])
def test_files_of_every_kind(kind, tmp_path):
    smooth = np.broadcast_to(np.linspace(0, 255, 60).astype(np.uint8)[None, :, None], (40, 60, 3))
    data = encoded(Image.fromarray(np.ascontiguousarray(smooth)), kind)
    picture = load_picture(data)
    assert (picture.mode, picture.size) == ("RGB", (60, 40))
    assert np.abs(np.asarray(picture, int) - smooth).max() <= (0 if kind in ("PNG", "BMP", "TIFF", "PPM") else 12)
    (tmp_path / "picture").write_bytes(data)
    for path in (tmp_path / "picture", str(tmp_path / "picture")):
        assert np.array_equal(np.asarray(load_picture(path)), np.asarray(picture))


def test_arrays_and_pil_images():
    grey = PIXELS[..., 0]
    for given, expected in (
        (PIXELS, PIXELS),
        (PIXELS / 255, PIXELS),
        (PIXELS.astype(np.float32) / 255, PIXELS),
        (PIXELS[:, ::-1], PIXELS[:, ::-1]),
        (grey, np.stack([grey] * 3, -1)),
        (np.dstack([PIXELS, np.full_like(grey, 255)]), PIXELS),
        (np.dstack([PIXELS, np.zeros_like(grey)]), np.full_like(PIXELS, 255)),
        (Image.fromarray(PIXELS), PIXELS),
        (Image.fromarray(PIXELS).convert("L").convert("CMYK"), None),
    ):
        picture = load_picture(given)
        assert picture.mode == "RGB"
        assert picture is not given
        assert expected is None or np.array_equal(np.asarray(picture), expected)


def test_transparency_is_laid_on_white_and_16_bits_scaled():
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.paste(1, (0, 0, 10, 20))
    picture = load_picture(encoded(palette, transparency=0))
    assert picture.getpixel((15, 5)) == (255, 255, 255)
    assert picture.getpixel((5, 5)) == (0, 0, 255)
    half = load_picture(Image.new("LA", (9, 9), (0, 128)))
    assert half.getpixel((0, 0)) == (127, 127, 127)
    deep = Image.fromarray(np.full((10, 10), 0x8080, np.uint16))
    assert load_picture(encoded(deep)).getpixel((0, 0)) == (128, 128, 128)


def test_exif_turns_the_picture_upright():
    lying = Image.fromarray(PIXELS)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned 90 degrees clockwise
    picture = load_picture(encoded(lying, "PNG", exif=exif))
    assert picture.size == (40, 60)
    assert np.array_equal(np.asarray(picture), np.rot90(PIXELS, -1))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((1, 1, 3), np.uint8), "1x1 pixels"),
        (encoded(Image.new("RGB", (1, 1))), "1x1 pixels"),
        (np.zeros((7, 100), np.uint8), "100x7 pixels"),
        (np.zeros((0, 100, 3), np.uint8), "empty"),
        (np.zeros((10, 600), np.uint8), "strip"),
        (np.zeros((3, 40, 60), np.uint8), r"\(3, 40, 60\)"),
        (np.zeros((40, 60, 2), np.uint8), r"\(40, 60, 2\)"),
        (np.zeros((1, 40, 60, 3), np.uint8), "not"),
        (np.zeros(40, np.uint8), "not"),
        (np.full((40, 60, 3), 255.0), "divide by 255"),
        (np.full((40, 60, 3), -0.1), "outside"),
        (np.full((40, 60, 3), np.nan), "outside"),
        (np.zeros((40, 60, 3), np.int64), "int64"),
        (np.zeros((40, 60, 3), bool), "bool"),
        (b"", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n", "not a picture"),
        (encoded(Image.fromarray(PIXELS))[:200], "damaged"),
        (encoded(Image.fromarray(PIXELS), "JPEG")[:300], "damaged"),
        ("missing.png", "cannot open missing.png"),
        (None, "NoneType"),
        ([[0]], "list"),
    ],
)
def test_bad_pictures_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        load_picture(given)


@pytest.mark.parametrize("side", [8001, 9600, 12000, 20000, 60000])
def test_decompression_bombs_are_refused_before_decoding(side, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", None)
    with pytest.raises(InputError, match="64,000,000 pixels"):
        load_picture(png_header(side, side))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(InputError, match="64,000,000 pixels"):
            load_picture(png_header(side, side))


def test_a_damaged_file_never_raises_anything_else():
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF"):
        good = encoded(Image.fromarray(PIXELS), kind)
        for _ in range(20):
            data = bytearray(good)
            for position in RNG.integers(0, len(data), 10):
                data[position] = RNG.integers(256)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    assert load_picture(bytes(data)).mode == "RGB"
                except InputError:
                    continue


@pytest.mark.parametrize("size", [(470, 300), (224, 224), (100, 333), (8, 400)])
def test_preprocessing_is_transformers(size):
    processor = pytest.importorskip("transformers.models.clip.image_processing_pil_clip").CLIPImageProcessorPil()
    picture = Image.fromarray(RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    expected = processor(picture, return_tensors="pt").pixel_values[0]
    assert (clip_pixels(picture) - expected).abs().max() < 1e-5


def openai_weights(width: int, layers: int, patch: int, grid: int, out: int) -> dict[str, torch.Tensor]:
    """Random weights under openai/CLIP's names."""
    rng = torch.Generator().manual_seed(width)
    shapes = {
        "class_embedding": (width,),
        "positional_embedding": (grid * grid + 1, width),
        "proj": (width, out),
        "conv1.weight": (width, 3, patch, patch),
        "ln_pre.weight": (width,),
        "ln_pre.bias": (width,),
        "ln_post.weight": (width,),
        "ln_post.bias": (width,),
    }
    for layer in range(layers):
        for name, rows, columns in (
            ("attn.in_proj_", 3 * width, width),
            ("attn.out_proj.", width, width),
            ("ln_1.", width, 0),
            ("ln_2.", width, 0),
            ("mlp.c_fc.", 4 * width, width),
            ("mlp.c_proj.", width, 4 * width),
        ):
            shapes[f"transformer.resblocks.{layer}.{name}weight"] = (rows, columns) if columns else (rows,)
            shapes[f"transformer.resblocks.{layer}.{name}bias"] = (rows,)
    return {f"visual.{name}": torch.randn(shape, generator=rng) * 0.1 for name, shape in shapes.items()}


def reference(weights: dict[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    """CLIP's vision transformer written from the paper with torch's own multi-head attention."""
    w = {name.removeprefix("visual."): value for name, value in weights.items()}

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return torch.nn.functional.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)

    x = torch.nn.functional.conv2d(pixels, w["conv1.weight"], stride=w["conv1.weight"].shape[-1]).flatten(2).mT
    x = torch.cat([w["class_embedding"].expand(len(x), 1, -1), x], 1) + w["positional_embedding"]
    x = norm(x, "ln_pre")
    width = x.shape[-1]
    attention = torch.nn.MultiheadAttention(width, width // 64, batch_first=True)
    layer = 0
    while f"transformer.resblocks.{layer}.ln_1.weight" in w:
        name = f"transformer.resblocks.{layer}"
        prefix = f"{name}.attn."
        attention.load_state_dict({key.removeprefix(prefix): w[key] for key in w if key.startswith(prefix)})
        y = norm(x, f"{name}.ln_1")
        x = x + attention(y, y, y, need_weights=False)[0]
        y = norm(x, f"{name}.ln_2") @ w[f"{name}.mlp.c_fc.weight"].T + w[f"{name}.mlp.c_fc.bias"]
        x = x + (y * torch.sigmoid(1.702 * y)) @ w[f"{name}.mlp.c_proj.weight"].T + w[f"{name}.mlp.c_proj.bias"]
        layer += 1
    return norm(x, "ln_post") @ w["proj"]


@pytest.mark.parametrize("sizes", [(64, 1, 16, 2, 24), (128, 3, 8, 4, 32), (192, 2, 32, 7, 64)])
@torch.no_grad()
def test_encoder_projects_every_token_as_clip_does(sizes):
    pytest.importorskip("transformers")
    weights = openai_weights(*sizes)
    encoder = VisionEncoder.from_openai({**weights, "logit_scale": torch.tensor(1.0)})
    width, layers, patch, grid, out = sizes
    assert encoder.size == patch * grid
    pixels = torch.randn(2, 3, encoder.size, encoder.size, generator=torch.Generator().manual_seed(1))
    features = encoder(pixels)
    assert features.shape == (2, grid * grid + 1, out)
    assert torch.allclose(features, reference(weights, pixels), atol=1e-4)
    stock = encoder.tower(pixel_values=pixels)
    assert len(encoder.tower.state_dict()) == 7 + 16 * layers
    assert torch.allclose(features[:, 0], stock.pooler_output @ weights["visual.proj"], atol=1e-5)
    one = encoder.encode(Image.fromarray(PIXELS))
    assert one.shape == (grid * grid + 1, out)
    assert one.dtype == torch.float32
    assert width == encoder.proj.shape[0]


def test_other_weights_are_refused():
    pytest.importorskip("transformers")
    weights = openai_weights(64, 1, 16, 2, 24)
    for missing in ("visual.proj", "visual.class_embedding", "visual.transformer.resblocks.0.ln_1.bias"):
        with pytest.raises(CheckpointError, match="CLIP vision transformer"):
            VisionEncoder.from_openai({name: value for name, value in weights.items() if name != missing})
    for wrong in ({}, {**weights, "visual.layer1.0.conv1.weight": torch.zeros(1)}):
        with pytest.raises(CheckpointError, match="CLIP vision transformer"):
            VisionEncoder.from_openai(wrong)
