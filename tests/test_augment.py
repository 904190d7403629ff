import time

import numpy as np
import pytest

from omni2.errors import InputError
from omni2.train.data import augment as module
from omni2.train.data.augment import SAMPLE_RATE, augment


def speech(seconds: float = 2.0) -> np.ndarray:
    """A buzz that rises and falls, the shape of speech."""
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    buzz = sum(np.sin(2 * np.pi * 140 * k * t) / k for k in range(1, 20))
    return (0.2 * buzz * np.sin(2 * np.pi * 3 * t) ** 2).astype(np.float32)


def power_outside(wave: np.ndarray, low: float, high: float) -> float:
    power = np.abs(np.fft.rfft(wave)) ** 2
    frequency = np.fft.rfftfreq(wave.size, 1 / SAMPLE_RATE)
    return float(power[(frequency < low) | (frequency > high)].sum() / power.sum())


def is_scaled(wave: np.ndarray, source: np.ndarray) -> bool:
    return wave.size == source.size and np.allclose(
        wave, source * (np.abs(wave).max() / np.abs(source).max()), atol=1e-5
    )


def test_the_same_generator_gives_the_same_sound():
    first, second = ([augment(speech(), rng) for _ in range(20)] for rng in map(np.random.default_rng, (7, 7)))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not all(is_scaled(one, first[0]) for one in first)


def test_a_quarter_and_a_few_more_change_only_in_gain():
    rng, source = np.random.default_rng(0), speech(0.5)
    clean = sum(is_scaled(augment(source, rng), source) for _ in range(400))
    assert 0.2 < clean / 400 < 0.38  # the other changes may all be left out too


def test_some_voices_are_dulled(monkeypatch: pytest.MonkeyPatch) -> None:
    dulled, rng, source = [], np.random.default_rng(0), speech(0.5)
    monkeypatch.setattr(module, "dull", lambda wave, rng: dulled.append(1) or wave)
    for _ in range(200):
        augment(source, rng)
    assert 10 < len(dulled) < 40


def test_results_stay_in_range_and_near_the_length():
    rng, source = np.random.default_rng(1), speech()
    kept = source.copy()
    for _ in range(100):
        wave = augment(source, rng)
        assert wave.dtype == np.float32
        assert 0.09 < np.abs(wave).max() <= 1.0
        assert source.size / 1.13 < wave.size < source.size / 0.89 + 0.8 * SAMPLE_RATE + 1
    np.testing.assert_array_equal(source, kept)


@pytest.mark.parametrize("wave", [np.zeros(800, np.float32), np.ones(1, np.float32), np.ones(7, np.float32)])
def test_silence_and_scraps_survive(wave):
    rng = np.random.default_rng(2)
    for _ in range(60):
        assert np.isfinite(augment(wave, rng)).all()


@pytest.mark.parametrize("wave", [np.zeros(0, np.float32), np.zeros((2, 9), np.float32), np.array([0, np.nan])])
def test_unusable_waves_are_refused(wave):
    with pytest.raises(InputError, match="cannot augment"):
        augment(wave, np.random.default_rng(0))


def test_speed_changes_length_and_pitch():
    tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / SAMPLE_RATE).astype(np.float32)
    fast = module.change_speed(tone, 1.1)
    assert abs(fast.size - 16000 / 1.1) <= 2
    assert abs(np.abs(np.fft.rfft(fast)).argmax() * SAMPLE_RATE / fast.size - 1100) < 3


def test_a_dull_sound_keeps_what_is_low():
    noise = np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32)
    kept = []
    for seed in range(8):
        heard = module.dull(noise, np.random.default_rng(seed))
        assert heard.shape == noise.shape
        edge = 8000 * np.square(heard).mean() / np.square(noise).mean()  # Hz: white noise has as much in each
        assert power_outside(heard, 0, edge + 200) < 1e-2
        assert np.square(module.band(heard - noise, 100, 3300)).mean() < 1e-2
        kept.append(edge)
    assert 3300 < min(kept) < max(kept) - 1000 < 6200


