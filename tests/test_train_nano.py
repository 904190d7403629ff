"""The embedded model's chain, on toys: from parts or a finished model through all stages to a folder with its card."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lessons import rows, sounding, toy, write
from toys import LAYOUT, SEEN, tiny_lm
from typer.testing import CliRunner

from omni2.bundle import save
from omni2.errors import OmniError
from omni2.hub import load_bundle
from omni2.train.cli import train as commands
from omni2.train.nano import Workshop, begin, trained_codec
from omni2.train.presets import NANO
from omni2.train.stages import KINDS


def blind(folder: Path) -> str:
    """A saved toy without pictures."""
    lm = tiny_lm(block_size=128, stride=2).float()
    lm = type(lm)(replace(lm.config, vision_adapter_dim=0), LAYOUT)
    save(replace(toy(), lm=lm, vision_encoder=None, abilities=frozenset({"answer"})), folder, torch.float32)
    return str(folder)


def test_a_finished_model_gets_eyes(tmp_path: Path):
    old = load_bundle(blind(tmp_path / "blind"))
    save(toy(), tmp_path / "seeing", torch.float32)
    new = begin(Workshop(tmp_path), str(tmp_path / "blind"), str(tmp_path / "seeing"))
    assert new.lm.config.vision_adapter_dim == SEEN
    assert new.vision_encoder is not None
    for name, weight in old.lm.named_parameters():
        assert torch.equal(new.lm.get_parameter(name), weight)
    again = begin(Workshop(tmp_path), str(tmp_path / "seeing"), str(tmp_path / "seeing"))
    assert torch.equal(again.lm.vision_adapter.proj.weight, toy().lm.vision_adapter.proj.weight)
    with pytest.raises(OmniError, match="has no vision encoder"):
        begin(Workshop(tmp_path), str(tmp_path / "seeing"), str(tmp_path / "blind"))


def test_what_is_missing_is_named_with_the_command_that_makes_it(tmp_path: Path):
    with pytest.raises(OmniError, match="omni2 data build"):
        Workshop(tmp_path).sources()
    with pytest.raises(OmniError, match="omni2 train codec"):
        trained_codec(Workshop(tmp_path))


def test_the_whole_chain_runs(tmp_path: Path):
    shop = Workshop(tmp_path / "runs")
    save(toy(), tmp_path / "toy", torch.float32)
    made = rows(("a dog ran",), seen=SEEN, listens=True)
    write(shop.data / "corpus", [row for row in made if row.task not in ("see", "listen")])
    write(shop.data / "sounds", sounding())
    write(shop.data / "others", [row for row in made if row.task in ("see", "listen")])
    command = ["nano", "--from", str(tmp_path / "toy"), "--runs", str(shop.root), "--processes", "1", "--batch", "2"]
    for options in (["--stage", "speak", "--steps", "1,1"], ["--steps", "1,1,1,1,1,1"]):
        done = CliRunner().invoke(commands, [*command, *options])
        assert done.exit_code == 0, done.output
    done = CliRunner().invoke(commands, ["assets", "--runs", str(shop.root), "--out", str(tmp_path / "assets")])
    assert done.exit_code == 0, done.output
    model = load_bundle(tmp_path / "assets")
    assert model.abilities == {"answer", "transcribe", "speak", "see", "listen", "history"}
    assert "model.safetensors" in (tmp_path / "assets" / "README.md").read_text()


def test_every_stage_uses_known_tasks_and_the_last_ones_all_abilities():
    assert all(task in KINDS for stage in NANO.stages for task in stage.mixture)
    steady, see, hear = NANO.stages[-3:]
    assert (see.trains, see.abilities()) == ("adapters", {"see"})
    assert not any(KINDS[task].asked == "sound" for task in see.mixture), "or the adapter of sounds would learn too"
    assert (hear.trains, hear.abilities()) == ("ear", {"answer", "transcribe", "listen", "history"})
    assert steady.abilities() == {"answer", "transcribe", "speak", "see", "listen", "history"}


def test_a_trained_model_is_blended_with_the_one_it_began_from(tmp_path: Path):
    began, trained = load_bundle(blind(tmp_path / "began")), toy()
    for module in (trained.lm, trained.audio_encoder):
        for weight in module.parameters():
            weight.data += 1
    save(trained, tmp_path / "trained", torch.float32)
    paths = [str(tmp_path / name) for name in ("trained", "began", "blend")]
    done = CliRunner().invoke(commands, ["blend", *paths, "--share", "0.25"])
    assert done.exit_code == 0, done.output
    blend = load_bundle(tmp_path / "blend")
    for part in ("lm", "audio_encoder"):
        before, new = getattr(began, part).state_dict(), getattr(trained, part).state_dict()
        for name, weight in getattr(blend, part).named_parameters():
            old = before.get(name, new[name])
            assert torch.allclose(weight, 0.75 * new[name] + 0.25 * old, atol=1e-5), name
    wrong = CliRunner().invoke(commands, ["blend", *paths, "--share", "1.5"])
    assert wrong.exit_code == 2
    assert "between 0 and 1" in wrong.output
