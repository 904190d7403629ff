"""How much of a sound survives a codec: intelligibility and spectral distance."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
import soxr
import torch

from omni2.codec import Codec
from omni2.errors import InputError, OmniError
from omni2.eval.asking import together
from omni2.eval.recognise import Ear, recogniser, wer
from omni2.eval.report import Figure, Table
from omni2.train.data.sentences import definitions, split
from omni2.train.data.voices import ANSWER, voice

Wave = npt.NDArray[np.float32]  # (samples,) mono in [-1, 1]

STOI_RATE = 10_000  # Hz, fixed by the measure (Taal et al. 2011)
SHORTEST = 4_000  # samples at that rate; the measure needs 30 frames of 128
TOO_SHORT = "too little sound to measure: give at least half a second of speech"
WINDOW, HOP, BANDS = 1024, 256, 80
PESQ_RATE = 16_000  # Hz, of the wide band
NO_PESQ = "pesq is missing: pip install pesq (it needs a C compiler)"


@dataclass(frozen=True)
class Result:
    """A sentence, what the measures say of its sound after coding, and what was heard before and after.

    `pesq` is None where the package is missing.
    """

    text: str
    stoi: float
    mel: float
    pesq: float | None
    heard: str
    coded: str


def run(codec: Codec, n: int, ear: Ear | None = None) -> list[Result]:
    """Send `n` definitions that no codec was trained on, in the answer voice, through `codec`.

    Raises OmniError if the dictionary, the voice or pystoi is not installed.
    """
    ears = ear or recogniser()

    def one(text: str) -> Result:
        wave, rate = voice(ANSWER).say(text)
        before = soxr.resample(wave, rate, codec.sample_rate) if rate != codec.sample_rate else wave
        after = codec.decode(codec.encode(torch.from_numpy(before)))[: len(before)].clamp(-1, 1).numpy()
        pair = before, after, codec.sample_rate
        heard = ears.transcribe(before, codec.sample_rate), ears.transcribe(after, codec.sample_rate)
        return Result(text, stoi(*pair), mel_distance(*pair), pesq(*pair) if has_pesq() else None, *heard)

    return together(one, split(definitions())[1][:n], "coding sentences")


def table(results: Sequence[Result]) -> Table:
    """Means of the measures, and the word error rates before and after coding."""
    texts = [one.text for one in results]
    count, quality = len(results), [one.pesq for one in results if one.pesq is not None]
    figures = [
        Figure("codec.stoi", "codec: STOI", float(np.mean([one.stoi for one in results])), count=count),
        Figure("codec.mel", "codec: log-mel distance", float(np.mean([one.mel for one in results])), count=count),
        *([Figure("codec.pesq", "codec: PESQ, wide band", float(np.mean(quality)), count=count)] if quality else []),
        _rate("codec.before", "codec: WER before coding", texts, [one.heard for one in results]),
        _rate("codec.after", "codec: WER after coding", texts, [one.coded for one in results]),
    ]
    wrong = (f"{one.text} → {one.coded} (before: {one.heard})" for one in results if wer([one.text], [one.coded]))
    return Table(figures, [] if quality else [NO_PESQ], wrong)


def _rate(key: str, what: str, texts: list[str], heard: list[str]) -> Figure:
    return Figure(key, what, 100 * wer(texts, heard), "%", len(texts))


def has_pesq() -> bool:
    """Whether `pesq` can be measured."""
    return find_spec("pesq") is not None


def pesq(reference: Wave, degraded: Wave, rate: int) -> float:
    """Perceived quality (ITU-T P.862.2, wide band: 1 bad to 4.64), both (samples,) at `rate` Hz; the longer one is cut.

    Raises InputError for sound without speech, OmniError if the package is missing.
    """
    if not has_pesq():
        raise OmniError(NO_PESQ)
    measure = import_module("pesq")
    pair = [soxr.resample(wave, rate, PESQ_RATE) for wave in _same_length(reference, degraded)]
    try:
        return float(measure.pesq(PESQ_RATE, *pair, "wb"))
    except (measure.PesqError, ValueError) as error:
        raise InputError(f"cannot measure PESQ: {error}; give at least half a second of speech") from error


def stoi(reference: Wave, degraded: Wave, rate: int) -> float:
    """Short-time objective intelligibility of `degraded`, both (samples,) at `rate` Hz: 1.0 is the reference itself.

    The longer one is cut. Raises InputError for less than about 0.4 s of sound, OmniError if pystoi is missing.
    """
    try:
        from pystoi import stoi as measure
    except ImportError as error:
        raise OmniError("pystoi is missing: pip install pystoi") from error
    pair = [soxr.resample(wave, rate, STOI_RATE) for wave in _same_length(reference, degraded)]
    if pair[0].size < SHORTEST:
        raise InputError(TOO_SHORT)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(measure(pair[0], pair[1], STOI_RATE))
        except RuntimeWarning as error:
            raise InputError(TOO_SHORT) from error


def mel_distance(reference: Wave, degraded: Wave, rate: int) -> float:
    """Mean absolute difference of two log-mel spectra (natural logarithm, 80 bands, floor 1e-5): 0.0 is no change.

    Both are (samples,) at `rate` Hz; the longer one is cut. Raises InputError for less than one window of 1,024.
    """
    pair = _same_length(reference, degraded)
    if pair[0].size < WINDOW:
        raise InputError(f"{pair[0].size} samples are too few to measure: give {WINDOW} or more")
    first, second = (_log_mel(wave, rate) for wave in pair)
    return float(np.abs(first - second).mean())


def _same_length(reference: Wave, degraded: Wave) -> tuple[Wave, Wave]:
    if reference.ndim != 1 or degraded.ndim != 1:
        raise InputError(f"waves have one dimension, not shapes {reference.shape} and {degraded.shape}")
    length = min(reference.size, degraded.size)
    return reference[:length], degraded[:length]


def _log_mel(wave: Wave, rate: int) -> npt.NDArray[np.float32]:
    """(frames, BANDS) natural log-mel magnitudes."""
    frames = np.lib.stride_tricks.sliding_window_view(wave, WINDOW)[::HOP] * np.hanning(WINDOW).astype(np.float32)
    mel: npt.NDArray[np.float32] = np.abs(np.fft.rfft(frames)).astype(np.float32) @ _filters(rate).T
    return np.log(np.maximum(mel, 1e-5))


@cache
def _filters(rate: int) -> npt.NDArray[np.float32]:
    """(BANDS, WINDOW // 2 + 1) triangles of unit sum, evenly spaced on the mel scale 2595 log10(1 + f / 700)."""
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + rate / 1400), BANDS + 2) / 2595) - 1)
    bins = np.linspace(0, rate / 2, WINDOW // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1, None] - edges[:-2, None])
    falling = (edges[2:, None] - bins) / (edges[2:, None] - edges[1:-1, None])
    triangles = np.maximum(np.minimum(rising, falling), 0)
    scaled: npt.NDArray[np.float32] = (triangles / np.maximum(triangles.sum(1, keepdims=True), 1e-9)).astype(np.float32)
    return scaled
