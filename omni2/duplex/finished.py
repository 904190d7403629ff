"""Is what was said so far a finished turn?  A small network over the audio encoder's features of its end.

What ends a turn is heard in its words and in its melody; Whisper's features hold both (so does "Smart Turn" by
pipecat-ai judge by them).  The weights here are for the encoder of Whisper tiny.en and for that of `nano`, which
began as it; they were trained by `omni2 train turns` on voices that are not those of the evaluation.
"""

from torch import Tensor

from omni2.duplex.reader import ENCODER, FOLDER, Reader, reader_for
from omni2.encoder import FRAME_RATE, Encoder

FRAMES = 4 * FRAME_RATE  # of a turn's end that are looked at, the pause behind it included
PAUSE = 0.2  # seconds of silence behind the last word, at which it is asked
WEIGHTS = FOLDER / "turn-end.safetensors"


def turn_end() -> Reader:
    """The network, untrained: its one answer is above 0 for a finished turn."""
    return Reader(ENCODER[1], FRAMES, 1)


def finished(encoder: Encoder, features: Tensor) -> float | None:
    """How likely, from 0 to 1, the turn of which `encoder` made these features (T, width) is finished.

    The pause behind it is included.  None for an encoder for which no network was trained.
    """
    net = reader_for(encoder, turn_end, WEIGHTS)
    return None if net is None else float(net.judge(features)[0].sigmoid())
