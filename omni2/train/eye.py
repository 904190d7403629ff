"""Training of the embedded eye on drawings: it comes to know a thing by whichever hand drew it.

EfficientNet learned photographs.  Here three linear heads over its features name what is drawn anew for every step, its
colour and its number; they teach the eye and are left behind.  So that photographs are not forgotten, ImageNet's
classifier goes on as it is: it has to see a drawn lion as one of its lions, and in cut-out photographs what it saw
before (Li & Hoiem, "Learning without forgetting", arXiv 1606.09282).  What sees through the eye has to learn its new
features (`omni2 data pictures --model …`, `omni2 train nano --stage see`).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni2.efficientnet import WIDTH, EfficientNet, lite_pixels
from omni2.train.data.artists import ARTISTS
from omni2.train.data.drawings import draw_any
from omni2.train.data.things import COLOURS, NUMBERS, Scene, classes, things
from omni2.train.efficientnet_weights import Lite, load_lite
from omni2.train.run import Stateful, cosine_rate, follow, set_rate

STATE = "eye.pt"
FROZEN = 5  # blocks: edges and textures are the same in drawings, and cost most of the time
HEADS = 4  # times the rate of the eye, which has less to learn
UNSURE = 0.1  # of the probability is spread over all names (label smoothing)
NONE = -100  # what cross_entropy leaves out


@dataclass(frozen=True)
class EyeTraining:
    """Options of one training run: a step takes `batch` pictures; the rate rises, then falls along a cosine.

    `beside` is what colour and number count in the loss, each, beside the name; `photographs` is what each of the two
    memories of photographs counts.
    """

    steps: int = 1500
    batch: int = 32
    learning_rate: float = 5e-4
    warmup: int = 50
    beside: float = 0.3
    photographs: float = 0.3
    seed: int = 0
    save_every: int = 50
    log_every: int = 10


@dataclass(frozen=True)
class Drawn:
    """Pictures (B, 3, 224, 224), what they show, and which of them were cut out of photographs: (B,), bool."""

    pixels: Tensor
    scenes: list[Scene]
    photographs: Tensor


class Heads(nn.Module):
    """What is in a picture, from its features: the name, the colour, the number."""

    def __init__(self, names: int) -> None:
        super().__init__()
        self.name, self.colour = nn.Linear(WIDTH, names), nn.Linear(WIDTH, len(COLOURS))
        self.number = nn.Linear(2 * WIDTH, len(NUMBERS))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B, 50, 1280) of `EfficientNet` → logits (B, names), (B, colours), (B, numbers)."""
        mean, patches = features[:, 0], features[:, 1:]
        return self.name(mean), self.colour(mean), self.number(torch.cat([mean, patches.amax(1)], 1))


class Memory:
    """What ImageNet's classifier makes of pictures, as the eye was when it came from there."""

    def __init__(self, lite: Lite, names: list[str]) -> None:
        self.lite = lite
        self.seen = torch.zeros(len(names), lite.classifier.out_features, dtype=torch.bool)  # classes of each thing
        for name, classes_of in classes().items():
            self.seen[names.index(name), classes_of] = True

    def losses(self, features: Tensor, drawn: Drawn, names: Tensor) -> list[Tensor]:
        """How unlikely things are to be seen as their classes; how far photographs are from what they were (KL).

        `features` (B, 50, 1280) are those of the eye that learns; what there is none of counts nothing.
        """
        scores = self.lite.classifier(features[:, 0]).log_softmax(-1)
        seen, photographs = self.seen[names], drawn.photographs
        known, losses = seen.any(1), []
        if known.any():
            losses.append(-scores[known].masked_fill(~seen[known], -torch.inf).logsumexp(-1).mean())
        if photographs.any():
            with torch.no_grad():
                before = self.lite.classifier(self.lite.encoder(drawn.pixels[photographs])[:, 0]).log_softmax(-1)
            losses.append(F.kl_div(scores[photographs], before, reduction="batchmean", log_target=True))
        return losses


class EyeRun:
    """Everything that one training run changes."""

    def __init__(self, eye: EfficientNet, training: EyeTraining, lite: Lite) -> None:
        torch.manual_seed(training.seed)
        self.eye, self.training = eye, training
        names = sorted({thing.name for thing in things()})
        self.names = {name: i for i, name in enumerate(names)}
        self.heads, self.memory = Heads(len(names)), Memory(lite, names)
        eye.requires_grad_(True)
        for part in (eye.stem, *eye.blocks[:FROZEN]):
            part.requires_grad_(False)
        learning = [weight for weight in eye.parameters() if weight.requires_grad]
        self.weights = [*learning, *self.heads.parameters()]
        groups = [{"params": learning}, {"params": list(self.heads.parameters())}]
        self.optimiser = torch.optim.AdamW(groups, training.learning_rate, weight_decay=0.02)

    def step(self, step: int, drawn: Drawn) -> dict[str, float]:
        """Learn from what is drawn → the loss, and the shares known of names, colours (if any), numbers."""
        training, scenes = self.training, drawn.scenes
        set_rate(self.optimiser, cosine_rate(step, training.steps, training.learning_rate, training.warmup))
        self.optimiser.param_groups[1]["lr"] *= HEADS
        truth = {
            "name": torch.tensor([self.names[scene.name] for scene in scenes]),
            "colour": torch.tensor([COLOURS.index(scene.colour) if scene.colour else NONE for scene in scenes]),
            "number": torch.tensor([scene.count for scene in scenes]),
        }
        features = self.eye(drawn.pixels)
        said = dict(zip(truth, self.heads(features), strict=True))
        loss = F.cross_entropy(said["name"], truth["name"], label_smoothing=UNSURE)
        for part in ("colour", "number"):
            wrong = F.cross_entropy(said[part], truth[part], reduction="sum", ignore_index=NONE)
            loss = loss + training.beside * wrong / (truth[part] != NONE).sum().clamp(min=1)
        for forgotten in self.memory.losses(features, drawn, truth["name"]):
            loss = loss + training.photographs * forgotten
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.weights, 2.0)
        self.optimiser.step()
        known = {part: (said[part].argmax(1) == truth[part])[truth[part] != NONE] for part in truth}
        return {"loss": loss.item()} | {
            part: right.float().mean().item() for part, right in known.items() if len(right)
        }

    def parts(self) -> dict[str, Stateful]:
        """What holds the run's state, by the names that a checkpoint has for it."""
        return {"eye": self.eye, "heads": self.heads, "optimiser": self.optimiser}


def train_eye(eye: EfficientNet, folder: Path, training: EyeTraining) -> EfficientNet:
    """Train `eye`, in place; `folder` gets `eye.pt` (resumed from when there) and `eye.jsonl`.

    Raises OmniError: the drawings of an artist are not installed; CheckpointError: ImageNet's classifier is not.
    """
    run = EyeRun(eye.train(), training, load_lite())
    follow(training, folder / STATE, run.parts(), lambda step: run.step(step, batch(training, step)))
    return eye.requires_grad_(False).eval()


def batch(training: EyeTraining, step: int) -> Drawn:
    """Pictures by all artists evenly, drawn from (seed, step)."""
    rng = np.random.default_rng((training.seed, step))
    artists = [ARTISTS[rng.integers(len(ARTISTS))] for _ in range(training.batch)]
    pictures, scenes = zip(*(draw_any(rng, artist) for artist in artists), strict=True)
    pixels = torch.stack([lite_pixels(picture) for picture in pictures])
    return Drawn(pixels, list(scenes), torch.tensor([artist.photographs for artist in artists]))
