"""How much of a sound survives a codec: intelligibility and spectral distance."""

import warnings
from functools import cache

import numpy as np
import numpy.typing as npt
import soxr

from omni2.errors import InputError, OmniError

Wave = npt.NDArray[np.float32]  # (samples,) mono in [-1, 1]

STOI_RATE = 10_000  # Hz, fixed by the measure (Taal et al. 2011)
SHORTEST = 4_000  # samples at that rate; the measure needs 30 frames of 128
TOO_SHORT = "too little sound to measure: give at least half a second of speech"
WINDOW, HOP, BANDS = 1024, 256, 80


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
