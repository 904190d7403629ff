"""Training of the network of `omni2.duplex.finished`: finished questions against those that break off in the middle.

Nobody recorded people who think: unfinished turns are the beginnings of questions, read as they stand, with "um" behind
them, or cut out of a whole one at a place where the voice dips.  What is measured on are questions that no example
trained on was made of, but in the same voices: in new ones it takes more and more whole questions for unfinished the
longer it learns.
"""

from collections.abc import Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor

from omni2.audio import SAMPLE_RATE
from omni2.duplex.finished import FRAMES, PAUSE
from omni2.duplex.reader import Reader
from omni2.encoder import Encoder, Window
from omni2.train.data import augment as change
from omni2.train.data.questions import corpus, normalise
from omni2.train.data.sound import Wave
from omni2.train.data.speak import draw_voice, say
from omni2.train.data.voices import TRAINING
from omni2.train.reading import Fitting, fit, keep, padded

FILLERS = ("um", "uh", "er", "so", "well", "you know")
SHORTER = (0.5, 0.81)  # of `PAUSE`: people do not wait alike
CUTS = (0.25, 0.85)  # where in a question the voice may break off
HELD_OUT = 10  # one question in so many is kept to measure with


@dataclass(frozen=True)
class Example:
    """A sound (samples,) at 16 kHz with a pause at its end, and whether its turn is finished."""

    wave: Wave
    finished: bool
    held_out: bool = False


def example(groups: Sequence[Sequence[str]], rng: np.random.Generator, whole: Container[str] = ()) -> Example:
    """A question in one of the training voices, finished as often as not.

    `groups` are drawn from alike, then one of their questions.  A beginning that is among `whole`, normalised
    questions, is a finished one as well.
    """
    group, voice = groups[int(rng.integers(len(groups)))], draw_voice(TRAINING, rng)
    text = group[int(rng.integers(len(group)))]
    finished = rng.random() < 0.5 or len(text.split()) < 3
    if finished:
        wave = say(voice, text)
    elif rng.random() < 0.4:
        wave = dip(say(voice, text), rng)
    else:
        begun = beginning(text, rng)
        finished = normalise(begun) in whole
        wave = say(voice, begun)
    silence = round(PAUSE * rng.uniform(*SHORTER) * SAMPLE_RATE)
    wave = change.change_speed(wave, rng.uniform(*change.SPEED)) if rng.random() < 0.5 else wave
    wave = np.pad(wave, (round(rng.uniform(0, 0.3) * SAMPLE_RATE), silence))
    if rng.random() < 0.3:
        wave = change.add_room(wave, rng)
    wave = change.mix(wave, change.background(wave.size, rng), rng.uniform(10, 45))
    held_out = crc32(normalise(text).encode()) % HELD_OUT == 0
    return Example(change.to_peak(wave, rng.uniform(*change.PEAK)), bool(finished), held_out)


def beginning(text: str, rng: np.random.Generator) -> str:
    """The first words of `text`, one at least and not the last, perhaps with a filler behind them."""
    words = text.rstrip(".?!").split()
    kept = words[: int(rng.integers(1, len(words)))]
    if rng.random() < 0.25:
        kept.append(str(rng.choice(FILLERS)))
    return " ".join(kept).rstrip(",;") + ("," if rng.random() < 0.5 else "")


def dip(wave: Wave, rng: np.random.Generator) -> Wave:
    """The beginning of `wave` up to one of its softest places within `CUTS`."""
    hop = SAMPLE_RATE // 50
    level = np.square(wave[: wave.size // hop * hop].reshape(-1, hop)).mean(1)
    first, last = (max(int(share * level.size), 1) for share in CUTS)
    softest = first + np.argsort(level[first : max(last, first + 1)])[:3]
    return np.ascontiguousarray(wave[: (int(rng.choice(softest)) + 1) * hop])


def examples(count: int, seed: int = 0, threads: int = 2) -> list[Example]:
    """`count` of them; the same for the same seed."""
    groups = [item.train for item in corpus()]
    whole = {normalise(text) for group in groups for text in group}

    def one(index: int) -> Example:
        return example(groups, np.random.default_rng([seed, index]), whole)

    with ThreadPoolExecutor(threads) as pool:
        made = pool.map(one, range(count))
        return list(track(made, "speaking", total=count, console=Console(stderr=True)))


def make(encoder: Encoder, window: Window, file: Path, count: int, steps: int) -> dict[str, float]:
    """Speak, encode, learn, and write the weights to `file`; how often they are right, in percent."""
    made = examples(count)
    finished, held_out = (torch.tensor([getattr(one, name) for one in made]) for name in ("finished", "held_out"))
    heard = (encoder.encode(one.wave, window)[-FRAMES:].bfloat16() for one in made)
    features = padded(list(track(heard, "encoding", total=count, console=Console(stderr=True))), FRAMES)
    net = Reader(encoder.width, FRAMES, 1)

    def loss(logits: Tensor, finished: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits[:, 0], finished.float())

    said, truth = fit(net, features, finished, held_out, loss, Fitting(steps))[:, 0] > 0, finished[held_out]
    keep(net, file)
    right = {"finished": said[truth], "unfinished": ~said[~truth]}
    return {name: 100 * float(hits.float().mean()) for name, hits in right.items()}
