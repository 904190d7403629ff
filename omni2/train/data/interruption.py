"""Interruption data: somebody says "Stop Omni" while others talk, things hum, and the model's own answer leaks back.

A scene is up to 10 s of such sound with a label for each of the encoder's 50 frames a second: `irq` from the end of the
phrase on for half a second, `n-irq` elsewhere.  What a model learns from are windows: what `OmniModel.listen` hears of
the scene up to a frame, and that frame's label.  One in three is `irq`; the others are hard as often as not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from omni2.audio import SAMPLE_RATE
from omni2.encoder import FRAME_RATE, SAMPLES_PER_FRAME
from omni2.errors import InputError
from omni2.omni import LISTENING
from omni2.train.data import augment as change
from omni2.train.data.near import NODS, near_phrases
from omni2.train.data.schema import Label, Row
from omni2.train.data.sound import Wave, flac
from omni2.train.data.speak import draw_voice, row_generator, say
from omni2.train.data.voices import RESERVED

PHRASES = ("Stop Omni.", "Stop, Omni!", "Omni, stop.")
SCENE = 10.0  # seconds at most
HOLD = 0.5  # seconds after the phrase that are `irq`
LONGER = 2.0  # seconds that the scene of a window may be longer than it: more would not be heard
QUIET = (30.0, 60.0)  # dB of a phrase over the noise of a quiet room
FAR = (0.0, 40.0)  # dB by which what goes on without a phrase may be softer
NEAR_TALK = 0.15  # of what people say in the background is near the phrases

BEGUN = (0.3, 1.2)  # seconds into a sentence
OTHER_WORDS = ("near", "nod", "begun", "other")  # situations in which somebody says something else

# Situations a window is drawn from, with their shares among the windows of their label.
IRQ = {"ordered": 1.0}
N_IRQ = {"near": 0.36, "unfinished": 0.08, "over": 0.08, "other": 0.22, "nod": 0.13, "begun": 0.13}


@dataclass(frozen=True)
class Scene:
    """`wave` (samples,) at 16 kHz in [-1, 1] in which a phrase lasts from sample `start` to `end`.

    `order` says whether it is one to stop at; without a phrase, start = end = 0.
    """

    wave: Wave
    start: int = 0
    end: int = 0
    order: bool = False

    def labels(self) -> npt.NDArray[np.bool_]:
        """(frames,): true where the label is `irq`, for every whole frame of 320 samples."""
        marked = np.zeros(self.wave.size // SAMPLES_PER_FRAME, bool)
        if self.order:
            first = -(-self.end // SAMPLES_PER_FRAME)  # the first frame that lies behind the phrase
            marked[first : first + round(HOLD * FRAME_RATE)] = True
        return marked


@dataclass(frozen=True)
class Listen:
    """The step that makes the window of a row of `windows`.

    `voices` say the phrases and talk besides; `texts` is what they talk about, `own` the model's answers, spoken by
    `answer`.  `snr` is the range in dB of a phrase over all else.
    """

    voices: tuple[str, ...]
    answer: str
    texts: tuple[str, ...]
    own: tuple[str, ...]
    phrases: tuple[str, ...] = PHRASES
    near: tuple[str, ...] = field(default_factory=near_phrases)
    nods: tuple[str, ...] = NODS
    snr: tuple[float, float] = (0.0, 30.0)
    window: float = LISTENING
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise InputError for voices kept for evaluation, nothing to say, or spans that are none."""
        if {*self.voices, self.answer} & {*RESERVED}:
            raise InputError(f"the voices {', '.join(RESERVED)} are kept for evaluation")
        if not all((self.voices, self.texts, self.own, self.phrases, self.near, self.nods)):
            raise InputError("interruption data need voices, texts, answers, phrases, near phrases and nods")
        if self.snr[0] > self.snr[1]:
            raise InputError(f"{self.snr[0]:g} to {self.snr[1]:g} dB: give the lower one first")
        if not HOLD < self.window <= SCENE:
            raise InputError(f"a window lasts more than {HOLD:g} and at most {SCENE:g} s")

    def __call__(self, row: Row) -> Row:
        """`row` with its window in `question_audio` and what was said in `question_text`."""
        rng = row_generator(self.seed, row.key)
        situations = IRQ if row.label == "irq" else N_IRQ
        situation = str(rng.choice(list(situations), p=list(situations.values())))
        said = {"near": self.near, "nod": self.nods, "begun": self.texts, "other": ("",)}.get(situation, self.phrases)
        text = said[int(rng.integers(len(said)))]
        name = draw_voice(self.voices, rng)
        scene = self.scene(name, text, situation, rng, self.window + LONGER)
        wave = cut(scene, draw_frame(scene, situation, rng), round(self.window * SAMPLE_RATE))
        return replace(
            row,
            topic=situation,
            voice=name if text else "",
            question_text=text,
            question_audio=flac(wave, SAMPLE_RATE),
            question_seconds=wave.size / SAMPLE_RATE,
        )

    def scene(self, name: str, text: str, situation: str, rng: np.random.Generator, longest: float = SCENE) -> Scene:
        """Up to `longest` seconds of background with `text`, if any, said by `name` somewhere, at any level over it.

        Behind a nod, and behind speech that begins, nobody else talks.
        """
        phrase = self._said(name, text, rng) if text else np.zeros(0, np.float32)
        tail = round(2 * HOLD * SAMPLE_RATE) + SAMPLES_PER_FRAME  # so that all windows lie within the scene
        length = max(int(rng.uniform(self.window, longest) * SAMPLE_RATE), phrase.size + tail)
        behind, snr = self.background(length, rng, talk=situation not in ("nod", "begun"))
        start = int(rng.integers(length - tail - phrase.size + 1)) if phrase.size else 0
        if phrase.size:
            level = np.square(phrase).mean() / max(float(np.square(behind).mean()), 1e-12)
            wave = behind * np.float32(np.sqrt(level) * 10 ** (-rng.uniform(*snr) / 20))
            wave[start : start + phrase.size] += phrase
        else:
            wave = behind
        wave = self._heard(wave, rng)
        if not phrase.size and rng.random() < 0.3:
            wave *= np.float32(10 ** (-rng.uniform(*FAR) / 20))
        return Scene(wave, start, start + phrase.size, bool(text) and situation not in OTHER_WORDS)

    def background(self, length: int, rng: np.random.Generator, talk: bool = True) -> tuple[Wave, tuple[float, float]]:
        """(length,) of the model's own answer, noise, or, with `talk`, speech or babble, and how far in dB a phrase may
        lie over it.

        Over all of them lies some noise; that of a quiet room is far below any phrase.
        """
        shares = np.array([0.3, 0.15, 0.25, 0.15, 0.15] if talk else [0, 0, 0.3, 0.2, 0.5])
        kind = rng.choice(["speech", "babble", "own", "noise", "quiet"], p=shares)
        noise = change.background(length, rng)
        if kind in ("noise", "quiet"):
            return noise, self.snr if kind == "noise" else QUIET
        if kind == "babble":
            talkers = [
                self._talk(draw_voice(self.voices, rng), self.texts, length, rng, NEAR_TALK)
                for _ in range(rng.integers(3, 7))
            ]
            sound = change.babble(talkers, length, rng)
        elif kind == "speech":
            sound = self._talk(draw_voice(self.voices, rng), self.texts, length, rng, NEAR_TALK)
        else:
            sound = change.add_room(self._talk(self.answer, self.own, length, rng), rng)
        return change.mix(sound, noise, rng.uniform(*change.SNR)), self.snr

    def _said(self, name: str, text: str, rng: np.random.Generator) -> Wave:
        """`text` by somebody like `name`: another larynx, pitch and speed."""
        wave = _spoken(name, text)
        if rng.random() < 0.15:
            wave = change.vocode(wave, rng)
        if rng.random() < 0.25:
            wave = change.change_pitch(wave, rng.uniform(*change.PITCH))
        if rng.random() < 0.5:
            wave = change.change_speed(wave, rng.uniform(*change.SPEED))
        if rng.random() < 0.2:  # what is behind keeps all its frequencies
            wave = change.dull(wave, rng)
        return wave

    def _talk(self, name: str, texts: Sequence[str], length: int, rng: np.random.Generator, near: float = 0.0) -> Wave:
        """Sentences one after the other, with pauses, a share of `near` phrases; cut to (length,) at a random place."""
        pieces, total = [], 0
        while total < length + SAMPLE_RATE:
            pause = np.zeros(int(rng.uniform(0.1, 0.6) * SAMPLE_RATE), np.float32)
            said = self.near if rng.random() < near else texts
            pieces += [_spoken(name, said[int(rng.integers(len(said)))]), pause]
            total += pieces[-2].size + pause.size
        start = int(rng.integers(total - length + 1))
        return np.concatenate(pieces)[start : start + length]

    def _heard(self, wave: Wave, rng: np.random.Generator) -> Wave:
        """As a microphone takes it; nothing here moves a sound in time."""
        if rng.random() < 0.35:
            wave = change.add_room(wave, rng)
        if rng.random() < 0.15:
            wave = change.telephone(wave)
        if rng.random() < 0.15:
            wave = change.soft_clip(wave, rng.uniform(1.0, 4.0))
        return change.to_peak(wave, rng.uniform(*change.PEAK))


