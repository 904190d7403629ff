"""Pictures drawn for training: things on many grounds, one or several, worn by what cameras do."""

import io
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter

from omni2.train.data.artists import Artist
from omni2.train.data.things import HUES, Scene, Thing, recoloured, things

SIDE = 224  # pixels, as the encoder takes them: no second resizing
RANGES = {  # degrees of hue that pass for a colour
    "red": (338, 378), "orange": (14, 44), "yellow": (36, 72), "green": (56, 172), "blue": (180, 252),
    "purple": (250, 306), "pink": (296, 384), "brown": (4, 48),
}  # fmt: skip
LARGEST = 0.3  # of what is painted has the colour that the thing is said to have
GROUNDS = {"white": 0.3, "grey": 0.1, "plain": 0.15, "gradient": 0.1, "patches": 0.15, "leaves": 0.2}  # how often


def draw(thing: Thing, count: int, rng: np.random.Generator, artist: Artist) -> tuple[Image.Image, Scene]:
    """`count` (1 to 5) of `thing`, which `artist` drew, on a drawn ground, 224 * 224 RGB, and what is to be seen."""
    drawings = artist.drawings(thing)
    sprite = drawings[rng.integers(len(drawings))]()
    colour = thing.colour if thing.colour is None or shows(sprite, thing.colour) else None
    if colour in HUES and thing.name in recoloured() and rng.random() < 0.6:
        turned = str(rng.choice(list(HUES)))
        sprite, colour = turn(sprite, HUES[turned] - HUES[colour]), turned
    sprite = _mirrored(sprite, rng) if artist.photographs else _restyled(sprite, rng)
    picture = arrange(sprite, count, _ground(rng), rng)
    return _worn(picture, rng), Scene(thing.name, thing.plural, count, colour)


def shows(sprite: Image.Image, colour: str) -> bool:
    """Whether enough of an RGBA picture is of a colour (of `COLOURS`): not every artist paints elephants grey."""
    hue, saturation, value = (np.asarray(part, float) for part in sprite.convert("RGB").convert("HSV").split())
    hue, saturation, value = hue * 360 / 256, saturation / 255, value / 255
    if colour in ("black", "white", "grey"):
        dull = saturation < 0.3
        there = {"black": value < 0.4, "white": dull & (value > 0.85), "grey": dull & (value > 0.3) & (value < 0.92)}
        found = there[colour]
    else:
        low, high = RANGES[colour]
        found = ((hue - low) % 360 <= high - low) & (saturation > 0.2) & (value > 0.25)
        if colour == "brown":
            found &= value < 0.85
        elif colour == "pink":
            found &= ((hue >= 296) & (hue < 345)) | (saturation < 0.7)
    painted = np.asarray(sprite.getchannel("A")) > 127
    return bool((found & painted).sum() > LARGEST * painted.sum())


def arrange(sprite: Image.Image, count: int, ground: Image.Image, rng: np.random.Generator) -> Image.Image:
    """`count` (1 to 5) copies of an RGBA picture on `ground` (224 * 224, changed), apart from each other, any size."""
    for x, y, side in _places(count, rng):
        copy = _posed(sprite, side, rng)
        ground.paste(copy, (round(x - copy.width / 2), round(y - copy.height / 2)), copy)
    return ground


def draw_any(rng: np.random.Generator, artist: Artist) -> tuple[Image.Image, Scene]:
    """One of all things that `artist` drew, names evenly; one of it more often than several."""
    variants = list(_drawn_by(artist).values())
    variant = variants[rng.integers(len(variants))]
    thing = variant[rng.integers(len(variant))]
    count = 1 if not thing.plural or rng.random() < 0.65 else int(rng.integers(2, 6))
    return draw(thing, count, rng, artist)


@cache
def _drawn_by(artist: Artist) -> dict[str, list[Thing]]:
    """The things by name that `artist` drew."""
    found: dict[str, list[Thing]] = {}
    for thing in things():
        if artist.drawings(thing):
            found.setdefault(thing.name, []).append(thing)
    return found


def turn(sprite: Image.Image, degrees: float) -> Image.Image:
    """An RGBA picture with all its hues turned; light, saturation and shape stay."""
    hue, saturation, value = sprite.convert("RGB").convert("HSV").split()
    turned = hue.point([round(level + degrees * 256 / 360) % 256 for level in range(256)])
    made = Image.merge("HSV", (turned, saturation, value)).convert("RGB")
    made.putalpha(sprite.getchannel("A"))
    return made


def _mirrored(sprite: Image.Image, rng: np.random.Generator) -> Image.Image:
    return sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else sprite


