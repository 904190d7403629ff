"""The step from text to speech: questions in drawn voices and places, answers in one voice."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from omni2.audio import SAMPLE_RATE, to_waveform
from omni2.errors import InputError
from omni2.train.data.augment import augment
from omni2.train.data.schema import Row
from omni2.train.data.sound import Wave, flac, loud, trim
from omni2.train.data.voices import RESERVED, Hibari, voice

MARGIN = 0.08  # seconds of silence kept around an answer
CLEAR_SHARE = 0.5  # of the questions are drawn from the natural voices alone, the rest from all


@dataclass(frozen=True)
class Speak:
    """Give a row the sounds it lacks; what it becomes depends on the row and on `seed` alone.

    `voices` ask (none: questions stay typed), `answer` is the voice of the answers (None: they stay text).  Questions
    are augmented, recorded ones too, unless `augmented` is false.
    """

    voices: tuple[str, ...]
    answer: str | None
    augmented: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise InputError for a voice that does not exist or is kept for evaluation."""
        for name in (*self.voices, *([self.answer] if self.answer else [])):
            if name in RESERVED:
                raise InputError(f"the voice {name} is kept for evaluation; train on others")
            voice(name)

    def __call__(self, row: Row) -> Row:
        """`row` with `question_audio` and `answer_audio`, as far as its task wants them.

        Raises InputError: text that cannot be pronounced, a sound of more than 30 s; OmniError: a voice that fails.
        """
        rng = row_generator(self.seed, row.key)
        if row.task != "read" and row.question_features is None:
            row = self._ask(row, rng)
        wanted = row.task in ("answer", "see", "read") and row.answer_text and self.answer
        if wanted and row.answer_codes is None and row.answer_audio is None:
            sound, seconds, starts = _answer(str(self.answer), row.answer_text)
            speaker = str(self.answer) if row.task == "read" else row.voice
            row = replace(row, answer_audio=sound, answer_seconds=seconds, answer_starts=starts, voice=speaker)
        return row

    def _ask(self, row: Row, rng: np.random.Generator) -> Row:
        name = row.voice
        if row.question_audio is not None:
            wave = to_waveform(row.question_audio)
        elif self.voices and row.question_text:
            name = draw_voice(self.voices, rng)
            wave = say(name, row.question_text)
        else:
            return row
        if self.augmented and row.task != "listen":  # the moments of these are exact
            wave = to_waveform(augment(wave, rng))
        return replace(
            row, voice=name, question_audio=flac(wave, SAMPLE_RATE), question_seconds=wave.size / SAMPLE_RATE
        )


def row_generator(seed: int, key: str) -> np.random.Generator:
    """Random numbers of one row: the same whichever rows are made with it, before it or after a restart."""
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")])


def draw_voice(names: Sequence[str], rng: np.random.Generator) -> str:
    """One of `names`; half the time one of the natural ones, if there are any."""
    clear = [name for name in names if not name.startswith("espeak")]
    return str(rng.choice(clear if clear and rng.random() < CLEAR_SHARE else list(names)))


def say(name: str, text: str) -> Wave:
    """`text` in the voice `name`: float32 (samples,) at 16 kHz, silence at both ends cut off."""
    wave, rate = voice(name).say(text)
    return to_waveform(trim(wave, rate), rate)


@lru_cache(maxsize=512)  # an answer is given to many questions; about 100 kB each
def _answer(name: str, text: str) -> tuple[bytes, float, tuple[float, ...] | None]:
    """Sound file, seconds, and the seconds at which its words begin, if the voice tells."""
    speaker = voice(name)
    wave, rate = speaker.say(text)
    starts = speaker.starts(text) if isinstance(speaker, Hibari) else None
    first, last = loud(wave, rate, margin=MARGIN)
    cut = first / rate
    wave = wave[first:last]
    return flac(wave, rate), wave.size / rate, starts and tuple(max(start - cut, 0.0) for start in starts)
