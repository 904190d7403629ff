"""When words begin: as the answer voice tells, or guessed from their lengths."""

import numpy as np
import pytest

from omni2.errors import InputError
from omni2.train.data.schema import Row, pack, unpack
from omni2.train.data.sound import read_sound
from omni2.train.data.speak import Speak
from omni2.train.data.timing import guessed_starts
from omni2.train.data.voices import voice

SENTENCE = "Stop. The capital of France is Paris."


def test_guessed_words_take_as_long_as_their_letters():
    assert guessed_starts("a bcd ef", 9.0) == pytest.approx((0.0, 2.0, 6.0))
    assert guessed_starts("", 1.0) == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hibari", "hibari-fast", "hibari-1.28"])
def test_the_voice_is_quiet_before_its_first_word_and_between_sentences(name: str):
    speaker = voice(name)
    wave, rate = speaker.say(SENTENCE)
    starts = speaker.starts(SENTENCE)
    assert len(starts) == len(SENTENCE.split())
    assert list(starts) == sorted(starts)

    def level(begin: float, end: float) -> float:
        return float(np.sqrt(np.mean(np.square(wave[round(begin * rate) : round(end * rate)]))))

    loud = level(starts[0], starts[0] + 0.3)
    assert level(0, starts[0] - 0.15) < 0.1 * loud
    assert level(starts[1] - 0.25, starts[1] - 0.15) < 0.1 * loud
    assert level(starts[6] - 0.1, starts[6]) > 0.1 * loud  # within a sentence there is no pause
    assert starts[-1] < len(wave) / rate


@pytest.mark.slow
def test_an_answer_keeps_its_words_places_when_its_silence_is_cut():
    row = Speak((), "hibari")(Row("k", "read", "toy", "MIT", answer_text=SENTENCE))
    wave, rate = read_sound(row.answer_audio)
    assert row.answer_seconds == pytest.approx(len(wave) / rate, abs=1e-3)
    loud = np.flatnonzero(np.abs(wave) > 0.1 * np.abs(wave).max())
    assert row.answer_starts[0] == pytest.approx(loud[0] / rate, abs=0.12)
    assert loud[0] / rate < 0.2 < 0.5 < row.answer_starts[-1] < row.answer_seconds - 0.2
    assert unpack(pack(row)).answer_starts == pytest.approx(row.answer_starts)


def test_starts_that_are_not_one_a_word_are_refused():
    with pytest.raises(InputError, match="2 starts of words for 'three words here'"):
        Row("k", "read", "toy", "MIT", answer_text="three words here", answer_starts=(0.0, 1.0))
