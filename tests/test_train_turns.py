"""Finished and unfinished turns, and the network that learns to tell them apart."""

from pathlib import Path

import numpy as np
import pytest
import torch
from toys import tiny_bundle, tone

from omni2.duplex.finished import FRAMES, finished
from omni2.duplex.reader import Reader
from omni2.train import turns
from omni2.train.turns import beginning, dip, example, make
from omni2.weights import read_into


@pytest.fixture(autouse=True)
def voices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody hums, as long as there are words."""
    monkeypatch.setattr(turns, "say", lambda voice, text: tone(0.2 * len(text.split())))


def test_a_beginning_lacks_the_last_word() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        words = beginning("What is the capital of France?", rng).split()
        assert 1 <= len(words) <= 7
        assert "France" not in " ".join(words)


def test_what_is_cut_is_shorter() -> None:
    wave = tone(2.0)
    assert 0.2 < len(dip(wave, np.random.default_rng(0))) / len(wave) < 0.9


def test_examples_are_of_both_kinds_and_end_in_a_pause() -> None:
    made = [example([["What is the capital of France?"]], np.random.default_rng(seed)) for seed in range(30)]
    assert 5 < sum(one.finished for one in made) < 25
    for one in made:
        assert np.abs(one.wave[-1_600:]).max() < 0.8 * np.abs(one.wave).max()


def test_a_beginning_that_is_a_whole_question_is_finished() -> None:
    groups, whole = [["Tell me a joke please."]], {"tell me a joke", "tell me a", "tell me", "tell"}
    looked_up = [example(groups, np.random.default_rng(seed), whole) for seed in range(20)]
    plain = [example(groups, np.random.default_rng(seed)) for seed in range(20)]
    assert sum(one.finished for one in looked_up) > sum(one.finished for one in plain)


def test_a_text_is_held_out_with_all_that_is_made_of_it() -> None:
    rng = np.random.default_rng(0)
    groups = [[f"Is {'a' * count} a word?"] for count in range(1, 60)]
    for group in groups[:8]:
        assert len({example([group], rng).held_out for _ in range(5)}) == 1
    assert {example(groups, rng).held_out for _ in range(300)} == {True, False}


def test_weights_are_written(tmp_path: Path) -> None:
    bundle, file = tiny_bundle(), tmp_path / "new" / "turns.safetensors"
    right = make(bundle.audio_encoder, bundle.window, file, 12, 2)
    assert set(right) == {"finished", "unfinished"}
    net = read_into(lambda: Reader(bundle.audio_encoder.width, FRAMES, 1), file)
    assert net.judge(torch.randn(FRAMES, bundle.audio_encoder.width)).shape == (1,)


def test_an_encoder_that_nobody_trained_for_has_no_opinion() -> None:
    encoder = tiny_bundle().audio_encoder
    assert finished(encoder, torch.randn(FRAMES, encoder.width)) is None
