"""What training draws: things apart from each other, their colours, other hands, grounds."""

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import label

from omni2.train.data import artists, drawings
from omni2.train.data.things import COLOURS, things

RNG = np.random.default_rng


def square() -> Image.Image:
    return Image.new("RGBA", (100, 80), (220, 30, 30, 255))


def painter(drawing: artists.Drawing, photographs: bool = False) -> artists.Artist:
    return artists.Artist("somebody", "CC0-1.0", lambda thing: [drawing], photographs)


@pytest.mark.parametrize("count", range(1, 6))
def test_as_many_as_are_said_stand_apart(count: int) -> None:
    for seed in range(20):
        picture = drawings.arrange(square(), count, Image.new("RGB", (224, 224), "white"), RNG(seed))
        _, found = label(np.asarray(picture)[..., 1] < 128)
        assert found == count


def test_a_turned_hue_has_the_name_of_the_colour() -> None:
    red, green, blue, alpha = drawings.turn(square(), drawings.HUES["blue"]).getpixel((5, 5))
    assert blue > 180 > green > red
    assert alpha == 255


def test_only_what_is_painted_so_has_the_colour() -> None:
    sprite = Image.new("RGBA", (10, 10))
    sprite.paste((30, 160, 40, 255), (0, 0, 10, 5))  # half of it; the rest is transparent
    assert [colour for colour in COLOURS if drawings.shows(sprite, colour)] == ["green"]
    sprite.paste((250, 250, 250, 255), (0, 5, 10, 10))
    assert {colour for colour in COLOURS if drawings.shows(sprite, colour)} == {"green", "white"}
    tree = next(thing for thing in things() if thing.name == "tree")
    _, scene = drawings.draw(tree, 1, RNG(0), painter(lambda: Image.new("RGBA", (60, 60), (40, 60, 220, 255))))
    assert scene.colour is None  # blue trees are not asked about
    for colour, hue in drawings.HUES.items():
        assert drawings.shows(Image.new("RGBA", (9, 9), f"hsv({hue}, 80%, 90%)"), colour), colour


def test_drawings_are_what_the_scene_says() -> None:
    balloon = next(thing for thing in things() if thing.name == "balloon")
    drawn = [drawings.draw(balloon, 2, RNG(seed), painter(square)) for seed in range(30)]
    again = [drawings.draw(balloon, 2, RNG(seed), painter(square)) for seed in range(30)]
    assert all(np.array_equal(a, b) and s == t for (a, s), (b, t) in zip(drawn, again, strict=True))
    assert {picture.size for picture, _ in drawn} == {(224, 224)}
    assert {scene.count for _, scene in drawn} == {2}
    assert len({scene.colour for _, scene in drawn}) > 4


def test_photographs_are_not_painted_over(monkeypatch: pytest.MonkeyPatch) -> None:
    apple = next(thing for thing in things() if thing.name == "apple")
    monkeypatch.setattr(drawings, "_worn", lambda picture, rng: picture)

    def kept(photographs: bool) -> float:
        shown = [drawings.draw(apple, 1, RNG(seed), painter(square, photographs))[0] for seed in range(20)]
        return float(np.mean([(np.asarray(one) == (220, 30, 30)).all(-1).sum() > 2000 for one in shown]))

    assert kept(photographs=True) == 1
    assert kept(photographs=False) < 0.3


def test_dead_leaves_are_large_and_small() -> None:
    grounds = [np.asarray(drawings._leaves(np.full(3, 128.0), 40.0, RNG(seed)), dtype=float) for seed in range(9)]
    levels = np.stack([ground.mean(-1) for ground in grounds])
    assert levels.shape == (9, 224, 224)

    def alike(step: int) -> float:  # levels `step` pixels apart
        return float(np.corrcoef(levels[..., step:].flatten(), levels[..., :-step].flatten())[0, 1])

    assert alike(1) > 0.9
    assert 0.2 < alike(12) < alike(4) < 0.9