def test_telephone_keeps_only_its_band():
    noise = np.random.default_rng(0).standard_normal(16384).astype(np.float32)
    assert power_outside(noise, 290, 3410) > 0.5
    assert power_outside(module.telephone(noise), 290, 3410) < 1e-3


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_coloured_noise_falls_as_it_should(exponent):
    noise = module.coloured(1 << 17, exponent, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(noise)) ** 2
    low, high = (power[(1 << 13) * k // 8 : (1 << 13) * k // 4].mean() for k in (1, 8))
    assert low / high == pytest.approx(8 ** (2 * exponent), rel=0.2)


def test_noise_keeps_the_promised_ratio():
    rng, source = np.random.default_rng(3), speech()
    for _ in range(40):
        noise = module.add_noise(source, rng) - source
        ratio = 10 * np.log10(np.square(source).mean() / np.square(noise).mean())
        assert 3.9 < ratio < 26.1


def test_a_room_adds_a_tail_and_keeps_the_direct_sound():
    click = np.zeros(8000, np.float32)
    click[100] = 1
    heard = module.add_room(click, np.random.default_rng(0))
    assert heard.size == click.size
    assert np.abs(heard[:100]).max() < 1e-5
    assert heard[100] == pytest.approx(1, abs=1e-4)
    assert 0.02 < np.square(heard[101:]).sum() < 0.8
    assert np.abs(heard[-1000:]).max() < 1e-3


def test_soft_clipping_flattens_but_keeps_the_sign():
    source = speech()
    clipped = module.soft_clip(source, 4.0)
    assert np.abs(clipped).max() <= np.abs(source).max()
    assert np.square(clipped).mean() > 2 * np.square(source).mean()
    assert (np.sign(clipped) == np.sign(source)).all()


@pytest.mark.slow
def test_two_seconds_take_milliseconds():
    rng, source = np.random.default_rng(0), speech()
    started = time.process_time()
    for _ in range(100):
        augment(source, rng)
    assert time.process_time() - started < 1.0  # 10 ms each on a busy machine; about 1 ms on an idle one


def test_another_larynx_keeps_the_envelope_and_makes_the_pitch_steady():
    t = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    glide = np.cumsum(120 + 100 * t) / SAMPLE_RATE  # 120 to 220 Hz
    buzz = sum(np.sin(2 * np.pi * k * glide) / k for k in range(1, 20))
    source = (0.2 * buzz * np.sin(2 * np.pi * 1.5 * t) ** 2).astype(np.float32)
    made = module.vocode(source, np.random.default_rng(3))
    assert made.shape == source.shape
    assert made.dtype == np.float32
    assert np.abs(made).max() == pytest.approx(np.abs(source).max(), rel=1e-4)
    loud = [np.square(x).reshape(20, -1).mean(1) for x in (source, made)]
    assert np.corrcoef(*loud)[0, 1] > 0.8

    def period(piece: np.ndarray) -> int:
        echo = np.correlate(piece, piece, "full")[piece.size - 1 :]
        return 60 + int(np.argmax(echo[60:250]))

    pitches = [SAMPLE_RATE / period(made[i : i + 1600]) for i in (2000, 6000, 12000)]
    assert max(pitches) / min(pitches) < 1.3, pitches


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.12])
def test_pitch_changes_alone(factor: float):
    source = np.sin(2 * np.pi * 1000 * np.arange(16000) / SAMPLE_RATE).astype(np.float32) * 0.3
    made = module.change_pitch(source, factor)
    assert made.shape == source.shape
    assert made.dtype == np.float32
    assert abs(np.abs(np.fft.rfft(made)).argmax() * SAMPLE_RATE / made.size - 1000 * factor) < 12
    beat = speech(1.0)
    loud = [np.square(x).reshape(20, -1).mean(1) for x in (beat, module.change_pitch(beat, factor))]
    assert np.corrcoef(*loud)[0, 1] > 0.8


@pytest.mark.parametrize("snr", [-5.0, 0.0, 20.0])
def test_noise_is_mixed_at_the_given_ratio(snr: float):
    source = speech()
    noise = module.mix(source, module.background(source.size, np.random.default_rng(0)), snr) - source
    assert 10 * np.log10(np.square(source).mean() / np.square(noise).mean()) == pytest.approx(snr, abs=0.05)


def test_babble_holds_everybody_at_one_level():
    tones = [np.sin(np.arange(n) * f).astype(np.float32) * a for n, f, a in ((3000, 0.2, 1), (9000, 0.5, 0.01))]
    crowd = module.babble(tones, 16_384, np.random.default_rng(0))
    assert crowd.shape == (16_384,)
    power = np.abs(np.fft.rfft(crowd)) ** 2
    first, second = (power[b - 40 : b + 40].sum() for b in (round(16_384 * f / 2 / np.pi) for f in (0.2, 0.5)))
    assert first / second == pytest.approx(1, rel=0.2)
