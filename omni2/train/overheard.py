"""Training of the network of `omni2.duplex.overheard`, on the windows of `omni2 data interruption`."""

from functools import partial
from pathlib import Path
from zlib import crc32

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track

from omni2.duplex.overheard import FRAMES, KINDS
from omni2.duplex.reader import Reader
from omni2.errors import InputError, OmniError
from omni2.train.data.schema import Row
from omni2.train.data.store import read_rows
from omni2.train.reading import UNSURE, Fitting, fit, keep, padded
from omni2.weights import read_into

HELD_OUT = 20  # one window in so many is kept to measure with
COLUMNS = ("topic", "question_features")


def kind(row: Row) -> str:
    """Which of `KINDS` a window ends with."""
    if row.label == "irq":
        return "order"
    return "nod" if row.topic == "nod" else "other"


def make(folder: Path, file: Path, fitting: Fitting, start: Path | None = None) -> dict[str, float]:
    """Learn from the rows of `folder` and write the weights to `file`; how often they are right about each of `KINDS`,
    in percent.

    `start` are the weights to begin with: those of another ear need few windows.
    Raises OmniError: no rows, rows without features, weights that are none of this network, or none to go back to.
    """
    if fitting.back and start is None:
        raise InputError("there are no weights to go back to; give those to begin with as --from, or no --back")
    features, kinds, held_out = [], [], []
    for row in track(read_rows(folder, COLUMNS), "reading", console=Console(stderr=True)):
        if row.question_features is None:
            raise OmniError(
                f"the rows of {folder} have no features; make them with `omni2 data interruption --model …`"
            )
        features.append(row.question_features[-FRAMES:].bfloat16())
        kinds.append(KINDS.index(kind(row)))
        held_out.append(crc32(row.key.encode()) % HELD_OUT == 0)
    truth, held = torch.tensor(kinds), torch.tensor(held_out)

    def new() -> Reader:
        return Reader(features[0].shape[1], FRAMES, len(KINDS))

    net = new() if start is None else read_into(new, start)
    loss = partial(F.cross_entropy, label_smoothing=UNSURE)
    said = fit(net, padded(features, FRAMES), truth, held, loss, fitting).argmax(1)
    keep(net, file)
    return {name: 100 * float((said[truth[held] == i] == i).float().mean()) for i, name in enumerate(KINDS)}
