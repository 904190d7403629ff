"""Questions as sounds, in voices and places no training had, and a model that is asked many of them at once."""

import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from omni2.train.data import augment
from omni2.train.data.speak import say

Wave = npt.NDArray[np.float32]  # (samples,) mono at 16 kHz in [-1, 1]
Condition = Literal["clean", "noise", "room", "telephone"]

SNR = 10.0  # dB, of the condition "noise"
PEAK = -3.0  # dB of full scale, the loudest sample of what is not clean
AT_ONCE = 6  # conversations: they fit into the rows of a model as it is loaded
STDERR = Console(stderr=True)  # progress; standard output is the table's

T = TypeVar("T")
R = TypeVar("R")


@lru_cache(maxsize=1024)  # about 100 kB each; one sound is used by several evaluations
def spoken(voice: str, text: str, condition: Condition = "clean") -> Wave:
    """`text` in a voice, silence at its ends cut off: (samples,) at 16 kHz; the same in every run.

    "noise" is coloured noise or a hum `SNR` dB under the speech, "room" an echo, "telephone" 300 to 3,400 Hz.
    """
    if condition == "clean":
        _steady()
        return say(voice, text)
    wave = spoken(voice, text)
    rng = np.random.default_rng(zlib.crc32(f"{voice} {text}".encode()))
    if condition == "noise":
        wave = augment.mix(wave, augment.background(wave.size, rng), SNR)
    elif condition == "room":
        wave = augment.add_room(wave, rng)
    else:
        wave = augment.telephone(wave)
    return augment.to_peak(wave, PEAK)


def together(work: Callable[[T], R], items: Iterable[T], description: str) -> list[R]:
    """`work` done on all items, several at once, with a progress bar: a model's live conversations share its steps."""
    todo = list(items)
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        done = pool.map(work, todo)
        return list(track(done, description, total=len(todo), console=STDERR))
    finally:
        pool.shutdown(cancel_futures=True)


def each(items: Iterable[T], description: str) -> Iterable[T]:
    """The items, one after the other, with a progress bar."""
    todo = list(items)
    return track(todo, description, total=len(todo), console=STDERR)


@cache
def _steady() -> None:
    """Make the voices that draw their timing at random draw the same in every run."""
    if find_spec("onnxruntime"):
        import_module("onnxruntime").set_seed(0)
