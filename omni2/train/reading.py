"""Training of the small networks of `omni2.duplex.reader`."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor

from omni2.duplex.reader import Reader
from omni2.weights import write

HIGHEST = 2e-3  # rate that the schedule reaches, and comes back from
MASKED = 0.1  # frames that are zeroed in training


def padded(rows: Sequence[Tensor], frames: int) -> Tensor:
    """The last `frames` features of every (T, width), zeros before fewer: (n, frames, width) bfloat16."""
    kept = torch.zeros(len(rows), frames, rows[0].shape[1], dtype=torch.bfloat16)
    for row, features in zip(kept, rows, strict=True):
        row[-features.shape[0] :] = features[-frames:]
    return kept


def fit(
    net: Reader,
    features: Tensor,
    truth: Tensor,
    held_out: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    steps: int,
    batch: int = 32,
    seed: int = 0,
) -> Tensor:
    """Train `net`, in place, on (n, T, width) and (n,); what it says of the rows held out (bool (n,)): (m, answers).

    `loss` compares logits (batch, answers) with the truth (batch,).
    """
    torch.manual_seed(seed)
    held, rest = held_out.nonzero()[:, 0], (~held_out).nonzero()[:, 0]
    optimiser = torch.optim.AdamW(net.parameters(), HIGHEST / 2, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, HIGHEST, steps)
    net.train()
    for _ in track(range(steps), "learning", console=Console(stderr=True)):
        rows = rest[torch.randint(len(rest), (batch,))]
        wrong = loss(net(F.dropout1d(features[rows].float(), MASKED)), truth[rows])
        optimiser.zero_grad()
        wrong.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    net.eval()
    with torch.no_grad():
        return torch.cat([net(features[rows].float()) for rows in torch.split(held, batch)])


def keep(net: Reader, file: Path) -> None:
    """Write the weights of `net`, mostly in int8, to `file`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, net, torch.float16, compact=True)
