"""The eye learns drawings, late layers alone, goes on where it was stopped, and is told by the model that has it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_efficientnet import lukemelas
from toys import tiny_bundle
from typer.testing import CliRunner

from omni2.bundle import save
from omni2.efficientnet import WIDTH, EfficientNet
from omni2.hub import load_bundle
from omni2.model import OmniLM
from omni2.train import eye
from omni2.train.cli import train as commands
from omni2.train.data.artists import Artist
from omni2.train.data.things import Scene
from omni2.train.eye import FROZEN, LOG, STATE, EyeRun, EyeTraining, batch, train_eye
from omni2.train.run import load_state

OPTIONS = EyeTraining(steps=4, batch=4, warmup=1, save_every=2, log_every=1)
SHOWN = (Scene("apple", "apples", 1, "red"), Scene("banana", "bananas", 3, "yellow"), Scene("bread", "", 1))


@pytest.fixture(autouse=True)
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three things, each a grey of its own."""

    def draw(rng: np.random.Generator, artist: Artist) -> tuple[Image.Image, Scene]:
        which = int(rng.integers(3))
        noise = rng.integers(0, 20, (224, 224, 3))
        return Image.fromarray((90 * which + noise).astype(np.uint8)), SHOWN[which]

    monkeypatch.setattr(eye, "draw_any", draw)


def fresh() -> EfficientNet:
    return EfficientNet.from_lukemelas(lukemelas(torch.Generator().manual_seed(0)))


def test_late_layers_learn_and_early_ones_stay(tmp_path: Path) -> None:
    before = fresh()
    after = train_eye(fresh(), tmp_path, OPTIONS)
    old, new = before.state_dict(), after.state_dict()
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    early = {name for name in old if name.startswith(("stem.", *(f"blocks.{i}." for i in range(FROZEN))))}
    assert moved == set(old) - early
    assert not any(weight.requires_grad for weight in after.parameters())


def test_what_is_drawn_is_learned() -> None:
    training = replace(OPTIONS, steps=30, batch=8, learning_rate=5e-4)
    run = EyeRun(fresh(), training)
    rows = [run.step(step, *batch(training, step)) for step in range(training.steps)]
    assert rows[-1]["loss"] < rows[0]["loss"] / 2
    assert np.mean([row["name"] for row in rows[-5:]]) > 0.9
    assert np.mean([row["number"] for row in rows[-5:]]) > 0.9
    assert np.mean([row["colour"] for row in rows[-5:]]) > 0.9


def test_pictures_whose_colours_nobody_asks_for_teach_the_rest() -> None:
    row = EyeRun(fresh(), OPTIONS).step(0, torch.zeros(2, 3, 224, 224), [SHOWN[2]] * 2)
    assert set(row) == {"loss", "name", "number"}
    assert np.isfinite(list(row.values())).all()


def test_batches_are_drawn_from_seed_and_step() -> None:
    pixels, scenes = batch(OPTIONS, 3)
    assert pixels.shape == (4, 3, 224, 224)
    assert len(scenes) == 4
    assert torch.equal(pixels, batch(OPTIONS, 3)[0])
    assert not torch.equal(pixels, batch(OPTIONS, 2)[0])
    assert not torch.equal(pixels, batch(replace(OPTIONS, seed=1), 3)[0])


def test_a_run_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train_eye(fresh(), tmp_path / "whole", OPTIONS)
    step = EyeRun.step

    def killed(self: EyeRun, at: int, *shown: object) -> dict[str, float]:
        if at == 3:
            raise KeyboardInterrupt
        return step(self, at, *shown)

    monkeypatch.setattr(EyeRun, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        train_eye(fresh(), tmp_path / "cut", OPTIONS)
    monkeypatch.setattr(EyeRun, "step", step)
    assert load_state(tmp_path / "cut" / STATE)["step"] == 2
    cut = train_eye(fresh(), tmp_path / "cut", OPTIONS)
    for a, b in zip(whole.parameters(), cut.parameters(), strict=True):
        assert torch.equal(a, b)
    logs = [
        [{**json.loads(line), "seconds": 0} for line in (tmp_path / name / LOG).read_text().splitlines()]
        for name in ("whole", "cut")
    ]
    assert logs[0] == logs[1]


def test_the_command_trains_the_eye_of_a_model_and_blends_it(tmp_path: Path) -> None:
    bundle = tiny_bundle()
    lm = OmniLM(replace(bundle.lm.config, vision_adapter_dim=WIDTH), bundle.lm.layout).eval()
    save(replace(bundle, lm=lm, vision_encoder=fresh()), tmp_path / "toy", torch.float32)
    options = ["--from", str(tmp_path / "toy"), "--steps", "2", "--batch", "2", "--rate", "0.1"]
    done = CliRunner().invoke(commands, ["eye", str(tmp_path / "out"), *options])
    assert done.exit_code == 0, done.output
    paths = [str(tmp_path / "out" / "model"), str(tmp_path / "toy"), str(tmp_path / "blend")]
    assert CliRunner().invoke(commands, ["blend", *paths, "--share", "0.25"]).exit_code == 0
    new, old, blend = (dict(load_bundle(path).vision_encoder.named_parameters()) for path in paths)
    assert not torch.equal(new["head.weight"], old["head.weight"])
    for name, weight in blend.items():
        torch.testing.assert_close(weight, torch.lerp(new[name], old[name], 0.25))


def test_another_eye_cannot_be_trained(tmp_path: Path) -> None:
    save(tiny_bundle(), tmp_path / "toy", torch.float32)
    done = CliRunner().invoke(commands, ["eye", str(tmp_path / "out"), "--from", str(tmp_path / "toy")])
    assert done.exit_code == 2
    assert "cannot be trained here" in done.output
