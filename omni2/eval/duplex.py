"""Conversation in both directions: does it stop when it should and go on when it should, and whose turn does it take?

Scenes are a person's track, in voices no training had, and the model's own, on a clock that counts the work of the
model.  What an answer says is of no account, so that its place is taken by sentences of the answers' own voice, long
enough to be interrupted; all that listens, and all that is decoded for it, is the model's.

Pauses, turns and interruptions are measured in the manner of Full-Duplex-Bench 1.0 (arXiv 2503.04721).
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import median
from typing import Any, cast

import numpy as np
import soxr

from omni2.answer import AnswerStream, Chunk
from omni2.audio import SAMPLE_RATE
from omni2.duplex.events import Ducked, Interrupted, Policy, Resumed, TurnStarted
from omni2.duplex.heard import Memory
from omni2.duplex.session import Session
from omni2.duplex.turns import LONG
from omni2.eval.asking import Wave, each, spoken
from omni2.eval.interruption import TALKERS, everyday
from omni2.eval.report import Figure, Table, by, share
from omni2.eval.rooms import Log, Room
from omni2.omni import OmniModel
from omni2.train.data import augment
from omni2.train.data.interruption import PHRASES
from omni2.train.data.questions import Item
from omni2.train.data.reserved import NEAR
from omni2.train.data.voices import ANSWER, RESERVED

LEAD, TAIL = 0.6, 2.0  # seconds before what a scene is about, and after
SPEECH = 12.0  # seconds that an answer lasts
AT = 3.0  # seconds into the answer at which somebody speaks
LATE = 1.5  # seconds behind an order until which a stop is due to it
DUE = LONG + 0.5  # seconds behind a question until which an answer is due: the longest wait for more, and its work
PAUSES = (0.5, 1.2)  # seconds within a question
TURNS = 4  # scenes of a question for one of another kind
NODS = ("Uh-huh.", "Right.", "Okay.", "Yeah.", "I see.", "Mm-hmm.")
ECHOES = (-30.0, -20.0, -10.0)  # dB of the answer at the microphone
NOISE = 1e-4  # of a quiet room


@dataclass(frozen=True)
class Scene:
    """A person's track (samples,) at 16 kHz in which what matters lasts from `start` to `end` (seconds).

    `stops`: the answer has to end; None where a question is asked and its answer awaited.  `pause` is where within the
    question somebody pauses (seconds).
    """

    kind: str
    track: Wave
    start: float
    end: float
    policy: Policy = "command"
    stops: bool | None = None
    echo: float | None = None
    pause: tuple[float, float] | None = None
    said: str = ""


@dataclass(frozen=True)
class Result:
    """What happened in a scene."""

    scene: Scene
    log: Log

    @property
    def stopped(self) -> float | None:
        """Seconds at which the answer ended, None if it went on."""
        times = self.log.times(Interrupted)
        return times[0] if times else None

    @property
    def silence(self) -> float | None:
        """Seconds from the end of what was said (from its beginning where somebody speaks up) to silence."""
        if self.stopped is None:
            return None
        held = [when for when in self.log.times(Ducked) if when <= self.stopped]
        resumed = [when for when in self.log.times(Resumed) if when <= self.stopped]
        quiet = held[-1] if held and (not resumed or resumed[-1] < held[-1]) else self.stopped
        return max(quiet - (self.scene.start if self.scene.policy == "barge-in" else self.scene.end), 0.0)

    @property
    def answered(self) -> float | None:
        """Seconds from the end of the question to the first sound of its answer."""
        sounds = [when for when, event in self.log.events if isinstance(event, Chunk) and event.audio.size]
        after = [when for when in sounds if when > self.scene.end]
        return after[0] - self.scene.end if after else None

    @property
    def took_over(self) -> bool:
        """Whether it began to answer in the pause of a question."""
        return any(when < self.scene.end for when in self.log.times(TurnStarted))

    @property
    def is_right(self) -> bool:
        """Whether it did what it should."""
        scene = self.scene
        if scene.stops is None:
            soon = self.answered is not None and self.answered <= DUE
            return not self.took_over if scene.pause else soon
        if not scene.stops:
            return self.stopped is None
        return self.stopped is not None and scene.start < self.stopped <= scene.end + LATE

    @property
    def is_whole(self) -> bool:
        """Whether every sample of an answer that went on was played, once, in order."""
        made = np.concatenate([np.zeros(0, np.float32), *self.log.made])
        played = self.log.speaker[self.log.speaker != 0]
        made = made[made != 0][: len(played)]
        return bool(np.array_equal(played, made))


class Speaking:
    """A model whose answers are long, as nothing can be said while a short one lasts; it listens as it is."""

    def __init__(self, model: OmniModel, seconds: float = SPEECH) -> None:
        self._model, self._seconds = model, seconds

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._model, name)

    def stream(self, audio: object = None, /, *args: object, **options: object) -> AnswerStream:
        """The pieces of `seconds` of speech, each 0.2 s long, made as fast as one asks."""
        own = monologue(self._seconds, self._model.sample_rate)
        return cast(AnswerStream, Pieces(own, round(0.2 * self._model.sample_rate)))


class Pieces(Iterator[Chunk]):
    """A sound as an answer."""

    def __init__(self, sound: Wave, size: int) -> None:
        self._left = [sound[at : at + size] for at in range(0, len(sound), size)]

    def __next__(self) -> Chunk:
        if not self._left:
            raise StopIteration
        piece = self._left.pop(0)
        return Chunk(piece, "word ", None if self._left else "end")

    def close(self) -> None:
        """Stop."""
        self._left = []


@lru_cache
def monologue(seconds: float, rate: int) -> Wave:
    """The answer voice, (samples,) at `rate` Hz, saying sentences for about that long."""
    texts = (
        "The capital of France is Paris, and the capital of Italy is Rome.",
        "There are seven days in a week and twelve months in a year.",
        "The largest animal in the world is the blue whale, which lives in the sea.",
        "Water boils at one hundred degrees and freezes at zero degrees.",
    )
    parts: list[Wave] = []
    while sum(map(len, parts)) < seconds * SAMPLE_RATE:
        parts += [spoken(ANSWER, texts[len(parts) // 2 % len(texts)]), np.zeros(SAMPLE_RATE // 5, np.float32)]
    sound: Wave = soxr.resample(np.concatenate(parts)[: round(seconds * SAMPLE_RATE)], SAMPLE_RATE, rate)
    return np.clip(sound, -1, 1)


def scenes(n: int, items: Sequence[Item], seed: int = 0) -> list[Scene]:
    """`n` scenes of every kind, `TURNS` times as many of questions: phrasing and voice make the difference there."""
    makers: list[Callable[[np.random.Generator], Scene]] = [
        lambda rng: said("order, clean", PHRASES, rng, stops=True),
        lambda rng: said("order, 5 dB", PHRASES, rng, stops=True, level=5.0),
        lambda rng: said("near miss", NEAR, rng),
        lambda rng: said("talk behind", questions(items), rng, gain=-15.0),
        lambda rng: said("nod", NODS, rng, policy="barge-in"),
        lambda rng: said("speaking up", questions(items), rng, stops=True, policy="barge-in"),
        lambda rng: said("speaking up over echo", questions(items), rng, stops=True, policy="barge-in", echo=-15.0),
        cough,
        *(lambda rng, echo=echo: alone(f"echo {echo:.0f} dB", echo, rng) for echo in ECHOES),
        lambda rng: alone("silence", None, rng),
    ]
    turns = [lambda rng: asked(items, rng), lambda rng: asked(items, rng, paused=True)]
    kinds = enumerate([*((make, n) for make in makers), *((make, TURNS * n) for make in turns)])
    return [make(np.random.default_rng([seed, kind, i])) for kind, (make, count) in kinds for i in range(count)]


def questions(items: Sequence[Item]) -> list[str]:
    """Phrasings that were kept out of training."""
    return [text for item in items for text in item.test]


def said(
    kind: str, texts: Sequence[str], rng: np.random.Generator, *, stops: bool = False, policy: Policy = "command",
    level: float | None = None, gain: float = 0.0, echo: float | None = None,
) -> Scene:  # fmt: skip
    """Somebody says one of `texts` while an answer is played; `level` dB over babble of everyday sentences, `gain` dB
    louder than usual."""
    text, voice = str(rng.choice(texts)), str(rng.choice(RESERVED))
    wave = augment.to_peak(spoken(voice, text), -6.0) * np.float32(10 ** (gain / 20))
    before = round((AT + rng.uniform(0, 1)) * SAMPLE_RATE)
    track = np.pad(wave, (before, round(TAIL * SAMPLE_RATE)))
    if level is not None:
        talkers = [spoken(str(rng.choice(RESERVED)), str(rng.choice(everyday()))) for _ in range(TALKERS)]
        loud = np.sqrt(np.square(wave).mean()) * 10 ** (-level / 20)
        track = track + loud * augment.babble(talkers, track.size, rng)
    start = before / SAMPLE_RATE
    return Scene(kind, _quiet(track, rng), start, start + wave.size / SAMPLE_RATE, policy, stops, echo, said=text)


def cough(rng: np.random.Generator) -> Scene:
    """Two bursts of noise through a throat, while an answer is played."""
    bursts = []
    for _ in range(2):
        size = round(rng.uniform(0.15, 0.35) * SAMPLE_RATE)
        burst = rng.standard_normal(size).astype(np.float32) * np.exp(-np.linspace(0, 5, size)).astype(np.float32)
        bursts.append(augment.to_peak(augment.add_room(burst, rng), -6.0))
    wave = np.concatenate([bursts[0], np.zeros(SAMPLE_RATE // 10, np.float32), bursts[1]])
    track = np.pad(wave, (round(AT * SAMPLE_RATE), round(TAIL * SAMPLE_RATE)))
    return Scene("cough", _quiet(track, rng), AT, AT + wave.size / SAMPLE_RATE, "barge-in", False)


def alone(kind: str, echo: float | None, rng: np.random.Generator) -> Scene:
    """Nobody says anything while an answer is played, part of which comes back."""
    return Scene(
        kind, _quiet(np.zeros(round(SPEECH * SAMPLE_RATE), np.float32), rng), 0, SPEECH, "barge-in", False, echo
    )


def asked(items: Sequence[Item], rng: np.random.Generator, paused: bool = False) -> Scene:
    """Somebody asks a question, perhaps with a pause after its first words."""
    text, voice = str(rng.choice(questions(items))), str(rng.choice(RESERVED))
    words = text.split()
    parts, pause = [spoken(voice, text)], None
    if paused and len(words) > 3:
        cut = int(rng.integers(2, len(words) - 1))
        gap = np.zeros(round(rng.uniform(*PAUSES) * SAMPLE_RATE), np.float32)
        parts = [spoken(voice, " ".join(words[:cut])), gap, spoken(voice, " ".join(words[cut:]))]
        first = LEAD + len(parts[0]) / SAMPLE_RATE
        pause = (first, first + len(gap) / SAMPLE_RATE)
    wave = augment.to_peak(np.concatenate(parts), -6.0)
    track = np.pad(wave, (round(LEAD * SAMPLE_RATE), round((TAIL + 1) * SAMPLE_RATE)))
    kind = "pause within a question" if paused else "question"
    return Scene(kind, _quiet(track, rng), LEAD, LEAD + wave.size / SAMPLE_RATE, pause=pause, said=text)


def play(model: OmniModel, scene: Scene) -> Result:
    """Have a scene played to a session of its own."""
    own = model if scene.stops is None else cast(OmniModel, Speaking(model))
    session = Session(own, scene.policy, memory=Memory(0, len))
    room = np.random.default_rng(zlib.crc32(scene.track.tobytes()))
    way = [augment.add_room(np.eye(1, 4000, dtype=np.float32)[0], room)] if scene.echo is not None else []
    with session:
        here = Room(session, model.sample_rate, scene.echo, _through(way[0]) if way else None, timed=True)
        if scene.stops is not None:
            session.ask("Go on.")
        return Result(scene, here.run(scene.track))


def _through(response: Wave) -> Callable[[Wave], Wave]:
    def way(wave: Wave) -> Wave:
        size = 1 << (len(wave) + len(response)).bit_length()
        heard = np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(response, size), size)
        return heard[: len(wave)].astype(np.float32)

    return way


def _quiet(track: Wave, rng: np.random.Generator) -> Wave:
    return track + NOISE * rng.standard_normal(track.size, np.float32)


def run(model: OmniModel, played: Sequence[Scene]) -> list[Result]:
    """All scenes, one after the other: each counts the work of its model."""
    return [play(model, scene) for scene in each(played, "talking")]


def table(results: Sequence[Result]) -> Table:
    """Shares of right behaviour, times, false stops an hour, and how much work it was."""
    figures: list[Figure] = []
    for kind, ones in by(results, lambda one: one.scene.kind).items():
        figures += _figures(kind, ones)
    went_on = [one for one in results if one.scene.stops is False]
    commands = [one for one in went_on if one.scene.policy == "command"]
    hours = sum(one.log.speaker.size / one.log.rate for one in commands) / 3600
    stops = sum(one.stopped is not None for one in commands)
    if hours:
        what = f"false stops an hour of answers, command ({stops} in {60 * hours:.0f} min of talk)"
        figures.append(Figure("duplex.false", what, stops / hours))
    kept = [one for one in went_on if one.stopped is None]
    if kept:
        whole = share([one.is_whole for one in kept])
        figures.append(Figure("duplex.whole", "went on without losing a sample", whole, "%", len(kept)))
    passed = sum(one.log.speaker.size / one.log.rate for one in results)
    work = sum(one.log.spent for one in results) / max(passed, 1e-9)
    figures.append(Figure("duplex.work", "seconds of work a second of conversation", work))
    return Table(figures, wrong=(_line(one) for one in results if not one.is_right))


def _figures(kind: str, ones: Sequence[Result]) -> list[Figure]:
    key = "duplex." + KEYS[kind]
    n, scene = len(ones), ones[0].scene
    if scene.stops is None and kind == "question":
        taken = [one.answered for one in ones if one.answered is not None and one.is_right and not one.took_over]
        figures = [Figure(key, "smooth turn taking: takeover", 100 * len(taken) / n, "%", n)]
        if taken:
            figures.append(Figure(f"{key}.latency", "… latency, median", median(taken), "s", len(taken)))
            within = share([one <= 0.5 for one in taken])
            figures.append(Figure(f"{key}.soon", "… within 0.5 s", within, "%", len(taken), detail=True))
        return figures
    if scene.stops is None:
        ones = [one for one in ones if one.scene.pause]
        took = share([one.took_over for one in ones])
        return [Figure(key, "pause within a question: takeover", took, "%", len(ones))]
    stopped = share([one.stopped is not None if not scene.stops else one.is_right for one in ones])
    what = f"{kind}: stopped ({scene.policy})"
    figures = [Figure(key, what, stopped, "%", n)]
    waits = [one.silence for one in ones if scene.stops and one.is_right and one.silence is not None]
    if waits:
        since = "its beginning" if scene.policy == "barge-in" else "its end"
        figures.append(Figure(f"{key}.silence", f"… from {since} to silence, median", median(waits), "s", len(waits)))
    return figures


KEYS = {
    "order, clean": "order",
    "order, 5 dB": "order.5",
    "near miss": "near",
    "talk behind": "behind",
    "nod": "nod",
    "speaking up": "up",
    "speaking up over echo": "up.echo",
    "cough": "cough",
    **{f"echo {echo:.0f} dB": f"echo{echo:.0f}" for echo in ECHOES},
    "silence": "silence",
    "question": "turn",
    "pause within a question": "pause",
}


def _line(one: Result) -> str:
    when = "went on" if one.stopped is None else f"stopped at {one.stopped:.2f} s"
    if one.scene.stops is None:
        when = "took over in the pause" if one.took_over else f"answered after {one.answered} s"
    scene = replace(one.scene, track=np.zeros(0, np.float32))
    return f"{scene.kind}: {scene.said} ({scene.start:.2f} to {scene.end:.2f} s) → {when}"
