"""The embedded model's eye: EfficientNet-Lite0, every patch of its last features kept.

Source: Tan and Le, "EfficientNet" (arXiv 1905.11946), in the Lite variant: no squeeze-and-excitation, ReLU6, paddings
as TensorFlow's "same". Batch norms are folded into the convolutions when the weights are converted.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from omni2.errors import CheckpointError
from omni2.vision import centre

SIZE = 224  # pixels
WIDTH = 1280
EPS = 1e-3  # of the batch norms
STEM = 32
STAGES = (  # blocks, kernel, stride of the first, expansion, channels out
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class SameConv(nn.Conv2d):
    """A convolution padded like TensorFlow's "same" on even sides: with stride 2 one less on the left and top."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, out, kernel, stride, (kernel - 1) // 2 if stride == 1 else 0, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel_size[0]
        if self.stride[0] == 2:
            before, after = (kernel - 2) // 2, (kernel - 1) // 2
            x = F.pad(x, (before, after, before, after))
        return super().forward(x)


class Block(nn.Module):
    """Inverted bottleneck: widen, filter each channel, narrow; added to its input where the shapes allow."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.residual = stride == 1 and channels == out
        self.expand = SameConv(channels, wide, 1) if expansion > 1 else None
        self.depthwise = SameConv(wide, wide, kernel, stride, groups=wide)
        self.project = SameConv(wide, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = F.relu6(self.expand(x), inplace=True) if self.expand is not None else x
        narrow: Tensor = self.project(F.relu6(self.depthwise(wide), inplace=True))
        return x + narrow if self.residual else narrow


class EfficientNet(nn.Module):
    """EfficientNet-Lite0 up to its last features: 7 * 7 patches of 1,280, values in [0, 6], and their mean."""

    out_width = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, STEM, 3, 2)
        self.blocks = nn.ModuleList()
        channels = STEM
        for blocks, kernel, stride, expansion, out in STAGES:
            for index in range(blocks):
                self.blocks.append(Block(channels, out, kernel, 1 if index else stride, expansion))
                channels = out
        self.head = SameConv(channels, WIDTH, 1)

    @classmethod
    def from_lukemelas(cls, state: Mapping[str, Tensor]) -> "EfficientNet":
        """Build from weights in the names of lukemelas/EfficientNet-PyTorch (`_blocks.0._bn1.bias`), in float32.

        The classifier (`_fc`) is ignored. Raises CheckpointError: weights missing or of another shape.
        """
        encoder = cls()
        try:
            folded = _folded(state, "_conv_stem", "_bn0", "stem") | _folded(state, "_conv_head", "_bn1", "head")
            for index, block in enumerate(encoder.blocks):
                norms = iter(("_bn0", "_bn1", "_bn2")[0 if block.expand is not None else 1 :])
                for name, _ in block.named_children():
                    theirs = f"_blocks.{index}."
                    folded |= _folded(state, f"{theirs}_{name}_conv", theirs + next(norms), f"blocks.{index}.{name}")
            encoder.load_state_dict(folded)
        except (KeyError, RuntimeError) as error:
            reason = str(error).replace("\n", " ")
            raise CheckpointError(f"not the weights of EfficientNet-Lite0: {reason}") from error
        return encoder.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode `pixels` (B, 3, 224, 224) to (B, 50, 1280): the mean of all patches first, then patches row by row."""
        patches = F.relu6(self.head(self.narrow(pixels))).flatten(2).transpose(1, 2)
        return torch.cat([patches.mean(1, keepdim=True), patches], 1)

    def narrow(self, pixels: Tensor) -> Tensor:
        """What the last layer widens: `pixels` (B, 3, 224, 224) → (B, 320, 7, 7)."""
        x = F.relu6(self.stem(pixels.contiguous(memory_format=torch.channels_last)), inplace=True)
        for block in self.blocks:
            x = block(x)
        return x

    @torch.no_grad()
    def encode(self, picture: Image.Image) -> Tensor:
        """Features (50, 1280) of one RGB picture, on the encoder's device, in its dtype, without gradients."""
        encoded: Tensor = self(lite_pixels(picture).to(self.stem.weight)[None])[0]
        return encoded


def lite_pixels(picture: Image.Image) -> Tensor:
    """EfficientNet-Lite's pre-processing of an RGB picture: float32 (3, 224, 224), in [-1, 1]."""
    levels = np.asarray(centre(picture, SIZE), dtype=np.float32)
    return torch.from_numpy(np.ascontiguousarray(((levels - 127) / 128).transpose(2, 0, 1)))


def _folded(state: Mapping[str, Tensor], conv: str, norm: str, name: str) -> dict[str, Any]:
    """Weight and bias of a convolution that does what `conv` and the batch norm behind it do."""
    gain = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + EPS).sqrt()
    weight = state[f"{conv}.weight"] * gain[:, None, None, None]
    return {f"{name}.weight": weight, f"{name}.bias": state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain}
