"""Pictures of things out of two collections of files, both Debian packages.

`text/clipart.json` says which of their files show what; ones that show several things, words or signs are left out.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from omni2.errors import OmniError
from omni2.train.data.questions import TEXT
from omni2.train.data.things import Thing

SIZE = 256  # pixels of the longer side, at most


@dataclass(frozen=True)
class Collection:
    """A folder of pictures, the package that has it, and its name in the table."""

    folder: Path
    package: str
    name: str


OPEN_CLIP_ART = Collection(Path("/usr/share/openclipart/png"), "openclipart-png", "open_clip_art")
TUX_PAINT = Collection(Path("/usr/share/tuxpaint/stamps"), "tuxpaint-stamps-default", "tux_paint")


def clipart(thing: Thing, collection: Collection) -> list[Callable[[], Image.Image]]:
    """What a collection has of a thing.  Raises OmniError: the collection is not installed."""
    if not collection.folder.is_dir():
        package = f"apt-get install --no-install-recommends {collection.package}"
        raise OmniError(f"{collection.folder} is missing: {package}")
    return [partial(load, collection.folder / file) for file in _table()[collection.name].get(thing.name, [])]


@cache
def load(file: Path) -> Image.Image:
    """A PNG or SVG file as RGBA, at most `SIZE` pixels wide and high, cut to what is painted.

    Raises OmniError: no renderer for SVG installed.
    """
    source: Path | io.BytesIO = io.BytesIO(rendered(2 * SIZE, file=file)) if file.suffix == ".svg" else file
    with Image.open(source) as picture:
        picture.thumbnail((2 * SIZE, 2 * SIZE))  # some are of thousands of pixels
        drawn = picture.convert("RGBA")
    drawn = drawn.crop(drawn.getbbox())
    drawn.thumbnail((SIZE, SIZE))
    return drawn


def rendered(width: int, svg: str | None = None, file: Path | None = None) -> bytes:
    """A drawing, its text or its file, as PNG, `width` pixels wide.  Raises OmniError: no renderer installed."""
    if find_spec("resvg_py") is None:
        raise OmniError("the package resvg-py is missing: pip install 'omni2[train]'")
    from resvg_py import svg_to_bytes

    return bytes(svg_to_bytes(svg_string=svg, svg_path=None if file is None else str(file), width=width))


@cache
def _table() -> dict[str, dict[str, list[str]]]:
    """Collection → name of a thing → files."""
    table: dict[str, dict[str, list[str]]] = json.loads((TEXT / "clipart.json").read_text(encoding="ascii"))
    return table
