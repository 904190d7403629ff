"""A small network that reads the audio encoder's features of the last seconds and judges them."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni2.encoder import Encoder
from omni2.weights import read_into

FOLDER = Path(__file__).parents[1] / "assets" / "duplex"
ENCODER = (80, 384, 4)  # bands, width and blocks of the encoder that the weights belong to: Whisper tiny.en's
STRIDE = 4  # frames that are taken together


class Reader(nn.Module):
    """Reads the last `frames` features in both directions, attends to some, and says `answers` numbers (logits)."""

    def __init__(self, width: int, frames: int, answers: int, hidden: int = 96, heads: int = 4) -> None:
        super().__init__()
        self.frames = frames
        self.norm = nn.LayerNorm(width)
        self.enter = nn.Conv1d(width, hidden, STRIDE, STRIDE)
        self.read = nn.GRU(hidden, hidden, batch_first=True, bidirectional=True)
        self.attend = nn.Linear(2 * hidden, heads)
        self.leave = nn.Sequential(nn.Linear(2 * heads * hidden, hidden), nn.GELU(), nn.Linear(hidden, answers))
        self.drop = nn.Dropout(0.2)  # in training

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, T, width), of which the last `frames` count, zeros before fewer, to logits (B, answers)."""
        features = self.norm(features[:, -self.frames :])
        features = F.pad(features, (0, 0, self.frames - features.shape[1], 0))
        x, _ = self.read(self.drop(F.gelu(self.enter(features.mT).mT)))
        weights = self.attend(x).softmax(1)
        pooled = torch.einsum("bth,bta->bah", x, weights).flatten(1)
        logits: Tensor = self.leave(self.drop(pooled))
        return logits

    @torch.inference_mode()
    def judge(self, features: Tensor) -> Tensor:
        """Logits (answers,) float32 for one sound's features (T, width)."""
        logits: Tensor = self(features[None].float().cpu())[0]
        return logits


def reader_for(encoder: Encoder, make: Callable[[], Reader], file: Path) -> Reader | None:
    """The network with the weights of `file` for `encoder`; None where none was trained for its like."""
    if (encoder.n_mels, encoder.width, encoder.layers) != ENCODER or not file.is_file():
        return None
    return _load(make, file)


@cache
def _load(make: Callable[[], Reader], file: Path) -> Reader:
    return read_into(make, file).requires_grad_(False)
