"""The microphone in windows of 32 ms, without the session's own voice, each with how likely and how loud speech is."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from omni2.audio import SAMPLE_RATE
from omni2.duplex.echo import EchoCanceller
from omni2.duplex.vad import WINDOW, SpeechMeter
from omni2.errors import InputError

Samples = npt.NDArray[np.float32]

SPEECH = 0.5  # probability from which on a window is speech
ABOVE = 6.0  # dB that speech lies above the quietest that was heard lately
RISE = 1.0  # dB a second by which that quietest level may rise
ECHO = 3.0  # dB that speech lies above the echo that may be left
VOICE = (70, 400)  # Hz, of vocal cords
PERIODIC = 0.45  # correlation of a window with itself a period later, from which on it is voiced
LOWEST = -100.0  # dB, stands for nothing at all


@dataclass(frozen=True)
class Frame:
    """A window: its samples (WINDOW,) float32 at 16 kHz, free of echo, the first of which is the session's `position`.

    `speech` is how likely it is speech; `level`, `floor` and `echo` are dB of full scale: of it, of the quietest heard
    lately, of the echo that may be left in it.
    """

    position: int
    samples: Samples
    speech: float
    level: float
    floor: float
    echo: float

    @property
    def end(self) -> int:
        """One past its last sample."""
        return self.position + len(self.samples)

    @property
    def is_voice(self) -> bool:
        """Whether somebody else speaks in it."""
        return self.speech >= SPEECH and self.level >= max(self.floor + ABOVE, self.echo + ECHO)

    @property
    def is_voiced(self) -> bool:
        """Whether vocal cords sound in it, unlike in coughs, clicks and the like."""
        x = self.samples.astype(float) - self.samples.mean()
        spectrum = np.square(np.abs(np.fft.rfft(x, 2 * len(x))))
        same = np.fft.irfft(spectrum)[: len(x)]
        shortest, longest = SAMPLE_RATE // VOICE[1], SAMPLE_RATE // VOICE[0]
        lags = np.arange(shortest, longest)
        weights = len(x) / (len(x) - lags)  # fewer samples meet at longer lags
        return bool((same[shortest:longest] * weights).max() > PERIODIC * max(same[0], 1e-9))


class Ear:
    """Turns microphone sound of any rate and length into frames.  Not for several threads at once."""

    def __init__(self) -> None:
        self._meter, self._echo = SpeechMeter(), EchoCanceller()
        self._rate, self._resampler = float(SAMPLE_RATE), None
        self._heard: list[Samples] = []
        self._played: list[Samples] = []
        self._position = 0
        self._floor: float | None = None

    @property
    def position(self) -> int:
        """Samples at 16 kHz that made whole frames so far."""
        return self._position

    def play(self, samples: Samples) -> None:
        """(n,) samples at 16 kHz left the loudspeaker while the microphone heard what `push` brings next."""
        self._played.append(samples)

    def push(self, samples: Samples, rate: float) -> list[Frame]:
        """The frames that (n,) float32 samples at `rate` Hz complete.  Raises InputError for sound it cannot use."""
        self._heard.append(self._resample(_checked(samples), rate))
        heard = np.concatenate(self._heard)
        played = np.concatenate([np.zeros(0, np.float32), *self._played])
        whole = len(heard) // WINDOW * WINDOW
        spoken = np.pad(played[:whole], (0, max(whole - len(played), 0)))
        self._heard, self._played = [heard[whole:]], [played[whole:][: 2 * SAMPLE_RATE]]
        pairs = zip(heard[:whole].reshape(-1, WINDOW), spoken.reshape(-1, WINDOW), strict=True)
        return [self._frame(mine, own) for mine, own in pairs]

    def _frame(self, heard: Samples, played: Samples) -> Frame:
        rest, left = self._echo.push(heard, played)
        level = decibel(float(np.square(rest).mean()))
        risen = level if self._floor is None else self._floor + RISE * WINDOW / SAMPLE_RATE
        self._floor = min(level, risen)
        frame = Frame(self._position, rest, self._meter.push(rest), level, self._floor, decibel(left))
        self._position += WINDOW
        return frame

    def _resample(self, samples: Samples, rate: float) -> Samples:
        if rate != self._rate:
            import soxr

            self._rate = rate
            self._resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1) if rate != SAMPLE_RATE else None
        if self._resampler is None:
            return samples
        resampled: Samples = self._resampler.resample_chunk(samples)
        return resampled


def decibel(power: float) -> float:
    """Mean power in dB of full scale, `LOWEST` at least."""
    return max(10 * float(np.log10(max(power, 1e-30))), LOWEST)


def _checked(samples: Samples) -> Samples:
    if not isinstance(samples, np.ndarray) or samples.ndim != 1 or samples.dtype not in (np.float32, np.float64):
        raise InputError("the microphone's sound is an array (samples,) of float32 in [-1, 1]")
    if not np.isfinite(samples).all():
        raise InputError("the microphone's sound has samples that are no numbers")
    return np.clip(samples, -1, 1).astype(np.float32)
