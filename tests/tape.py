"""What a page gave to the loudspeaker, against what it was sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import soxr

if TYPE_CHECKING:
    from playwright.sync_api import Page

TAPE = """() => {
    const { analyser } = window.omni;
    const node = new AudioWorkletNode(analyser.context, "capture");
    const played = [];
    window.tape = () => new Promise((done) => {
        node.port.onmessage = ({ data }) => { played.push(...data.pcm); if (data.asked) done(played); };
        node.port.postMessage("flush");
    });
    node.port.onmessage = ({ data }) => played.push(...data.pcm);
    analyser.connect(node).connect(analyser.context.destination);
    return analyser.context.sampleRate;
}"""
EDGE = 64  # samples by which the place found for a piece may be late
FINE = 16  # places looked at within a sample
NEAR = np.arange(-FINE, FINE + 1)  # of these, a sample to either side


class Tape:
    """Records what the page's player gives to the loudspeaker from now on."""

    def __init__(self, page: Page) -> None:
        self._page, self.rate = page, page.evaluate(TAPE)

    def holds(self, pieces: list[np.ndarray]) -> list[tuple[float, float]]:
        """How well each of `pieces` (24 kHz, in order) correlates with where it was played, its loudness there."""
        played = np.array(self._page.evaluate("tape()"), np.float32) / 32768
        fits = []
        for piece in pieces:
            sent = soxr.resample(piece, 24_000, self.rate)
            start, correlation, loudness = _fit(np.pad(played, (0, len(sent))), sent)
            fits.append((correlation, loudness))
            played = played[start + len(sent) - EDGE :]
        return fits


def _fit(played: np.ndarray, sent: np.ndarray) -> tuple[int, float, float]:
    """Where `played` is most like `sent`, how well they correlate there, and how loud it is against `sent`.

    A piece may begin between two samples of the device, wherever the player happens to stand.  In a hiss half a sample
    makes 5 % of the correlation, so it is looked for in FINE steps around the place.
    """
    energy = np.concatenate([[0], np.cumsum(played.astype(np.float64) ** 2)])
    norm = np.linalg.norm(sent)
    loudness = np.sqrt(energy[len(sent) :] - energy[: -len(sent)]) / norm
    heard = np.maximum(loudness, 0.1)  # silence is like nothing
    start = int(np.argmax(_products(played, sent)[: len(loudness)] / heard))
    product = _products(played[start : start + len(sent)], sent, FINE)[NEAR]
    return start, float(product.max() / (norm**2 * heard[start])), float(loudness[start])


def _products(played: np.ndarray, sent: np.ndarray, fine: int = 1) -> np.ndarray:
    """The dot product of `sent` with what follows each 1 / `fine` of a sample of `played`."""
    size = 1 << (len(played) + len(sent)).bit_length()
    return fine * np.fft.irfft(np.fft.rfft(played, size) * np.fft.rfft(sent, size).conj(), fine * size)
