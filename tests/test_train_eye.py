"""The eye learns drawings, late layers alone, remembers photographs, and goes on where it was stopped."""

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
from omni2.train.data.things import Scene, classes
from omni2.train.efficientnet_weights import Lite
from omni2.train.eye import FROZEN, STATE, Drawn, EyeRun, EyeTraining, batch, train_eye
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
    monkeypatch.setattr(eye, "load_lite", lite)


def lite() -> Lite:
    torch.manual_seed(0)
    return Lite(fresh(), torch.nn.Linear(WIDTH, 1000).requires_grad_(False), torch.zeros(320), torch.ones(320))


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
    training = replace(OPTIONS, steps=36, batch=8, learning_rate=2e-4, photographs=0.0)
    run = EyeRun(fresh(), training, lite())
    rows = [run.step(step, batch(training, step)) for step in range(training.steps)]
    assert rows[-1]["loss"] < rows[0]["loss"] / 2
    assert np.mean([row["name"] for row in rows[-5:]]) > 0.9
    assert np.mean([row["number"] for row in rows[-5:]]) > 0.9
    assert np.mean([row["colour"] for row in rows[-5:]]) > 0.9


def test_pictures_whose_colours_nobody_asks_for_teach_the_rest() -> None:
    drawn = Drawn(torch.zeros(2, 3, 224, 224), [SHOWN[2]] * 2, torch.zeros(2, dtype=torch.bool))
    row = EyeRun(fresh(), OPTIONS, lite()).step(0, drawn)
    assert set(row) == {"loss", "name", "number"}
    assert np.isfinite(list(row.values())).all()


def test_batches_are_drawn_from_seed_and_step() -> None:
    drawn = batch(replace(OPTIONS, batch=40), 3)
    assert drawn.pixels.shape == (40, 3, 224, 224)
    assert len(drawn.scenes) == 40
    assert 0 < drawn.photographs.sum() < 20  # one of eleven artists took photographs
    pixels = batch(OPTIONS, 3).pixels
    assert torch.equal(pixels, batch(OPTIONS, 3).pixels)
    assert not torch.equal(pixels, batch(OPTIONS, 2).pixels)
    assert not torch.equal(pixels, batch(replace(OPTIONS, seed=1), 3).pixels)


def drawn_apples(photographs: bool) -> Drawn:
    pixels = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    return Drawn(pixels, [SHOWN[0]] * 4, torch.full((4,), photographs))


def test_drawings_are_to_be_seen_as_imagenet_sees_the_thing() -> None:
    known, drawn = dict(classes()), drawn_apples(photographs=False)
    run = EyeRun(fresh(), OPTIONS, lite())
    scores = lite().classifier(run.eye(drawn.pixels)[:, 0]).softmax(-1)
    names = torch.full((4,), run.names["apple"])
    (loss,) = run.memory.losses(run.eye(drawn.pixels), drawn, names)
    torch.testing.assert_close(loss, -scores[:, known["apple"]].sum(-1).log().mean())
    assert "bread" not in known
    assert run.memory.losses(run.eye(drawn.pixels), drawn, torch.full((4,), run.names["bread"])) == []


def test_photographs_are_seen_as_before() -> None:
    drawn = drawn_apples(photographs=True)
    run = EyeRun(fresh(), OPTIONS, lite())
    names = torch.full((4,), run.names["bread"])
    (kept,) = run.memory.losses(run.eye(drawn.pixels), drawn, names)
    torch.testing.assert_close(kept, torch.tensor(0.0), atol=1e-6, rtol=0)
    features = run.eye(drawn.pixels).flip(1) * 2
    (changed,) = run.memory.losses(features, drawn, names)
    before, after = (lite().classifier(seen[:, 0]).log_softmax(-1) for seen in (run.eye(drawn.pixels), features))
    torch.testing.assert_close(changed, (before.exp() * (before - after)).sum(-1).mean())


def test_forgetting_counts_in_the_loss() -> None:
    for drawn in (drawn_apples(photographs=False), drawn_apples(photographs=True)):
        heedless, careful = (
            EyeRun(fresh(), replace(OPTIONS, photographs=share), lite()).step(0, drawn)["loss"] for share in (0.0, 1.0)
        )
        assert careful > heedless + 1


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
        [{**json.loads(line), "seconds": 0} for line in (tmp_path / name / "eye.jsonl").read_text().splitlines()]
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