def _restyled(sprite: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Another artist's hand: mirrored, flatter colours, other light, dark outlines."""
    sprite = _mirrored(sprite, rng)
    alpha, colours = sprite.getchannel("A"), sprite.convert("RGB")
    if rng.random() < 0.4:
        colours = colours.filter(ImageFilter.MedianFilter(int(rng.choice([5, 7, 9]))))
    edges = None
    if rng.random() < 0.5:
        edges, alpha = _outlines(colours, alpha, rng)
    colours = ImageEnhance.Color(colours).enhance(rng.uniform(0.6, 1.3))
    colours = ImageEnhance.Brightness(colours).enhance(rng.uniform(0.8, 1.15))
    if edges is not None:
        colours.paste((0, 0, 0), mask=edges)
    colours.putalpha(alpha)
    return turn(colours, rng.uniform(-6, 6))


def _outlines(colours: Image.Image, alpha: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """Where dark lines go (within the shape, along its rim), and the shape made wider by the rim."""
    pen = int(rng.choice([3, 5, 7]))
    wide = alpha.filter(ImageFilter.MaxFilter(pen))
    rim = ImageChops.subtract(wide, alpha.filter(ImageFilter.MinFilter(3)))
    steps = colours.convert("L").filter(ImageFilter.MedianFilter(5)).filter(ImageFilter.FIND_EDGES)
    threshold = int(rng.integers(20, 60))
    inner = steps.point([255 * (level > threshold) for level in range(256)]).filter(ImageFilter.MaxFilter(3))
    inner = ImageChops.multiply(inner, alpha)
    return ImageChops.lighter(rim, inner), wide


def _places(count: int, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Centres and sides of `count` squares that do not overlap, in pixels; now and then all in one row."""
    if count == 1:
        side = SIDE * rng.uniform(0.4, 0.98)
        room = (SIDE - side) / 2
        return [(SIDE / 2 + rng.uniform(-room, room), SIDE / 2 + rng.uniform(-room, room), side)]
    columns = count if rng.random() < 0.25 else int(rng.integers(2, 4)) if count < 5 else 3
    rows = 1 if columns == count and rng.random() < 0.7 else columns
    cell = SIDE / columns
    share = rng.uniform(0.6, 0.95)
    room = cell * (1 - share) / 2
    top = (SIDE - rows * cell) * rng.random()
    return [
        (
            (index % columns + 0.5) * cell + rng.uniform(-room, room),
            top + (index // columns + 0.5) * cell + rng.uniform(-room, room),
            cell * share,
        )
        for index in rng.permutation(rows * columns)[:count]
    ]


def _posed(sprite: Image.Image, side: float, rng: np.random.Generator) -> Image.Image:
    """Fitted into a square of `side` pixels, a little stretched and turned."""
    angle = rng.normal(0, 8) if rng.random() < 0.85 else rng.uniform(-60, 60)
    stretch = rng.uniform(0.85, 1.15)
    scale = side / max(sprite.width * stretch, sprite.height)
    size = (max(8, round(sprite.width * stretch * scale)), max(8, round(sprite.height * scale)))
    turned = sprite.resize(size, Image.Resampling.BILINEAR).rotate(angle, Image.Resampling.BILINEAR, expand=True)
    turned.thumbnail((round(side), round(side)), Image.Resampling.BILINEAR)
    return turned


def _ground(rng: np.random.Generator) -> Image.Image:
    """White, grey, a colour, two colours running into each other, soft patches of several, or leaves."""
    kind = str(rng.choice(list(GROUNDS), p=list(GROUNDS.values())))
    if kind == "white":
        return Image.new("RGB", (SIDE, SIDE), "white")
    if kind == "grey":
        return Image.new("RGB", (SIDE, SIDE), (int(rng.integers(40, 250)),) * 3)
    base, spread = rng.uniform(60, 250) + rng.normal(0, 40, 3), rng.uniform(10, 50)
    if kind == "leaves":
        return _leaves(base, spread, rng)
    cells = {"plain": 1, "gradient": 2, "patches": int(rng.integers(3, 12))}[kind]
    return _coloured(base + rng.normal(0, spread, (cells, cells, 3))).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def _leaves(base: npt.NDArray[np.float64], spread: float, rng: np.random.Generator) -> Image.Image:
    """Dead leaves: discs of all sizes, a few of them large, over each other, as photographs are from afar.

    Small ones are likelier by the cube of their size, which gives the statistics of natural images (Lee, Mumford &
    Huang 2001, "Occlusion models for natural images").
    """
    ground = _coloured(np.broadcast_to(base, (1, 1, 3))).resize((SIDE, SIDE))
    pen = ImageDraw.Draw(ground)
    for _ in range(int(rng.integers(30, 200))):
        radius = 4 / np.sqrt(rng.uniform((8 / SIDE) ** 2, 1))  # pixels
        x, y = rng.uniform(0, SIDE, 2)
        level = (base + rng.normal(0, 1.5 * spread, 3)).clip(0, 255)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(level.astype(int).tolist()))
    return ground.filter(ImageFilter.GaussianBlur(rng.uniform(0, 3)))


def _coloured(levels: npt.NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def _worn(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Blur, noise and JPEG, each now and then."""
    if rng.random() < 0.2:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2)))
    if rng.random() < 0.2:
        noise = rng.normal(0, rng.uniform(3, 15), (SIDE, SIDE, 1)).astype(np.float32)
        picture = Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))
    if rng.random() < 0.25:
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=int(rng.integers(35, 90)))
        picture = Image.open(data).convert("RGB")
    return picture
