"""Finished and unfinished turns, and the network that learns to tell them apart."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toys import tiny_bundle, tone

from omni2.duplex.finished import FRAMES, SIZES, WEIGHTS, TurnEnd, turn_end_for
from omni2.train import turns
from omni2.train.turns import beginning, dip, example, fit, make


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


def test_it_learns_what_differs() -> None:
    finished = torch.arange(300) % 2 == 0
    features = 0.1 * torch.randn(300, FRAMES, 8, generator=torch.Generator().manual_seed(0))
    features[finished, -20:, 3] += 1.0
    net, right = fit(features, finished, torch.arange(300) % 10 < 2, steps=60, batch=32)
    assert min(right.values()) > 90
    assert net.likely(features[0]) > 0.5 > net.likely(features[1])


def test_weights_are_written(tmp_path: Path) -> None:
    bundle = tiny_bundle()
    right = make(bundle.audio_encoder, bundle.window, tmp_path / "new" / "turns.safetensors", 12, 2)
    assert set(right) == {"finished", "unfinished"}
    TurnEnd(bundle.audio_encoder.width).load_state_dict(load_file(tmp_path / "new" / "turns.safetensors"))
    assert turn_end_for(bundle.audio_encoder) is None  # no weights for its like


def test_the_shipped_weights_fit() -> None:
    TurnEnd(SIZES[1]).load_state_dict(load_file(WEIGHTS))
    assert WEIGHTS.stat().st_size < 1_000_000
