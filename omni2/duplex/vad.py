"""When somebody begins and ends to speak: silero-vad's network over 32 ms windows, and the rule on top.

Source: Silero Team, github.com/snakers4/silero-vad (MIT).  Its package brings the weights; the network is written out
here because the packaged one keeps its state inside, one speaker a copy, and changes PyTorch's threads when imported.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni2.audio import SAMPLE_RATE
from omni2.duplex.finished import PAUSE
from omni2.errors import CheckpointError
from omni2.pickles import read_torchscript

Samples = npt.NDArray[np.float32]
State = tuple[Tensor, Tensor]

WINDOW = 512  # samples at 16 kHz that are judged at once
CONTEXT = 64  # samples before them that are looked at too
HYSTERESIS = 0.15  # speech ends where the probability falls this much below the threshold it began at


class SileroNet(nn.Module):
    """The network for 16 kHz: spectrum, four convolutions, an LSTM cell."""

    def __init__(self) -> None:
        super().__init__()
        self.stft = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.encoder = nn.Sequential(
            nn.Conv1d(129, 128, 3, padding=1),
            nn.Conv1d(128, 64, 3, stride=2, padding=1),
            nn.Conv1d(64, 64, 3, stride=2, padding=1),
            nn.Conv1d(64, 128, 3, padding=1),
        )
        self.rnn = nn.LSTMCell(128, 128)
        self.head = nn.Conv1d(128, 1, 1)

    def forward(self, samples: Tensor, state: State) -> tuple[Tensor, State]:
        """(1, CONTEXT + WINDOW) samples and the state before them → the probability of speech and the state after."""
        real, imaginary = self.stft(F.pad(samples, (0, 64), "reflect")[:, None]).chunk(2, dim=1)
        x = (real**2 + imaginary**2).sqrt()
        for conv in self.encoder:
            x = conv(x).relu()
        hidden, cell = self.rnn(x[..., 0], state)
        return self.head(hidden.relu()[..., None]).sigmoid().squeeze(), (hidden, cell)


RENAMED = {  # the archive's names under `_model.` -> ours
    "stft.forward_basis_buffer": "stft.weight",
    "decoder.rnn.": "rnn.",
    "decoder.decoder.2.": "head.",
    ".reparam_conv.": ".",
}


@cache
def load_silero() -> SileroNet:
    """The network with the weights of the installed silero-vad; loaded once.  Raises CheckpointError without them."""
    spec = find_spec("silero_vad")
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError("hearing when somebody speaks needs silero-vad; pip install silero-vad")
    archive = read_torchscript(Path(spec.submodule_search_locations[0]) / "data" / "silero_vad.jit")
    weights = {}
    for name, value in archive.items():
        if name.startswith("_model."):
            name = name.removeprefix("_model.")
            for theirs, ours in RENAMED.items():
                name = name.replace(theirs, ours)
            weights[name] = value
    net = SileroNet()
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError("the installed silero-vad has another network; install 6.2") from error
    return net.eval().requires_grad_(False)


@dataclass(frozen=True)
class Edge:
    """Speech began or ended at `position`, in samples at 16 kHz since the first one pushed."""

    kind: Literal["started", "stopped"]
    position: int


class SpeechMeter:
    """How likely each window of one sound is speech.  Not for several threads at once."""

    def __init__(self) -> None:
        self._net = load_silero()
        self.reset()

    def reset(self) -> None:
        """Begin another sound."""
        self._state = (torch.zeros(1, 128), torch.zeros(1, 128))
        self._context = np.zeros(CONTEXT, np.float32)

    @torch.inference_mode()
    def push(self, window: Samples) -> float:
        """The probability of speech in the next (WINDOW,) float32 samples at 16 kHz; 0.3 ms of work."""
        seen = np.concatenate([self._context, window])
        probability, self._state = self._net(torch.from_numpy(seen)[None], self._state)
        self._context = window[-CONTEXT:]
        return float(probability)


class VoiceActivity:
    """Finds where speech begins and ends in one sound that comes piece by piece.

    Speech begins with the window whose probability reaches `threshold`, and ends when `silence` seconds went by without
    it; that end is told with the end of the silence.  `patience`, where there is one, is asked `pause` seconds into a
    silence, with the position there, and may tell another length (seconds) for this one.
    Not for several threads at once.
    """

    patience: Callable[[int], float | None] | None = None
    pause = PAUSE

    def __init__(self, threshold: float = 0.5, silence: float = 0.5) -> None:
        self._meter = SpeechMeter()
        self._threshold, self._silence = threshold, round(silence * SAMPLE_RATE)
        self._rest = np.zeros(0, np.float32)
        self._position = 0  # of the next window
        self.last_voice = 0  # end of the last window that was speech
        self._ends = self._silence  # samples without voice that end the speech under way
        self._asked = False
        self.speaking = False

    def push(self, samples: Samples) -> list[Edge]:
        """The edges that (n,) float32 samples at 16 kHz bring."""
        edges = []
        waiting = np.concatenate([self._rest, samples])
        whole = len(waiting) // WINDOW * WINDOW
        for window in waiting[:whole].reshape(-1, WINDOW):
            edge = self._judge(self._meter.push(window))
            edges += [edge] if edge else []
        self._rest = waiting[whole:]
        return edges

    def _judge(self, probability: float) -> Edge | None:
        begin, self._position = self._position, self._position + WINDOW
        if probability >= self._threshold - (HYSTERESIS if self.speaking else 0):
            self.last_voice, self._ends, self._asked = self._position, self._silence, False
            if not self.speaking:
                self.speaking = True
                return Edge("started", begin)
        elif self.speaking:
            silent = self._position - self.last_voice
            if self.patience is not None and not self._asked and silent >= self.pause * SAMPLE_RATE:
                self._asked = True
                seconds = self.patience(self._position)
                self._ends = self._silence if seconds is None else round(seconds * SAMPLE_RATE)
            if silent >= self._ends:
                self.speaking = False
                return Edge("stopped", self._position)
        return None
