"""The ear in training: mels stand for features, disguises keep what is said, and nothing but the ear learns."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lessons import SECONDS, plan, sounding, toy, write
from toys import tone

from omni2.encoder import AudioEncoder, mel_filters
from omni2.errors import OmniError
from omni2.model import Span, place
from omni2.omni import OmniModel
from omni2.train.checkpoints import load_checkpoint
from omni2.train.ear import disguised, encoded, mels, warped
from omni2.train.fit import run
from omni2.train.stages import Stage

HEAR = Stage("hear", {"A1T2": 0.5, "A1T1": 0.5}, steps=4, learning_rate=1e-2, warmup=1, trains="ear")


def encoder() -> AudioEncoder:
    torch.manual_seed(0)
    return AudioEncoder(80, 1500, 64, 1, 2).eval()


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_mels_of_a_batch_become_the_features_that_each_sound_has_alone(stride: int):
    # With a memory of no other frames the silence behind a shorter sound has no say.
    ear, waves = encoder(), [tone(s) for s in SECONDS]
    for block in ear.blocks:
        torch.nn.init.zeros_(block.attn.out.weight)
        torch.nn.init.zeros_(block.attn.out.bias)
    placed = place([[Span(2, mels(wave, 80), "audio")] for wave in waves], stride)[0]
    alone = place([[Span(2, ear.encode(wave, "trimmed"), "audio")] for wave in waves], stride)[0]
    made = encoded(ear, placed, stride)
    assert torch.allclose(made.features, alone.features, atol=1e-4)
    assert torch.equal(made.rows, alone.rows)
    assert torch.equal(made.positions, alone.positions)


def test_one_sound_is_heard_as_the_encoder_hears_it():
    ear, wave = encoder(), tone(0.505)
    placed = place([[Span(0, mels(wave, 80), "audio")]], 1)[0]
    assert torch.allclose(encoded(ear, placed, 1).features, ear.encode(wave, "trimmed"), atol=1e-4)


def test_a_shorter_tract_moves_a_tone_up():
    bands = mels(tone(0.5, 1000), 80).reshape(-1, 80)
    centres = mel_filters(80).argmax(1) * 40  # Hz
    for factor in (0.85, 1.0, 1.18):
        loudest = centres[warped(bands, factor).mean(0).argmax()]
        assert loudest == pytest.approx(1000 * factor, abs=60)
    assert torch.allclose(warped(bands, 1.0), bands, atol=1e-3)


def test_disguises_differ_and_stay_within_what_a_mel_can_be():
    sound = mels(tone(0.5), 80)
    made = [disguised(sound, 80, np.random.default_rng(seed)) for seed in range(20)]
    assert torch.equal(made[3], disguised(sound, 80, np.random.default_rng(3)))
    assert len({one.numpy().tobytes() for one in made}) > 15
    for one in made:
        assert one.shape == sound.shape
        assert one.isfinite().all()
        assert sound.min() - 1e-4 <= one.min()
        assert one.max() < sound.max() + 0.6
        assert (one - sound).abs().mean() < 0.4


def test_only_the_ear_learns_and_the_model_keeps_it(tmp_path: Path):
    write(tmp_path / "data", sounding())
    before = toy()
    after = OmniModel.from_pretrained(run(plan(tmp_path, "out", (HEAR,)))).bundle
    old, new = dict(before.lm.named_parameters()), dict(after.lm.named_parameters())
    assert {name.split(".")[0] for name in old if not torch.equal(old[name], new[name])} == {"audio_adapter"}
    moved = [
        not torch.equal(a, b) for a, b in zip(*(m.audio_encoder.parameters() for m in (before, after)), strict=True)
    ]
    assert all(moved)


def test_an_ear_ends_in_the_mean_of_its_last_weights(tmp_path: Path):
    write(tmp_path / "data", sounding())
    stage = replace(HEAR, floor=1.0)  # its third step is the same however many there are
    stages = {"third": replace(stage, steps=3), "last": stage, "mean": replace(stage, averaged=0.5)}
    ears = [
        OmniModel.from_pretrained(run(plan(tmp_path, name, (one,)))).bundle.audio_encoder
        for name, one in stages.items()
    ]
    for a, b, mean in zip(*(ear.parameters() for ear in ears), strict=True):
        assert not torch.equal(a, b)
        torch.testing.assert_close(mean, (a + b) / 2)


def test_a_stage_for_the_ear_goes_on_where_it_was_stopped(tmp_path: Path):
    write(tmp_path / "data", sounding())
    whole = run(plan(tmp_path, "whole", (HEAR,), save_every=2))
    run(plan(tmp_path, "cut", (HEAR,), save_every=2))
    last = sorted((tmp_path / "cut").glob("checkpoint-*"))[-1]
    last.unlink()
    assert load_checkpoint(tmp_path / "cut").done.step == 2
    cut = run(plan(tmp_path, "cut", (HEAR,), save_every=2))
    ears = [OmniModel.from_pretrained(folder).bundle.audio_encoder for folder in (whole, cut)]
    for a, b in zip(*(ear.parameters() for ear in ears), strict=True):
        assert torch.equal(a, b)


def test_the_ear_that_was_trained_stays_through_the_next_stage(tmp_path: Path):
    write(tmp_path / "data", sounding())
    after = replace(HEAR, name="adapt", trains="adapters", steps=1)
    one, two = (run(plan(tmp_path, name, stages)) for name, stages in (("one", (HEAR,)), ("two", (HEAR, after))))
    ears = [OmniModel.from_pretrained(folder).bundle.audio_encoder for folder in (one, two)]
    for a, b in zip(*(ear.parameters() for ear in ears), strict=True):
        assert torch.equal(a, b)


def test_rows_without_sound_cannot_train_an_ear(tmp_path: Path):
    features = torch.zeros(9, 16).half()
    write(tmp_path / "data", [replace(row, question_audio=None, question_features=features) for row in sounding()])
    with pytest.raises(OmniError, match=r"with their sounds \(--keep\)"):
        run(plan(tmp_path, "out", (HEAR,)))
