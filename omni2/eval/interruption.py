"""Does the model stop when told to, how soon, and does it go on when others talk?  In voices no training had.

An order is one of the training's phrases over babble; near misses ("Stop the car.") and sentences are no orders.  The
model is asked about what was just heard as often as a session asks, and judged by as one does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import median

import numpy as np

from omni2.audio import SAMPLE_RATE
from omni2.duplex.judge import EVERY, Judge
from omni2.eval.asking import Wave, each, spoken, together
from omni2.eval.report import Figure, Table, by
from omni2.eval.transcription import sentences
from omni2.omni import LISTENING, OmniModel
from omni2.train.data import augment
from omni2.train.data.interruption import PHRASES
from omni2.train.data.reserved import NEAR
from omni2.train.data.voices import RESERVED

LEVELS = (None, 20.0, 10.0, 5.0)  # dB of the phrase over babble; None: nothing else is heard
TOO_SOON = 0.8  # of a phrase has to be over before a stop is no guess
LATE = 1.0  # seconds behind a phrase until which a stop is still due to it
TALKERS = 4  # of the babble
QUIET = 1e-4  # level of the noise in a silent room
PIECE = 10.0  # seconds of other speech at once
TALK = 60  # sentences that the other speech is made of


@dataclass(frozen=True)
class Case:
    """Samples (n,) at 16 kHz in which a phrase lasts from `start` to `end`; `order`: it is one to stop at.

    `level` is how far in dB it lies over babble (None: there is none), `text` and `voice` say whose words they are.
    """

    wave: Wave
    start: int
    end: int
    order: bool
    level: float | None
    text: str
    voice: str


@dataclass(frozen=True)
class Result:
    """When the model stopped, in seconds after the phrase's end (negative: before it); None if it did not."""

    case: Case
    stopped: float | None

    @property
    def delay(self) -> float | None:
        """Seconds from the end of an order to the stop, None where there was none, or too soon to have heard it."""
        if not self.case.order or self.stopped is None:
            return None
        early = (1 - TOO_SOON) * (self.case.end - self.case.start) / SAMPLE_RATE
        return max(self.stopped, 0.0) if self.stopped >= -early else None

    @property
    def is_right(self) -> bool:
        """Whether it stopped at an order, and at nothing else."""
        return (self.delay is not None) if self.case.order else self.stopped is None


