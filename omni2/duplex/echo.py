"""The loudspeaker out of the microphone: an adaptive filter that learns the way from one to the other.

Source: G. Enzner and P. Vary, "Frequency-domain adaptive Kalman filter for acoustic echo control in hands-free
telephones" (Signal Processing 86, 2006), partitioned.  Being a Kalman filter it holds still by itself while somebody
talks over the echo: what it cannot explain counts as noise of the measurement.
"""

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
Spectra = npt.NDArray[np.complex128]

BLOCK = 128  # samples at 16 kHz that are filtered at once: 8 ms
PARTS = 40  # blocks that an echo may last, its way through both devices included: 320 ms
STAYS = 0.9999  # how little the room changes from block to block
FIRST = 0.1  # variance of the filter's beginning before anything was heard
DECAY = 0.95  # and of every part against the one before it
SMOOTH = 0.8  # of the measured spectra, from block to block
FLOOR = 0.05  # of what is found that counts as noise in any case
LEAST = 1e-9  # variance that comes back with every block
TINY = 1e-10


class EchoCanceller:
    """Takes out of each block at the microphone what the loudspeaker's last blocks put there."""

    def __init__(self) -> None:
        bins = BLOCK + 1
        self._played: Spectra = np.zeros((PARTS, bins), np.complex128)  # newest first
        self._before = np.zeros(BLOCK)
        self._filter: Spectra = np.zeros((PARTS, bins), np.complex128)
        self._variance = np.repeat(FIRST * DECAY ** np.arange(PARTS)[:, None], bins, axis=1)
        self._noise = np.full(bins, 1e-4)

    def push(self, heard: Samples, played: Samples) -> tuple[Samples, float]:
        """What of (n,) samples `heard` is not known to be echo, and the mean power of echo that may be left in it.

        `played` (n,) left the loudspeaker in the same time; both at 16 kHz, n a multiple of `BLOCK`.
        """
        blocks = zip(heard.reshape(-1, BLOCK), played.reshape(-1, BLOCK), strict=True)
        rests, left = zip(*(self._block(mine, own) for mine, own in blocks), strict=True)
        return np.concatenate(rests).astype(np.float32), float(np.mean(left))

    def _block(self, heard: Samples, played: Samples) -> tuple[npt.NDArray[np.float64], float]:
        self._played = np.roll(self._played, 1, axis=0)
        self._played[0] = np.fft.rfft(np.concatenate([self._before, played]))
        self._before = played.astype(float)
        power = np.square(np.abs(self._played))
        if power.sum() < TINY:
            return heard.astype(float), 0.0
        rest = heard - np.fft.irfft((self._played * self._filter).sum(0))[BLOCK:]
        unsure = 0.5 * (power * self._variance).sum(0)  # half of what is transformed are zeros, hence the halves
        self._learn(rest, unsure)
        return rest, float(unsure.sum()) / BLOCK**2

    def _learn(self, rest: npt.NDArray[np.float64], unsure: npt.NDArray[np.float64]) -> None:
        error = np.fft.rfft(np.concatenate([np.zeros(BLOCK), rest]))
        found = np.square(np.abs(error))
        unexplained = np.maximum(found - unsure, FLOOR * found)
        self._noise = SMOOTH * self._noise + (1 - SMOOTH) * unexplained
        gain = self._variance * self._played.conj() / (unsure + self._noise + TINY)
        self._variance *= STAYS**2 * (1 - 0.5 * (gain * self._played).real)
        change = np.fft.irfft(gain * error, axis=1)
        change[:, BLOCK:] = 0
        self._filter = STAYS * (self._filter + np.fft.rfft(change, axis=1))
        self._variance += (1 - STAYS**2) * np.square(np.abs(self._filter)) + LEAST
