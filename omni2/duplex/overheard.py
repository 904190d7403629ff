"""What is said while an answer is played: an order to stop, a mere nod, or something else?

A small network over the audio encoder's features of the last seconds.  The weights here belong to the encoder of
Whisper tiny.en, which `nano` has; they were trained by `omni2 train overheard` on the windows of `omni2 data
interruption`, in voices that are not those of the evaluation.
"""

from dataclasses import dataclass

from torch import Tensor

from omni2.duplex.reader import ENCODER, FOLDER, STRIDE, Reader, reader_for
from omni2.encoder import FRAME_RATE, Encoder

LISTENING = 2.5  # seconds of the newest sound that are looked at
FRAMES = round(LISTENING * FRAME_RATE) // STRIDE * STRIDE
WEIGHTS = FOLDER / "overheard.safetensors"
KINDS = ("other", "order", "nod")  # in the order of the network's answers


@dataclass(frozen=True)
class Overheard:
    """How likely, from 0 to 1, the sound ends with an order to stop, and how likely with a mere nod ("uh-huh")."""

    order: float
    nod: float


def overhearing() -> Reader:
    """The network, untrained: its answers are the logits of `KINDS`."""
    return Reader(ENCODER[1], FRAMES, len(KINDS))


def overheard(encoder: Encoder, features: Tensor) -> Overheard | None:
    """What the sound ends with of which `encoder` made these features (T, width).

    None for an encoder for which no network was trained.
    """
    net = reader_for(encoder, overhearing, WEIGHTS)
    if net is None:
        return None
    _, order, nod = net.judge(features).softmax(0).tolist()
    return Overheard(order, nod)
