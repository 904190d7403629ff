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

from omni2.eval.asking import spoken, together
from omni2.eval.report import Figure, Table, by, share
from omni2.omni import OmniModel
from omni2.train.data.artists import paint
from omni2.train.data.drawings import SIDE, arrange
from omni2.train.data.questions import normalise
from omni2.train.data.things import COLOURS, NUMBERS, About, Thing, names, phrasings, things
from omni2.train.data.voices import RESERVED
from omni2.vision import load_picture

Kind = Literal["name", "colour", "count", "caption", "spoken", "photograph"]

FONT = Path(__file__).parents[1] / "assets" / "drawings" / "twemoji.woff2"
SHARE = 0.8  # of the picture that a single thing takes
SOME = 4  # one of so many things is shown without a question as well, and with a spoken one
WHAT: dict[Kind, str] = {
    "name": "drawings of another artist, named: right",
    "spoken": "… asked aloud",
    "colour": "… their colour",
    "count": "… how many",
    "caption": "… without a question",
    "photograph": "photographs, named: right",
}
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
    """One picture of the test, RGB: what is asked, and the words any one of which is right.

    Nothing is asked in a caption; with a `voice` the question is spoken.  `shown` names the picture.
    """

    kind: Kind
    picture: Image.Image
    question: str | None
    right: frozenset[str]
    shown: str
    voice: str | None = None


@dataclass(frozen=True)
class Result:
    """What the model said to a case."""

    case: Case
    reply: str

    @property
    def is_right(self) -> bool:
        """Whether the reply names the thing, its colour or its number, and no other."""
        return said(self.reply, self.case.kind) in self.case.right


def cases(limit: int | None = None, seed: int = 0) -> Iterator[Case]:
    """Every thing by name, every known colour, as many counts of 1 to 5, some names asked aloud or not at all.

    `limit` things are drawn, by default all are shown.
    """
    rng = np.random.default_rng(seed)
    every = things()
    drawn = range(len(every)) if limit is None else sorted(rng.permutation(len(every))[:limit])
    for index, thing in enumerate(every[i] for i in drawn):
        sprite = paint(thing.codes[0], FONT, SIDE)
        alone, right = _alone(sprite), names(thing.name)
        yield Case("name", alone, _question("name", rng), right, thing.name)
        if thing.colour and thing.name not in OTHERWISE:
            yield Case("colour", alone, _question("colour", rng), frozenset({thing.colour}), thing.name)
        if thing.plural:
            yield _count(thing, sprite, rng)
        if index % SOME == 0:
            yield Case("caption", alone, None, right, thing.name)
            yield Case("spoken", alone, _question("name", rng), right, thing.name, str(rng.choice(RESERVED)))


def photographs() -> Iterator[Case]:
    """The photographs that are installed, to be named."""
    for place, file, right in PHOTOGRAPHS:
        path = (_folder(place) if isinstance(place, str) else place) / file
        if path.exists():
            every = frozenset[str]().union(*(names(name) for name in right.split("|")))
            yield Case("photograph", load_picture(path), phrasings("name", "test")[0], every, path.name)


def run(model: OmniModel, shown: Iterable[Case]) -> list[Result]:
    """Show every picture with its question; the answers come as text.  Raises AbilityError if the model cannot see."""
    todo = list(shown)
    for case in todo:
        if case.voice and case.question:
            spoken(case.voice, case.question)

    def one(case: Case) -> Result:
        if case.voice and case.question:
            said = model.answer(spoken(case.voice, case.question), image=case.picture, reply="text")
        else:
            said = model.answer(text=case.question, image=case.picture, reply="text")
        return Result(case, said.text)

    return together(one, todo, "showing pictures")


def table(results: Sequence[Result]) -> Table:
    """Shares of right answers in percent; each photograph with what was said of it as a note."""
    groups = by(results, lambda one: one.case.kind)
    figures = [Figure("vision.things", "things with a name", len({thing.name for thing in things()}))]
    for kind, what in WHAT.items():
        hits = [one.is_right for one in groups.get(kind, [])]
        figures.append(Figure(f"vision.{kind}", what, share(hits), "%", len(hits)))
    photos = groups.get("photograph", [])
    notes = [f"photograph {one.case.shown}, {'right' if one.is_right else '**wrong**'}: {one.reply}" for one in photos]
    if missing := len(PHOTOGRAPHS) - len(photos):
        notes.append(f"{missing} photographs are not installed (scikit-image, scikit-learn, gradio; opencv-doc)")
    return Table(figures, notes, wrong(results))


def wrong(results: Sequence[Result]) -> Iterator[str]:
    """Every wrong answer about a picture."""
    for one in results:
        if not one.is_right:
            asked, right = one.case.question or "no question", ", ".join(sorted(one.case.right))
            yield f"{one.case.kind}, {one.case.shown}: {asked} → {one.reply} (right: {right})"


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
    return Case("count", picture, _question("count", rng), frozenset({NUMBERS[count]}), thing.plural)


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
