"""Rooms, microphones, telephones and noise for the question voices, in a few milliseconds each.

heard = augment(wave, np.random.default_rng(7))
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import soxr

from omni2.errors import InputError

Wave = npt.NDArray[np.float32]  # (samples,) mono in [-1, 1]

SAMPLE_RATE = 16_000  # Hz
CLEAN = 1 / 4  # share of sounds that only change in gain
SPEED = (0.90, 1.12)  # both tempo and pitch, as of a tape
PITCH = (0.90, 1.12)  # pitch alone
PEAK = (-20.0, -0.5)  # dB of full scale, the loudest sample
SNR = (4.0, 26.0)  # dB
TELEPHONE = (300.0, 3400.0)  # Hz
DULL = (3500.0, 7000.0)  # Hz
DECAY = (0.05, 0.4)  # seconds until the echo is 60 dB down
SILENCE = (0.0, 0.4)  # seconds before, and after


def augment(wave: Wave, rng: np.random.Generator) -> Wave:
    """`wave`, (samples,) float32 at 16 kHz, as another speaker in another place might have sent it.

    A quarter of the time only the gain changes. Otherwise each of another larynx, pitch, speed, a duller voice, room,
    soft clipping, silence at both ends, noise and telephone is drawn on its own, so the length may change. The result
    lies in [-1, 1] and depends on `wave` and the state of `rng` alone. Raises InputError unless `wave` is a non-empty
    vector of finite numbers.
    """
    if wave.ndim != 1 or not wave.size or not np.isfinite(wave).all():
        raise InputError(f"cannot augment a wave of shape {wave.shape}; give finite samples in one dimension")
    wave = wave.astype(np.float32)
    if rng.random() >= CLEAN:
        if rng.random() < 0.15:
            wave = vocode(wave, rng)
        if rng.random() < 0.2:
            wave = change_pitch(wave, rng.uniform(*PITCH))
        if rng.random() < 0.6:
            wave = change_speed(wave, rng.uniform(*SPEED))
        if rng.random() < 0.15:
            wave = dull(wave, rng)
        if rng.random() < 0.35:
            wave = add_room(wave, rng)
        if rng.random() < 0.2:
            wave = soft_clip(wave, rng.uniform(1.0, 4.0))
        if rng.random() < 0.5:
            ends = (rng.uniform(*SILENCE, size=2) * SAMPLE_RATE).astype(int)
            wave = np.pad(wave, (int(ends[0]), int(ends[1])))
        if rng.random() < 0.6:
            wave = add_noise(wave, rng)
        if rng.random() < 0.2:
            wave = telephone(wave)
    return to_peak(wave, rng.uniform(*PEAK))


def change_speed(wave: Wave, factor: float) -> Wave:
    """`wave` played `factor` times as fast, its pitch with it: (samples / factor,)."""
    changed: Wave = soxr.resample(wave, SAMPLE_RATE * factor, SAMPLE_RATE, quality="MQ")
    return changed if changed.size else wave


def change_pitch(wave: Wave, factor: float, size: int = 512) -> Wave:
    """`wave`, same length, with its pitch and its vocal tract `factor` times as high.

    A phase vocoder (Flanagan and Golden, 1966) stretches it to `factor` times its length, then it is played faster.
    """
    spectra = _frames(wave, size)
    steps = np.arange(0, len(spectra) - 1, 1 / factor)
    left, part = steps.astype(int), (steps % 1)[:, None]
    magnitudes = (1 - part) * np.abs(spectra[left]) + part * np.abs(spectra[left + 1])
    turns = np.angle(spectra[left + 1] * spectra[left].conj())
    phases = np.angle(spectra[0]) + np.cumsum(turns, axis=0) - turns
    made = change_speed(_overlap(magnitudes * np.exp(1j * phases), round(wave.size * factor), size), factor)
    made = np.pad(made, (0, max(wave.size - made.size, 0)))[: wave.size]
    return made * np.float32(np.abs(wave).max() / max(np.abs(made).max(), 1e-9))


def vocode(wave: Wave, rng: np.random.Generator, size: int = 512) -> Wave:
    """`wave`, same length, with its larynx replaced by a buzz of steady pitch: as from an old diphone synthesiser.

    The envelope of each 32 ms spectrum (the first 40 cepstral coefficients) is laid on pulses where low frequencies
    carry most of the energy, on noise elsewhere.
    """
    pitch = rng.uniform(80, 220) * (1 - rng.uniform(0, 0.25) * np.arange(wave.size) / wave.size)  # Hz, falling
    pulses = np.diff(np.floor(np.cumsum(pitch / SAMPLE_RATE)), prepend=0).astype(np.float32)
    noise = rng.standard_normal(wave.size).astype(np.float32)
    spectra = [_frames(x, size) for x in (wave, pulses, noise)]
    envelopes = [_envelope(np.abs(x)) for x in spectra]
    power = np.square(np.abs(spectra[0]))
    low = round(1500 / SAMPLE_RATE * size)
    voiced = (power[:, :low].sum(1) > power[:, low:].sum(1))[:, None]
    source = np.where(voiced, spectra[1] / envelopes[1], spectra[2] / envelopes[2])
    made = _overlap(source * envelopes[0], wave.size, size)
    return made * np.float32(np.abs(wave).max() / max(np.abs(made).max(), 1e-9))


def _frames(wave: Wave, size: int) -> npt.NDArray[np.complex64]:
    """Spectra (frames, size // 2 + 1) under a Hann window, a quarter of `size` apart, zeros around."""
    padded = np.pad(wave, (size, size + -wave.size % (size // 4)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, size)[:: size // 4]
    return np.fft.rfft(windows * np.hanning(size).astype(np.float32)).astype(np.complex64)


def _overlap(spectra: npt.NDArray[np.complexfloating], length: int, size: int) -> Wave:
    """The samples (length,) of what `_frames` took apart, up to a constant gain."""
    pieces = np.fft.irfft(spectra, size) * np.hanning(size)
    out = np.zeros(len(pieces) * size // 4 + size)
    for quarter in range(4):  # every fourth piece follows the one before without overlap
        run = pieces[quarter::4].reshape(-1)
        out[quarter * size // 4 :][: run.size] += run
    return out[size : size + length].astype(np.float32)


def _envelope(magnitudes: npt.NDArray[np.floating], order: int = 40) -> npt.NDArray[np.floating]:
    """Smooth spectra: cepstra (inverse transform of the logarithm) cut behind `order` coefficients."""
    cepstra = np.fft.irfft(np.log(magnitudes + 1e-5))
    cepstra[:, order:-order] = 0
    return np.exp(np.fft.rfft(cepstra).real)


def add_room(wave: Wave, rng: np.random.Generator) -> Wave:
    """`wave` in a small room, same length: the direct sound, then noise that dies away exponentially."""
    decay = rng.uniform(*DECAY)
    length = round(decay * SAMPLE_RATE)
    response = rng.standard_normal(length, dtype=np.float32)
    response *= np.exp(np.linspace(0, -6.9, length, dtype=np.float32))  # e^-6.9 is -60 dB
    response *= np.float32(rng.uniform(0.2, 0.8) / np.sqrt(np.square(response).sum()))
    response[: round(0.002 * SAMPLE_RATE)] = 0  # 2 ms to the nearest wall
    response[0] = 1
    size = _fast_length(wave.size + length - 1)
    spectrum = np.fft.rfft(wave, size) * np.fft.rfft(response, size)
    return np.fft.irfft(spectrum, size)[: wave.size].astype(np.float32)


def add_noise(wave: Wave, rng: np.random.Generator) -> Wave:
    """`wave` over white, pink or brown noise or a mains hum, 4 to 26 dB under the mean power of the speech."""
    return mix(wave, background(wave.size, rng), rng.uniform(*SNR))


def background(length: int, rng: np.random.Generator) -> Wave:
    """White, pink or brown noise or a mains hum: (length,)."""
    kind = rng.choice(["white", "pink", "brown", "hum"])
    return hum(length, rng) if kind == "hum" else coloured(length, {"pink": 0.5, "brown": 1.0}.get(kind, 0), rng)


def mix(wave: Wave, noise: Wave, snr: float) -> Wave:
    """`wave` plus `noise`, both (samples,), scaled so that its mean power lies `snr` dB under that of `wave`."""
    ratio = np.square(wave).mean() / max(np.square(noise).mean(), 1e-12)
    return wave + noise * np.float32(np.sqrt(ratio) * 10 ** (-snr / 20))


def babble(speakers: Sequence[Wave], length: int, rng: np.random.Generator) -> Wave:
    """Several people at once: (length,), each of `speakers` repeated from a random place, all equally loud."""
    total = np.zeros(length, np.float32)
    for wave in speakers:
        level = np.sqrt(max(float(np.square(wave).mean()), 1e-12))
        total += np.resize(np.roll(wave, int(rng.integers(wave.size))), length) / np.float32(level)
    return total / np.float32(np.sqrt(max(len(speakers), 1)))


def coloured(length: int, exponent: float, rng: np.random.Generator) -> Wave:
    """Noise (length,) whose magnitude falls as frequency to the `-exponent`: 0 white, 0.5 pink, 1 brown."""
    white = rng.standard_normal(length, dtype=np.float32)
    if not exponent:
        return white
    size = _fast_length(length)
    bins = np.arange(size // 2 + 1, dtype=np.float32)
    shape = np.maximum(bins, 50.0 / SAMPLE_RATE * size) ** np.float32(-exponent)  # flat under 50 Hz
    return np.fft.irfft(np.fft.rfft(white, size) * shape, size)[:length].astype(np.float32)


def hum(length: int, rng: np.random.Generator) -> Wave:
    """Mains hum (length,): 50 or 60 Hz and its first five harmonics, each weaker than the one before."""
    phase = np.arange(length, dtype=np.float32) * np.float32(2 * np.pi * rng.choice([50, 60]) / SAMPLE_RATE)
    total = np.zeros(length, np.float32)
    for harmonic in range(1, 7):
        total += np.sin(phase * harmonic + np.float32(rng.uniform(0, 2 * np.pi))) * np.float32(0.7**harmonic)
    return total


def telephone(wave: Wave) -> Wave:
    """`wave` with nothing left outside 300 to 3,400 Hz, same length."""
    return band(wave, *TELEPHONE)


def dull(wave: Wave, rng: np.random.Generator) -> Wave:
    """`wave` with nothing left above 3.5 to 7 kHz, same length: as a voice of fewer samples a second sounds."""
    return band(wave, 0.0, rng.uniform(*DULL))


def band(wave: Wave, lowest: float, highest: float) -> Wave:
    """`wave` with nothing left outside these Hz, same length."""
    size = _fast_length(wave.size)
    spectrum = np.fft.rfft(wave, size)
    low, high = (round(edge / SAMPLE_RATE * size) for edge in (lowest, highest))
    spectrum[:low] = 0
    spectrum[high + 1 :] = 0
    return np.fft.irfft(spectrum, size)[: wave.size].astype(np.float32)


def soft_clip(wave: Wave, drive: float) -> Wave:
    """`wave` overdriven: the tangent curve flattens all that exceeds 1 / `drive` of its peak."""
    peak = max(float(np.abs(wave).max()), 1e-9)
    clipped: Wave = np.tanh(wave * np.float32(drive / peak)) * np.float32(peak)
    return clipped


def to_peak(wave: Wave, level: float) -> Wave:
    """`wave` scaled so that its loudest sample lies `level` dB above full scale; silence stays silence."""
    peak = max(float(np.abs(wave).max()), 1e-9)
    return wave if peak <= 1e-9 else wave * np.float32(10 ** (level / 20) / peak)


def _fast_length(length: int) -> int:
    """The smallest 2^n or 3·2^n not below `length`: sizes the Fourier transform is quick at."""
    power = 1 << max(length - 1, 1).bit_length()
    return power * 3 // 4 if power * 3 // 4 >= length else power
