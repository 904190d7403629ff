"""Training of the small networks of `omni2.duplex.reader`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from omni2.duplex.reader import Reader
from omni2.weights import write

MASKED = 0.1  # frames that are zeroed in training
NOISE = 0.5  # of a feature's deviation, at most, that is added to it
DROPPED = 0.05  # features that are zeroed
GAP = (3, 20)  # frames in a row that are zeroed, in half of the examples
END = 20  # frames that such a gap leaves alone: what is asked is what a sound ends with
SHIFT = 3  # frames by which an example is moved, at most
UNSURE = 0.02  # of the truth that is spread over all answers
AVERAGED = 2 / 3  # of the steps, the last ones, whose weights are averaged


@dataclass(frozen=True)
class Fitting:
    """How a network learns: `rate` is what the schedule reaches, and comes back from.

    `careful` is for many steps over few examples: features are disturbed, and the weights of the last steps averaged.
    At the end it goes `back` that share of the way to the weights it began with, which knew more of what it is not
    shown (Wortsman et al., arXiv 2109.01903).
    """

    steps: int
    batch: int = 32
    rate: float = 2e-3
    careful: bool = False
    back: float = 0.0
    seed: int = 0


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
    fitting: Fitting,
) -> Tensor:
    """Train `net`, in place, on (n, T, width) and (n,); what it says of the rows held out (bool (n,)): (m, answers).

    `loss` compares logits (batch, answers) with the truth (batch,).
    """
    torch.manual_seed(fitting.seed)
    held, rest = held_out.nonzero()[:, 0], (~held_out).nonzero()[:, 0]
    optimiser = torch.optim.AdamW(net.parameters(), fitting.rate / 2, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, fitting.rate, fitting.steps)
    begun = {name: weight.clone() for name, weight in net.state_dict().items()}
    mean, spread = AveragedModel(net), features[rest[:2000]].float().std((0, 1))
    net.train()
    for step in track(range(fitting.steps), "learning", console=Console(stderr=True)):
        rows = rest[torch.randint(len(rest), (fitting.batch,))]
        seen = features[rows].float()
        wrong = loss(net(F.dropout1d(disturbed(seen, spread) if fitting.careful else seen, MASKED)), truth[rows])
        optimiser.zero_grad()
        wrong.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if fitting.careful and step >= fitting.steps * (1 - AVERAGED):
            mean.update_parameters(net)
    if fitting.careful:
        net.load_state_dict(mean.module.state_dict())
    net.load_state_dict({name: weight.lerp(begun[name], fitting.back) for name, weight in net.state_dict().items()})
    net.eval()
    with torch.no_grad():
        return torch.cat([net(features[rows].float()) for rows in torch.split(held, fitting.batch)])


def disturbed(features: Tensor, spread: Tensor) -> Tensor:
    """Features (B, T, width), with deviations `spread` (width,), as another voice, place or moment might give them:
    with noise, without some features, with a gap, a little earlier or later.

    Source: Park et al., SpecAugment, arXiv 1904.08779, here behind the encoder.
    """
    many, length, width = features.shape
    noise = NOISE * spread * torch.randn_like(features) * torch.rand(many, 1, 1)
    kept = torch.rand(many, 1, width) >= DROPPED
    at = torch.arange(length)
    size = torch.randint(*GAP, (many, 1)) * (torch.rand(many, 1) < 0.5)
    first = torch.randint(max(length - END - GAP[1], 1), (many, 1))
    whole = (at < first) | (at >= first + size)
    moved = (at + torch.randint(-SHIFT, SHIFT + 1, (many, 1))).clamp(0, length - 1)
    changed = (features + noise) * kept * whole[:, :, None]
    return changed.gather(1, moved[:, :, None].expand_as(changed))


def keep(net: Reader, file: Path) -> None:
    """Write the weights of `net`, mostly in int8, to `file`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, net, torch.float16, compact=True)
