"""The evaluation of pictures: what counts as right, which pictures are shown, what the table says."""

from pathlib import Path

import numpy as np
import pytest
from deaf import sound, words
from PIL import Image
from toys import photo

from omni2.eval import asking, vision
from omni2.eval.report import Table
from omni2.omni import Answer, Timings
from omni2.train.data.things import phrasings, things


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        ("This is a banana.", "name", "banana"),
        ("These are three ears of corn.", "name", "ears of corn"),
        ("I see a red apple.", "caption", "apple"),
        ("This is an orange.", "spoken", "orange"),
        ("This is a chicken leg.", "photograph", "chicken leg"),
        ("It is yellow.", "colour", "yellow"),
        ("It is yellow or red.", "colour", ""),
        ("There are four apples.", "count", "four"),
        ("I don't know that yet.", "count", ""),
    ],
)
def test_what_was_said(reply: str, kind: vision.Kind, words: str) -> None:
    assert vision.said(reply, kind) == words


class Guesser:
    """A model that takes everything for one red apple."""

    def answer(self, audio: np.ndarray | None = None, *, text: str | None = None, image: object, reply: str) -> Answer:
        assert reply == "text"
        asked = words(audio) if audio is not None else text
        said = {"colour": "It is red.", "count": "There is one apple."}
        about = next((a for a in said if asked in phrasings(a, "test")), None)
        reply = said[about] if about else "I see an apple." if asked is None else "This is an apple."
        return Answer(reply, np.zeros(0, np.float32), 24_000, "end", Timings(None, None, 0.0, 0.0))


def figures(table: Table) -> dict[str, float]:
    return {figure.key.removeprefix("vision."): figure.value for figure in table.figures}


@pytest.fixture
def fruit(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Apples, a banana and bread alone, painted as squares; voices whose sounds are letters."""
    rows = [thing for thing in things() if thing.name in ("apple", "banana", "bread")]
    monkeypatch.setattr(vision, "paint", lambda code, font, size: Image.new("RGBA", (100, 80), (220, 30, 30, 255)))
    monkeypatch.setattr(vision, "things", lambda: rows)
    monkeypatch.setattr(vision, "SOME", 1)
    monkeypatch.setattr(asking, "say", lambda voice, text: sound(text))
    asking.spoken.cache_clear()
    yield [thing.name for thing in rows]
    asking.spoken.cache_clear()


def test_the_table_counts_what_is_right(fruit: list[str]) -> None:
    shown = list(vision.cases(seed=3))
    table = vision.table(vision.run(Guesser(), shown))
    got, counts = figures(table), [case.right for case in shown if case.kind == "count"]
    assert got["name"] == got["caption"] == got["spoken"] == pytest.approx(100 * fruit.count("apple") / len(fruit))
    assert got["colour"] == pytest.approx(100 * 1 / 3)  # red apple, green apple, yellow banana
    assert got["count"] == pytest.approx(100 * counts.count(frozenset({"one"})) / len(counts))
    missed = [line for line in table.wrong if line.startswith("name, banana")]
    assert len(missed) == 1
    assert "This is an apple. (right: banana" in missed[0]


def test_fewer_things_can_be_drawn(fruit: list[str]) -> None:
    assert len({case.shown for case in vision.cases(limit=1) if case.kind == "name"}) == 1


def test_photographs_that_are_there_are_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Image.fromarray(photo()).save(tmp_path / "here.png")
    listed = [(tmp_path, "here.png", "apple|pear"), (tmp_path, "gone.png", "cat"), ("no_such_package", "a.png", "cat")]
    monkeypatch.setattr(vision, "PHOTOGRAPHS", listed)
    results = vision.run(Guesser(), vision.photographs())
    assert [one.case.shown for one in results] == ["here.png"]
    table = vision.table(results)
    assert figures(table)["photograph"] == 100
    assert table.notes[0] == "photograph here.png, right: This is an apple."
    assert table.notes[1].startswith("2 photographs are not installed")
