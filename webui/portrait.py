"""A picture of a sound."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from omni2.client import SAMPLE_RATE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACCENT, INK = "#0d9488", "#84908b"  # readable on light and on dark
WINDOW, HOP = 512, 120  # samples
FLOOR = -60.0  # dB below the loudest, where the spectrogram ends
HIGHEST = 8  # kHz; speech has little above


def portrait(pcm: bytes) -> "Figure":
    """Waveform and spectrogram of PCM as the server sends it, on a transparent ground."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    samples = np.frombuffer(pcm, "<i2") / 32768
    seconds = samples.size / SAMPLE_RATE
    figure = Figure(figsize=(7, 3), layout="constrained", facecolor="none")
    wave, spectrum = figure.subplots(2, sharex=True, height_ratios=(1, 2))
    lows, highs = envelope(samples, 700)
    wave.fill_between(np.linspace(0, seconds, len(lows)), lows, highs, color=ACCENT)
    wave.set_axis_off()
    spectrum.imshow(
        decibels(samples),
        cmap=LinearSegmentedColormap.from_list("accent", ["#0d948800", ACCENT, "#053b36"]),
        vmin=FLOOR,
        vmax=0,
        origin="lower",
        aspect="auto",
        extent=(0, seconds, 0, SAMPLE_RATE / 2000),
    )
    spectrum.set(ylim=(0, HIGHEST), yticks=(0, HIGHEST // 2, HIGHEST), xlabel="s", ylabel="kHz", facecolor="none")
    spectrum.tick_params(colors=INK)
    for side in (spectrum.xaxis.label, spectrum.yaxis.label):
        side.set_color(INK)
    spectrum.spines[:].set_visible(False)
    return figure


def envelope(samples: npt.NDArray[np.float64], columns: int) -> tuple[list[float], list[float]]:
    """The lowest and highest of (n,) samples in each of at most `columns` stretches."""
    stretches = [stretch for stretch in np.array_split(samples, columns) if stretch.size]
    return [stretch.min() for stretch in stretches], [stretch.max() for stretch in stretches]


def decibels(samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The spectrogram (frequencies, times) of (n,) samples, in dB below its highest value."""
    padded = np.pad(samples, (WINDOW // 2, WINDOW))
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(windows * np.hanning(WINDOW))).T ** 2
    loudest = max(float(power.max()), 1e-9)
    return 10 * np.log10(np.maximum(power / loudest, 10 ** (FLOOR / 10)))
