"""Rows to build, and what speaks and hears while they are built."""

import shlex
import sys

import numpy as np
import pytest
from toys import tiny_bundle, tone

from omni2.errors import InputError
from omni2.train.data import encode, speak
from omni2.train.data.schema import Row, keyed, pack

BEEP = (  # a program that speaks: a square wave, 400 samples a letter
    "import io,sys,wave;t=sys.stdin.read().strip();w=wave.open(o:=io.BytesIO(),'wb');"
    "w.setparams((1,2,16000,0,'NONE',''));w.writeframes(bytes([0,64,0,192])*(200*len(t)));w.close();sys.stdout.buffer.write(o.getvalue())"
)
VOICE = f"command:{shlex.join([sys.executable, '-c', BEEP])}"


class Tone:
    """A voice whose pitch tells the text's length; it may refuse, or die."""

    def say(self, text: str) -> tuple[np.ndarray, int]:
        if text == "...":
            raise InputError("nothing to pronounce in '...'")
        return tone(0.4, 200 + 10 * len(text)), 16_000


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """For as long as the test lasts voices are tones and the model is a toy."""
    bundle = tiny_bundle()
    monkeypatch.setattr(speak, "voice", lambda name: Tone())
    monkeypatch.setattr(encode, "load_bundle", lambda name: bundle)
    for cached in (encode.load_parts, encode._codes, speak._answer):
        cached.cache_clear()


def samples(n: int) -> list[Row]:
    return [keyed(Row("", "answer", "toy", "MIT", question_text=f"question {i}", answer_text="yes")) for i in range(n)]


def same(rows: list[Row], others: list[Row]) -> bool:
    """Whether two folders hold the same rows in any order, to the last bit."""
    one, other = ({row.key: pack(row) for row in each} for each in (rows, others))
    return len(one) == len(rows) and one == other
