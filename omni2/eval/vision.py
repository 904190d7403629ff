"""Does the embedded model see?  Drawings of an artist it never saw, photographs, and unseen phrasings.

The drawings are Twemoji's (see `omni2/assets/drawings`), the photographs samples of scikit-image, scikit-learn, gradio
and Debian's `opencv-doc`; all of them are for evaluation only.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from rich.progress import track

from omni2.omni import OmniModel
from omni2.train.data.drawings import SIDE, arrange, paint
from omni2.train.data.questions import normalise
from omni2.train.data.things import COLOURS, NUMBERS, About, Thing, names, phrasings, things

Kind = Literal["name", "colour", "count", "caption"]

FONT = Path(__file__).parents[1] / "assets" / "drawings" / "twemoji.woff2"
SHARE = 0.8  # of the picture that a single thing takes
CAPTIONED = 4  # one of so many things is shown without a question as well
CARRIERS = frozenset(["this", "these", "is", "are", "there", "i", "see", "a", "an", "the", *NUMBERS])
OTHERWISE = ("sun", "star", "lightning bolt", "bell", "trumpet", "saxophone")  # this artist paints them orange
OPENCV = Path("/usr/share/doc/opencv-doc/examples/data")  # of Debian's opencv-doc
PHOTOGRAPHS = (  # package or folder, file, right names
    ("skimage", "data/chelsea.png", "cat"),
    ("skimage", "data/coffee.png", "cup of coffee"),
    ("skimage", "data/motorcycle_left.png", "motorcycle"),
    ("skimage", "data/rocket.jpg", "rocket"),
    ("skimage", "data/horse.png", "horse"),
    ("skimage", "data/coins.png", "coin"),
    ("skimage", "data/camera.png", "camera"),
    ("skimage", "data/moon.png", "moon"),
    ("sklearn", "datasets/images/china.jpg", "castle|building|tower|house"),
    ("sklearn", "datasets/images/flower.jpg", "flower"),
    ("gradio", "media_assets/images/cheetah1.jpg", "leopard"),
    ("gradio", "media_assets/images/lion.jpg", "lion"),
    ("gradio", "media_assets/images/tower.jpg", "tower"),
    (OPENCV, "apple.jpg", "apple"),
    (OPENCV, "orange.jpg", "orange"),
    (OPENCV, "butterfly.jpg", "butterfly"),
    (OPENCV, "baboon.jpg", "monkey"),
    (OPENCV, "home.jpg", "house|building|castle|church"),
    (OPENCV, "chicky_512.png", "dog"),
    (OPENCV, "licenseplate_motion.jpg", "car|taxi"),
)


@dataclass(frozen=True)
class Case:
    """One picture of the test, RGB: what is asked (None: nothing), and the words any one of which is right."""

    kind: Kind
    picture: Image.Image
    question: str | None
    right: frozenset[str]


@dataclass(frozen=True)
class Result:
    """What the model said to a case."""

    kind: Kind
    question: str | None
    right: frozenset[str]
    reply: str

    @property
    def is_right(self) -> bool:
        """Whether the reply names the thing, its colour or its number, and no other."""
        return said(self.reply, self.kind) in self.right


def cases(seed: int = 0) -> Iterator[Case]:
    """Every thing by name, every known colour, as many counts of 1 to 5, a quarter of the things without a question."""
    rng = np.random.default_rng(seed)
    for index, thing in enumerate(things()):
        sprite = paint(thing.codes[0], FONT, SIDE)
        alone = _alone(sprite)
        yield Case("name", alone, _question("name", rng), names(thing.name))
        if thing.colour and thing.name not in OTHERWISE:
            yield Case("colour", alone, _question("colour", rng), frozenset({thing.colour}))
        if thing.plural:
            yield _count(thing, sprite, rng)
        if index % CAPTIONED == 0:
            yield Case("caption", alone, None, names(thing.name))


def run(model: OmniModel, questions: Iterable[Case]) -> list[Result]:
    """Show every picture with its typed question; the answers come as text."""
    results = []
    for case in track(list(questions), description="showing drawings"):
        reply = model.answer(text=case.question, image=case.picture, reply="text").text
        results.append(Result(case.kind, case.question, case.right, reply))
    return results


def photographs(model: OmniModel) -> dict[str, Result]:
    """File name → what the model names in each photograph; those that are not installed are left out."""
    results = {}
    for place, file, right in PHOTOGRAPHS:
        path = (_folder(place) if isinstance(place, str) else place) / file
        if path.exists():
            question = phrasings("name", "test")[0]
            reply = model.answer(text=question, image=path, reply="text").text
            every = frozenset().union(*(names(name) for name in right.split("|")))
            results[path.name] = Result("name", question, every, reply)
    return results


def table(results: Sequence[Result], photos: dict[str, Result]) -> dict[str, float]:
    """The figures: shares of right answers in percent."""
    figures = {}
    for kind in ("name", "colour", "count", "caption"):
        hits = [result.is_right for result in results if result.kind == kind]
        figures[f"drawings of another artist, {kind} ({len(hits)}): right %"] = 100 * sum(hits) / max(len(hits), 1)
    hits = [result.is_right for result in photos.values()]
    return figures | {f"photographs, name ({len(hits)}): right %": 100 * sum(hits) / max(len(hits), 1)}


def said(reply: str, kind: Kind) -> str:
    """What a reply comes to: a name without article, number and colour; or the colour; or the number; or ""."""
    words = normalise(reply).split()
    if kind in ("colour", "count"):
        found = {word for word in words if word in (COLOURS if kind == "colour" else NUMBERS)}
        return found.pop() if len(found) == 1 else ""
    rest = [word for word in words if word not in CARRIERS]
    while len(rest) > 1 and rest[0] in COLOURS:
        rest = rest[1:]
    return " ".join(rest)


def _count(thing: Thing, sprite: Image.Image, rng: np.random.Generator) -> Case:
    count = int(rng.integers(1, 6))
    picture = arrange(sprite, count, Image.new("RGB", (SIDE, SIDE), "white"), rng)
    return Case("count", picture, _question("count", rng), frozenset({NUMBERS[count]}))


def _question(about: About, rng: np.random.Generator) -> str:
    return str(rng.choice(phrasings(about, "test")))


def _alone(sprite: Image.Image) -> Image.Image:
    """In the middle of a white picture."""
    ground = Image.new("RGB", (SIDE, SIDE), "white")
    scale = SHARE * SIDE / max(sprite.size)
    fitted = sprite.resize((round(sprite.width * scale), round(sprite.height * scale)), Image.Resampling.BICUBIC)
    ground.paste(fitted, ((SIDE - fitted.width) // 2, (SIDE - fitted.height) // 2), fitted)
    return ground


def _folder(package: str) -> Path:
    spec = find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin else Path("/nonexistent")
