"""Continued training: low-rank changes touch the blocks' matrices alone, merge away, and the model still loads."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from lessons import plan, rows, toy, write
from torch import nn
from toys import LAYOUT, photo, tiny_bundle, tiny_lm, tone
from typer.testing import CliRunner

from omni2.bundle import save
from omni2.hub import load_bundle
from omni2.omni import OmniModel
from omni2.train.cli import train as commands
from omni2.train.fit import run
from omni2.train.lora import add_lora, merge_lora
from omni2.train.presets import continued
from omni2.train.stages import Stage, choose_weights


def matrices(lm: nn.Module) -> set[str]:
    return {f"blocks.{name}.weight" for name, module in lm.blocks.named_modules() if isinstance(module, nn.Linear)}


def test_low_rank_changes_begin_as_nothing_and_merge_away():
    lm, plain = tiny_lm().float(), tiny_lm().float()
    targets = matrices(lm)
    add_lora(lm, 2)
    ids = torch.zeros(1, 8, 5, dtype=torch.int64)
    assert torch.equal(lm(lm.embed(ids)), plain(plain.embed(ids)))
    choose_weights(lm, Stage("s", {"A1T2": 1.0}, 1, 1e-3, trains="lora"))
    learning = {name for name, weight in lm.named_parameters() if weight.requires_grad}
    assert len(learning) == 2 * len(targets)
    assert all(".low_rank." in name for name in learning)
    for name, weight in lm.named_parameters():
        if name in learning:
            nn.init.normal_(weight, std=0.1)
    changed = lm(lm.embed(ids))
    merge_lora(lm)
    assert torch.allclose(lm(lm.embed(ids)), changed, atol=1e-5)
    assert lm.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("lora", [0, 2])
def test_a_model_is_taken_up_with_new_data(tmp_path: Path, lora: int):
    save(toy(), tmp_path / "old", torch.float32)
    write(tmp_path / "data", rows(seen=12))
    command = ["--from", str(tmp_path / "old"), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "new")]
    options = ["--lora", str(lora), "--steps", "3", "--batch", "4", "--rate", "0.01"]
    done = CliRunner().invoke(commands, [*command, *options])
    assert done.exit_code == 0, done.output
    assert str(tmp_path / "new" / "model") in done.output.replace("\n", "")
    old, new = load_bundle(tmp_path / "old"), load_bundle(tmp_path / "new" / "model")
    pairs = zip(old.lm.named_parameters(), new.lm.parameters(), strict=True)
    changed = {name for (name, a), b in pairs if not torch.equal(a, b)}
    assert changed == matrices(old.lm) if lora else changed > matrices(old.lm)
    model = OmniModel(new)
    assert model.abilities >= {"answer", "speak", "see"}
    assert model.answer(tone()).finish_reason
    assert model.answer(text="what", image=photo(), reply="text").finish_reason


def test_a_killed_adaptation_goes_on(tmp_path: Path):
    write(tmp_path / "data", rows())
    stages = (continued(6, 1e-2, lora=True),)
    whole = run(plan(tmp_path, "whole", stages, lora=2))
    done = run(plan(tmp_path, "cut", stages, lora=2, keep=9))
    (done.parent / "checkpoint-01-00000000.pt").unlink()  # as if killed after the fourth step
    again = run(plan(tmp_path, "cut", stages, lora=2, keep=9))
    for a, b in zip(load_bundle(whole).lm.parameters(), load_bundle(again).lm.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_blind_model_leaves_the_pictures_out(tmp_path: Path):
    write(tmp_path / "data", rows(seen=12, listens=True))
    lm = tiny_lm(block_size=128, stride=2).float()
    blind = type(lm)(replace(lm.config, vision_adapter_dim=0), LAYOUT)
    save(
        replace(tiny_bundle(), lm=blind, vision_encoder=None, abilities=frozenset()), tmp_path / "blind", torch.float32
    )
    made = run(plan(tmp_path, "out", (continued(2, 1e-3, lora=False),), begin=partial(load_bundle, tmp_path / "blind")))
    assert load_bundle(made).abilities == {"answer", "transcribe", "speak", "listen"}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([], "say what to train"),
        (["--from", "nano"], "say what to train"),
        (["nano", "--steps", "1,x"], "whole numbers"),
        (["nano", "--steps", "1,1,1,1,1,1,1"], "a number for each of understand"),
        (["mini-omni2", "--data", "x", "--stage", "dream"], "no stage 'dream'"),
        (["mini-omni2"], "gpt-omni/VoiceAssistant-400K"),
        (["mini-omni2", "--data", "x", "--processes", "2", "--parts", "3"], "multiple of the 2 processes"),
    ],
)
def test_commands_say_what_is_wrong(command: list[str], message: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "lm").mkdir(parents=True)
    (tmp_path / "runs" / "lm" / "tokenizer.json").write_text(toy().tokenizer.to_str())
    done = CliRunner().invoke(commands, command)
    assert done.exit_code == 2, done.output
    assert message in done.output.replace("\n", " ")
