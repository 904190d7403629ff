"""What pictures show and what is said about it: things, scenes, questions and answers.

`text/pictures.json` lists the things (the emoji that draw them, name, plural, colour, other right names), the ImageNet
classes that are photographs of them, and the phrasings of the three questions.
"""

import json
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

from omni2.train.data.questions import TEXT, normalise

About = Literal["name", "colour", "count"]
Topic = Literal["name", "colour", "count", "caption"]
Part = Literal["train", "test"]

COUNTED = 0.4  # as often as several things, a single one is counted: else most answers were "one"
NUMBERS = ("no", "one", "two", "three", "four", "five")
HUES = {"red": 0, "orange": 30, "yellow": 54, "green": 125, "blue": 218, "purple": 275, "pink": 325}  # degrees
COLOURS = (*HUES, "brown", "black", "white", "grey")


@dataclass(frozen=True)
class Thing:
    """An everyday thing: the code points of its emoji, its plural ("" for what is not counted, as bread).

    `colour` is the one a person would name, or None; `others` are names that are right as well.
    """

    name: str
    plural: str
    codes: tuple[int, ...]
    colour: str | None
    others: tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """What a picture shows: `count` of one thing, all of one colour (None: not to be asked)."""

    name: str
    plural: str
    count: int = 1
    colour: str | None = None


@cache
def _text() -> dict[str, Any]:
    text: dict[str, Any] = json.loads((TEXT / "pictures.json").read_text(encoding="ascii"))
    return text


@cache
def things() -> tuple[Thing, ...]:
    """All things, in the file's order; one that comes in several colours stands there once for each."""
    return tuple(
        Thing(name, plural, tuple(int(code, 16) for code in codes.split()), colour or None, tuple(others))
        for codes, name, plural, colour, others in _text()["things"]
    )


def recoloured() -> frozenset[str]:
    """The names of things that may have any colour."""
    return frozenset(_text()["recoloured"])


def classes() -> dict[str, list[int]]:
    """Name of a thing → the ImageNet classes that show it."""
    return dict(_text()["classes"])


def phrasings(about: About, part: Part) -> list[str]:
    """The ways to ask about a picture; those of the two parts are distinct."""
    sentences: list[str] = _text()["questions"][about][part]
    return sentences


def answer(scene: Scene, about: About) -> str:
    """The one right answer.  Raises ValueError if the scene has none: no colour known, or not counted."""
    if about == "name":
        return f"This is {_one(scene.name, scene)}." if scene.count == 1 else f"These are {_many(scene)}."
    if about == "colour" and scene.colour:
        return f"It is {scene.colour}." if scene.count == 1 else f"They are {scene.colour}."
    if about == "count" and scene.plural:
        return f"There is one {scene.name}." if scene.count == 1 else f"There are {_many(scene)}."
    raise ValueError(f"{scene} has no {about}")


def caption(scene: Scene) -> str:
    """What is said of a picture that comes without a question."""
    if scene.count > 1:
        return f"I see {_many(scene)}."
    # "an orange orange" helps nobody
    coloured = f"{scene.colour} {scene.name}" if scene.colour and scene.colour != scene.name else scene.name
    return f"I see {_one(coloured, scene)}."


def topics(scene: Scene, rng: np.random.Generator, n: int) -> list[Topic]:
    """Draw `n` things to say about `scene`: its name first, then others, and the name again where there are too few."""
    others: list[Topic] = ["caption", *_abouts(scene)[1:]]
    if scene.count == 1 and "count" in others and rng.random() >= COUNTED:
        others.remove("count")
    drawn: list[Topic] = [others[i] for i in rng.permutation(len(others))]
    name: list[Topic] = ["name"]
    return [*name, *drawn, *name * n][:n]


def ask(scene: Scene, topic: Topic, rng: np.random.Generator, part: Part = "train") -> tuple[str, str]:
    """Draw a question about `scene`, "" for a caption, and its right answer.  Raises ValueError as `answer` does."""
    if topic == "caption":
        return "", caption(scene)
    return str(rng.choice(phrasings(topic, part))), answer(scene, topic)


def answers() -> list[str]:
    """Every answer and caption there can be, each once, in the things' order."""
    found: dict[str, None] = {}
    for thing in things():
        hues = HUES if thing.name in recoloured() else ()
        colours = dict.fromkeys([thing.colour, None, *hues])  # None: imagined ones have no colour
        for count in range(1, len(NUMBERS) if thing.plural else 2):
            for colour in colours:
                scene = Scene(thing.name, thing.plural, count, colour)
                found |= dict.fromkeys([caption(scene), *(answer(scene, about) for about in _abouts(scene))])
    return list(found)


def names(name: str) -> frozenset[str]:
    """Every right name for the thing called `name`, singular and plural, normalised."""
    found = {name}
    for thing in things():
        if thing.name == name:
            found |= {thing.plural, *thing.others, *(f"{other}s" for other in thing.others)}
    return frozenset(normalise(each) for each in found if each)


def _abouts(scene: Scene) -> list[About]:
    """What can be asked about a scene."""
    abouts: list[About] = ["name"]
    if scene.colour:
        abouts.append("colour")
    if scene.plural:
        abouts.append("count")
    return abouts


def _one(name: str, scene: Scene) -> str:
    """With its article; what is not counted has none."""
    if not scene.plural:
        return name
    return f"{'an' if name[0] in 'aeiou' and not name.startswith(('uni', 'one', 'eu')) else 'a'} {name}"


def _many(scene: Scene) -> str:
    return f"{NUMBERS[scene.count]} {scene.plural}"
