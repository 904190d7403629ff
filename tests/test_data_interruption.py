"""Interruption data: labels exact to the frame, windows as their labels say, half of them orders."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from omni2.audio import SAMPLE_RATE, to_waveform
from omni2.duplex.phrases import plain
from omni2.encoder import FRAME_RATE, SAMPLES_PER_FRAME
from omni2.errors import InputError
from omni2.omni import LISTENING
from omni2.train.data import interruption
from omni2.train.data.interruption import HOLD, IRQ, N_IRQ, Listen, Scene, cut, draw_frame, windows
from omni2.train.data.near import NEAR_PHRASES, NODS, near_phrases
from omni2.train.data.pipeline import make
from omni2.train.data.reserved import NEAR
from omni2.train.data.sound import flac
from omni2.train.data.store import read_rows

HELD = round(HOLD * FRAME_RATE)
LENGTH = round(LISTENING * SAMPLE_RATE)


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> Listen:
    """Orders are a tone of 1 kHz, nods of 2 kHz, near phrases of 3 kHz, all other speech of 300 Hz."""

    def say(name: str, text: str) -> np.ndarray:
        hertz = {"Halt.": 1000, "Malt.": 3000, "Hm.": 2000}.get(text, 300)
        return (0.5 * np.sin(2 * np.pi * hertz * np.arange(9600) / SAMPLE_RATE)).astype(np.float32)

    monkeypatch.setattr(interruption, "_spoken", say)
    voices = ("hibari", "espeak-us")
    return Listen(
        voices, "hibari", ("So they talk.",), ("I answer.",), ("Halt.",), ("Malt.",), ("Hm.",), snr=(30.0, 30.0)
    )


@pytest.mark.parametrize("end", [16_000, 16_001, 16_319, 16_320])
def test_labels_begin_with_the_first_frame_behind_the_phrase(end: int) -> None:
    labels = Scene(np.zeros(48_000, np.float32), 6400, end, True).labels()
    first = -(-end // SAMPLES_PER_FRAME)
    assert labels.shape == (150,)
    assert first * SAMPLES_PER_FRAME >= end > (first - 1) * SAMPLES_PER_FRAME
    assert np.flatnonzero(labels).tolist() == list(range(first, first + HELD))
    assert not Scene(np.zeros(48_000, np.float32), 6400, end, False).labels().any()


@pytest.mark.parametrize("situation", [*IRQ, *N_IRQ])
def test_the_frames_of_a_situation_have_its_label(step: Listen, situation: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(25):
        text = {"other": "", "near": "Malt.", "nod": "Hm.", "begun": "So they talk."}.get(situation, "Halt.")
        scene = step.scene("hibari", text, situation, rng)
        assert scene.wave.size <= interruption.SCENE * SAMPLE_RATE + 2
        frame = draw_frame(scene, situation, rng)
        assert scene.labels()[frame] == (situation in IRQ)
        window = cut(scene, frame, LENGTH)
        assert window.shape == (LENGTH,)
        end = (frame + 1) * SAMPLES_PER_FRAME
        assert end <= scene.wave.size
        np.testing.assert_array_equal(window[-min(end, LENGTH) :], scene.wave[max(end - LENGTH, 0) : end])
        assert not window[: max(LENGTH - end, 0)].any()


def test_the_phrase_is_where_the_scene_says(step: Listen) -> None:
    rng = np.random.default_rng(2)
    starts = []
    for _ in range(12):
        scene = step.scene("hibari", "Halt.", "ordered", rng)
        inside = scene.wave[scene.start : scene.end]
        outside = np.concatenate([scene.wave[: scene.start], scene.wave[scene.end + 8000 :]])
        assert np.square(inside).mean() > 20 * np.square(outside).mean()
        starts.append(scene.start / max(scene.wave.size, 1))
    assert np.ptp(starts) > 0.3


def test_a_third_are_orders_and_all_situations_occur(step: Listen, tmp_path: Path) -> None:
    manifest = make(windows(120), tmp_path, [step], size=20)
    assert manifest["labels"] == {"irq": 40, "n-irq": 80}
    rows = list(read_rows(tmp_path))
    situations = Counter(row.topic for row in rows)
    assert situations.keys() == {*IRQ, *N_IRQ}
    assert all((row.topic in IRQ) == (row.label == "irq") for row in rows)
    assert all(len(to_waveform(row.question_audio)) == LENGTH for row in rows)
    assert {row.question_text for row in rows if row.label == "irq"} == {"Halt."}
    assert {row.question_text for row in rows if row.topic == "near"} == {"Malt."}
    assert {row.question_text for row in rows if row.topic == "nod"} == {"Hm."}
    assert {(row.question_text, row.voice) for row in rows if row.topic == "other"} == {("", "")}
    first = rows[0]
    again = step(next(row for row in windows(120) if row.key == first.key))
    assert again.question_audio == first.question_audio
    other = step(next(iter(windows(1, seed=5))))
    assert other.question_audio != step(next(iter(windows(1)))).question_audio


def test_near_phrases_hold_no_order_and_differ() -> None:
    near = near_phrases()
    assert len(set(near)) == len(near) > 300
    for word in ("Don't stop.", "The bus stop.", "Omni.", "Stop Johnny.", "Tell me more, Omni.", "Omni is here."):
        assert word in near
    orders = {" ".join(plain(text)) for text in interruption.PHRASES}
    said = {" ".join(plain(text)) for text in (*near, *NODS)}
    assert not orders & said
    assert not {" ".join(plain(text)) for text in NEAR} & said
    assert set(NEAR_PHRASES) <= set(near)


@pytest.fixture
def said(step: Listen, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each text is spoken."""
    counted, say = Counter[str](), interruption._spoken

    def spy(name: str, text: str) -> np.ndarray:
        counted[text] += 1
        return say(name, text)

    monkeypatch.setattr(interruption, "_spoken", spy)
    return counted