def cases(n: int, seed: int = 0) -> list[Case]:
    """At every level `n` orders, and as many others: near misses and everyday sentences in turn.

    Raises OmniError if the dictionary is not installed.
    """
    rng = np.random.default_rng(seed)
    others = (NEAR, everyday())
    made = []
    for level, index in each([(level, i) for level in LEVELS for i in range(2 * n)], "preparing orders"):
        order = index % 2 == 0
        texts = PHRASES if order else others[index // 2 % 2]
        text, voice = str(rng.choice(texts)), str(rng.choice(RESERVED))
        made.append(scene(text, voice, order, level, rng))
    return made


def scene(text: str, voice: str, order: bool, level: float | None, rng: np.random.Generator) -> Case:
    """`text` behind more sound than the model hears at once, and before some more, all under babble."""
    phrase = augment.change_speed(spoken(voice, text), rng.uniform(*augment.SPEED))
    before = round(rng.uniform(LISTENING, LISTENING + EVERY) * SAMPLE_RATE)  # so that decisions fall at any place in it
    after = round((LATE + EVERY) * SAMPLE_RATE)
    wave = np.pad(phrase, (before, after)) + QUIET * rng.standard_normal(before + phrase.size + after, np.float32)
    if level is not None:
        talkers = [spoken(str(rng.choice(RESERVED)), str(rng.choice(everyday()))) for _ in range(TALKERS)]
        babble = augment.babble(talkers, wave.size, rng)
        gain = np.sqrt(np.square(phrase).mean() / np.square(babble).mean()) * 10 ** (-level / 20)
        wave = wave + babble * np.float32(gain)
    return Case(augment.to_peak(wave, -3.0), before, before + phrase.size, order, level, text, voice)


def decide(model: OmniModel, case: Case) -> Result:
    """Ask from the phrase's beginning to `LATE` seconds after its end, until it says to stop."""
    step = round(EVERY * SAMPLE_RATE)
    now, judge = -(-case.start // step) * step, Judge()
    while now <= case.end + round(LATE * SAMPLE_RATE):
        if judge.take(model.ordered(case.wave[:now])):
            return Result(case, (now - case.end) / SAMPLE_RATE)
        now += round(judge.wait * SAMPLE_RATE)
    return Result(case, None)


def run(model: OmniModel, scenes: Sequence[Case]) -> list[Result]:
    """Have every scene decided.  Raises AbilityError if the model never learned to listen."""
    return together(lambda case: decide(model, case), scenes, "giving orders")


def other_speech(minutes: float, seed: int = 0) -> list[Wave]:
    """Everyday sentences and near misses in reserved voices with pauses: pieces of `PIECE` seconds, each with the
    `LISTENING` seconds before it, every third one over babble."""
    rng = np.random.default_rng(seed)
    need = round(minutes * 60 * SAMPLE_RATE)
    texts = [*everyday(), *NEAR]
    parts: list[Wave] = []
    while sum(part.size for part in parts) < need:
        pause = np.zeros(round(rng.uniform(0.2, 0.8) * SAMPLE_RATE), np.float32)
        parts += [spoken(str(rng.choice(RESERVED)), str(rng.choice(texts))), pause]
    talk = np.pad(np.concatenate(parts), (round(LISTENING * SAMPLE_RATE), 0))
    talk += QUIET * rng.standard_normal(talk.size, np.float32)
    size, lead = round(PIECE * SAMPLE_RATE), round(LISTENING * SAMPLE_RATE)
    pieces = [talk[at : at + lead + size] for at in range(0, need, size)]
    for index in range(0, len(pieces), 3):
        babble = augment.babble([spoken(voice, texts[index % TALK]) for voice in RESERVED], pieces[index].size, rng)
        pieces[index] = augment.mix(pieces[index], babble, rng.uniform(5.0, 20.0))
    return [augment.to_peak(piece, -3.0) for piece in pieces]


def false_stops(model: OmniModel, pieces: Sequence[Wave]) -> int:
    """How often the model stops during `other_speech`; decisions within `LISTENING` seconds are one stop."""
    lead = round(LISTENING * SAMPLE_RATE)

    def one(piece: Wave) -> int:
        stops, silent_until, judge = 0, 0, Judge()
        now = lead + round(EVERY * SAMPLE_RATE)
        while now <= piece.size:
            if judge.take(model.ordered(piece[now - lead : now])) and now >= silent_until:
                stops, silent_until = stops + 1, now + lead
            now += round(judge.wait * SAMPLE_RATE)
        return stops

    return sum(together(one, pieces, "talking of other things"))


def table(results: Sequence[Result], stops: int, minutes: float) -> Table:
    """Precision, recall and F1 at every level, the delay of stops, and false stops an hour of other speech."""
    figures = []
    for name, ones in by(results, lambda one: _name(one.case.level)).items():
        what = "stop command, clean" if name == "clean" else f"stop command, {name} dB over babble"
        precision, recall, f1 = scores(ones)
        figures += [
            Figure(f"interruption.{name}.f1", f"{what}: F1", f1, count=len(ones)),
            Figure(f"interruption.{name}.precision", f"{what}: precision", precision, count=len(ones), detail=True),
            Figure(f"interruption.{name}.recall", f"{what}: recall", recall, count=len(ones), detail=True),
        ]
        if delays := _delays(ones):
            late = Figure(f"interruption.{name}.delay", f"{what}: median delay", median(delays), "s", len(delays), True)
            figures.append(late)
    if delays := _delays(results):
        what = "from the end of the order to the stop"
        figures.append(Figure("interruption.median", f"{what}, median", median(delays), "s", len(delays)))
        slow = float(np.quantile(delays, 0.95))
        figures.append(Figure("interruption.delay", f"{what}, 95th percentile", slow, "s", len(delays)))
    what = f"false stops an hour of other speech ({stops} in {minutes:.0f} min)"
    figures.append(Figure("interruption.false", what, stops * 60 / minutes))
    return Table(figures, wrong=(_line(one) for one in results if not one.is_right))


def scores(results: Sequence[Result]) -> tuple[float, float, float]:
    """Precision, recall and F1; a stop too soon within an order is a false one."""
    hits = sum(one.delay is not None for one in results)
    stops = sum(one.stopped is not None for one in results)
    orders = sum(one.case.order for one in results)
    return hits / max(stops, 1), hits / max(orders, 1), 2 * hits / max(stops + orders, 1)


@lru_cache
def everyday() -> tuple[str, ...]:
    """What people talk about: sentences that are no orders, and not like one."""
    return tuple(text for texts in sentences(TALK).values() for text in texts)


def _delays(results: Sequence[Result]) -> list[float]:
    return [one.delay for one in results if one.delay is not None]


def _name(level: float | None) -> str:
    return "clean" if level is None else f"{level:.0f}"


def _line(one: Result) -> str:
    when = "did not stop" if one.stopped is None else f"stopped {one.stopped:+.2f} s from its end"
    return f"{one.case.voice}, {_name(one.case.level)}: {one.case.text} → {when}"