def draw_frame(scene: Scene, situation: str, rng: np.random.Generator) -> int:
    """A frame of `scene` that fits `situation`.

    ordered     its label is `irq`
    near        as after an order, but behind another phrase
    unfinished  within the first four fifths of the phrase
    over        the time of `irq` has passed for half as long again
    nod         from the middle of a listener's "yes" on, until as long behind it as an order is `irq`
    begun       within the first words of a sentence
    other       any frame
    """
    hold, behind = round(HOLD * FRAME_RATE), -(-scene.end // SAMPLES_PER_FRAME)
    first, enough = scene.start // SAMPLES_PER_FRAME, scene.start + (scene.end - scene.start) * 4 // 5
    spans = {
        "ordered": (behind, behind + hold),
        "near": (behind, behind + hold),
        "unfinished": (first, enough // SAMPLES_PER_FRAME),
        "over": (behind + hold * 3 // 2, behind + 2 * hold),
        "nod": ((first + behind) // 2, behind + hold),
        "begun": tuple(first + round(seconds * FRAME_RATE) for seconds in BEGUN),
        "other": (0, scene.wave.size // SAMPLES_PER_FRAME),
    }
    low, high = spans[situation]
    return int(rng.integers(low, max(high, low + 1)))


def cut(scene: Scene, frame: int, length: int) -> Wave:
    """The window (length,) that ends with `frame`; zeros where the scene had not begun."""
    end = (frame + 1) * SAMPLES_PER_FRAME
    return np.ascontiguousarray(np.pad(scene.wave, (length, 0))[end : end + length])


def windows(count: int, seed: int = 0) -> Iterator[Row]:
    """`count` rows for the step `Listen`, one `irq`, then two `n-irq`; `seed` tells one set from another."""
    labels: tuple[Label, ...] = ("irq", "n-irq", "n-irq")
    for index in range(count):
        yield Row(f"interruption/{seed}-{index}", "listen", "interruption", "MIT", label=labels[index % len(labels)])


@lru_cache(maxsize=20_000)  # about 150 kB each
def _spoken(name: str, text: str) -> Wave:
    return say(name, text)