def test_some_speak_in_a_duller_voice_than_what_is_behind(step: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    dulled: list[int] = []
    monkeypatch.setattr(interruption.change, "dull", lambda wave, rng: dulled.append(wave.size) or wave)
    scenes = [step.scene("hibari", "Halt.", "ordered", np.random.default_rng(seed)) for seed in range(60)]
    assert 3 < len(dulled) < 25
    assert max(dulled) < min(scene.wave.size for scene in scenes), "the phrase alone, not all that is heard"


def test_nobody_talks_behind_a_nod(step: Listen, said: Counter[str]) -> None:
    for seed in range(40):
        step.scene("hibari", "Hm.", "nod", np.random.default_rng(seed))
    assert said["Hm."] == 40
    assert said["I answer."] > 3
    assert not said["So they talk."]


def test_unusable_choices_are_refused() -> None:
    with pytest.raises(InputError, match="kept for evaluation"):
        Listen(("flite-kal",), "hibari", ("a",), ("b",))
    with pytest.raises(InputError, match="need voices"):
        Listen((), "hibari", ("a",), ("b",))
    with pytest.raises(InputError, match="window lasts"):
        Listen(("hibari",), "hibari", ("a",), ("b",), window=11.0)


def test_silent_backgrounds_do_not_matter(step: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Listen, "background", lambda self, length, rng, talk: (np.zeros(length, np.float32), (0.0, 0.0))
    )
    scene = step.scene("hibari", "Halt.", "ordered", np.random.default_rng(0))
    assert np.isfinite(scene.wave).all()
    assert len(flac(scene.wave, SAMPLE_RATE)) > 1000


def test_others_in_the_background_say_near_phrases_at_times(step: Listen, said: Counter[str]) -> None:
    for seed in range(60):
        step.background(5 * SAMPLE_RATE, np.random.default_rng(seed))
    share = said["Malt."] / (said["Malt."] + said["So they talk."])
    assert 0.05 < share < 0.3
    assert said["I answer."] > 10
    assert not said["Halt."]
