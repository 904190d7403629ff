"""Pictures to learn from as encoder features, drawn or imagined, and the questions that are asked about them.

make(rows(5000), Path("data/pictures"), [Ask(Speak(TRAINING, None), Encode("whisper-tiny"))])
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np
import torch
from torch import Tensor

from omni2.efficientnet import EfficientNet, lite_pixels
from omni2.train.data.artists import ARTISTS
from omni2.train.data.drawings import draw_any
from omni2.train.data.encode import Encode, load_parts
from omni2.train.data.imagined import accustomed, imagine_any
from omni2.train.data.schema import Row
from omni2.train.data.speak import Speak, row_generator
from omni2.train.data.things import Scene, ask, topics
from omni2.train.efficientnet_weights import Lite, load_lite

IMAGINED = 0.3  # of the pictures are no drawings
QUESTIONS = 3  # about each picture
SPOKEN = 0.5  # of the questions are spoken as well
LOOKS = 64  # at photographs, that tell how an eye has changed
TAKES = 8  # voices and places in which each phrasing is spoken; a take serves many pictures


@dataclass(frozen=True)
class Shown:
    """A picture: its features (50, 1280) float32, what it shows, where it comes from and under which terms."""

    features: Tensor
    scene: Scene
    source: str
    licence: str


def show(lite: Lite, rng: np.random.Generator) -> Shown:
    """A picture to learn from, of any thing."""
    if rng.random() < IMAGINED:
        features, scenes = imagine_any(lite, 1, rng)
        return Shown(features[0], scenes[0], "EfficientNet-Lite0", "Apache-2.0")
    artist = ARTISTS[rng.integers(len(ARTISTS))]
    picture, scene = draw_any(rng, artist)
    with torch.no_grad():
        features = lite.encoder(lite_pixels(picture)[None])
    return Shown(features[0], scene, artist.name, artist.licence)


def rows(count: int, seed: int = 0) -> Iterator[Row]:
    """`QUESTIONS` rows about each of `count` pictures for the step `Ask`; `seed` tells one set from another."""
    for index in range(count):
        for turn in range(QUESTIONS):
            yield Row(f"pictures/{seed}-{index}#{turn}", "see", "pictures", "")


@dataclass(frozen=True)
class Ask:
    """The step that gives a row of `rows` its picture, a question about it (none: a caption) and the answer.

    Every question is typed; with `speak` and `encode` some are spoken too, and come with their features.  The eye is
    that of the model which `encode` names, if it has one of this kind.
    What a row becomes depends on its key alone.
    """

    speak: Speak | None = None
    encode: Encode | None = None

    def __call__(self, row: Row) -> Row:
        """`row`, complete but for its answer's sound."""
        picture, _, turn = row.key.partition("#")
        shown, rng = _shown(picture, self.encode), row_generator(0, row.key)
        topic = topics(shown.scene, row_generator(1, picture), QUESTIONS)[int(turn)]
        question, answer = ask(shown.scene, topic, rng)
        row = replace(
            row,
            source=shown.source,
            licence=shown.licence,
            topic=topic,
            question_text=question,
            picture_features=shown.features.half(),
            answer_text=answer,
        )
        if not question or self.speak is None or rng.random() >= SPOKEN:
            return row
        take = _take(self.speak, self.encode, question, int(rng.integers(TAKES)))
        return replace(
            row,
            voice=take.voice,
            question_audio=take.question_audio,
            question_seconds=take.question_seconds,
            question_features=take.question_features,
        )


@lru_cache(maxsize=4)  # the questions about a picture follow each other
def _shown(key: str, encode: Encode | None) -> Shown:
    return show(_lite(encode), row_generator(0, key))


@cache
def _lite(encode: Encode | None) -> Lite:
    """The eye that pictures are shown to: a model's own, which may have been trained further, or ImageNet's."""
    lite = load_lite()
    eye = load_parts(encode.model, encode.codec).vision_encoder if encode is not None else None
    if not isinstance(eye, EfficientNet):
        return lite
    rng = np.random.default_rng(0)
    photographers = [artist for artist in ARTISTS if artist.photographs]
    seen = [draw_any(rng, photographers[n % len(photographers)])[0] for n in range(LOOKS)]
    return accustomed(lite, eye, torch.stack([lite_pixels(picture) for picture in seen]))


@lru_cache(maxsize=4000)  # about 70 kB each
def _take(speak: Speak, encode: Encode | None, question: str, number: int) -> Row:
    """`question` spoken, and encoded if there is an encoder."""
    row = speak(Row(f"take {number} of {question}", "see", "", "", question_text=question))
    return encode(row) if encode is not None else row
