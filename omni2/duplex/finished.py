"""Is what was said so far a finished turn?  A small network over the audio encoder's features of its end.

What ends a turn is heard in its words and in its melody; Whisper's features hold both (so does "Smart Turn" by
pipecat-ai judge by them).  The weights here belong to the encoder of Whisper tiny.en, which `nano` has; they were
trained by `omni2 train turns` on voices that are not those of the evaluation.
"""

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from omni2.encoder import FRAME_RATE, Encoder

FRAMES = 4 * FRAME_RATE  # of a turn's end that are looked at, the pause behind it included
PAUSE = 0.2  # seconds of silence behind the last word, at which it is asked
WEIGHTS = Path(__file__).parents[1] / "assets" / "turns" / "whisper-tiny.en.safetensors"
SIZES = (80, 384, 4)  # bands, width and blocks of the encoder that the weights belong to
STRIDE = 4  # frames that are taken together


class TurnEnd(nn.Module):
    """Reads the last frames in both directions, attends to some, and says one number: above 0 for a finished turn."""

    def __init__(self, width: int, hidden: int = 96, heads: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.enter = nn.Conv1d(width, hidden, STRIDE, STRIDE)
        self.read = nn.GRU(hidden, hidden, batch_first=True, bidirectional=True)
        self.attend = nn.Linear(2 * hidden, heads)
        self.leave = nn.Sequential(nn.Linear(2 * heads * hidden, hidden), nn.GELU(), nn.Linear(hidden, 1))
        self.drop = nn.Dropout(0.2)  # in training

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, T, width), of which the last `FRAMES` count, to logits (B,)."""
        features = self.norm(features[:, -FRAMES:])
        features = F.pad(features, (0, 0, FRAMES - features.shape[1], 0))
        x, _ = self.read(self.drop(F.gelu(self.enter(features.mT).mT)))
        weights = self.attend(x).softmax(1)
        pooled = torch.einsum("bth,bta->bah", x, weights).flatten(1)
        logits: Tensor = self.leave(self.drop(pooled))[:, 0]
        return logits

    @torch.inference_mode()
    def likely(self, features: Tensor) -> float:
        """How likely the turn of which these are the features (T, width), pause included, is finished: 0 to 1."""
        return float(self(features[None].float().cpu())[0].sigmoid())


def turn_end_for(encoder: Encoder) -> TurnEnd | None:
    """The network for `encoder`; None where none was trained for its like."""
    if (encoder.n_mels, encoder.width, encoder.layers) != SIZES or not WEIGHTS.is_file():
        return None
    return _load()


@cache
def _load() -> TurnEnd:
    net = TurnEnd(SIZES[1])
    net.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return net.eval().requires_grad_(False)
