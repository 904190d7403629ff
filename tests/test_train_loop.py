"""The loop: a killed run goes on as if nothing had happened, processes share the work, what is frozen stays."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from multiprocessing import active_children, get_context
from pathlib import Path

import pytest
import torch
from lessons import STAGES, mixture, plan, rows, toy, write
from torch.multiprocessing.spawn import ProcessContext
from toys import LAYOUT, tiny_lm

import omni2.train.loop as loop
from omni2.config import Sampling
from omni2.engine import Engine
from omni2.errors import OmniError
from omni2.omni import OmniModel
from omni2.pickles import load_pickle
from omni2.prompt import PromptBuilder
from omni2.tokens import DelayLine
from omni2.train.checkpoints import Done, list_checkpoints, load_checkpoint
from omni2.train.feed import GROUP, Feed, Training
from omni2.train.fit import run
from omni2.train.loop import train
from omni2.train.samples import collate
from omni2.train.stages import Stage


def log(folder: Path, kind: str = "train") -> list[dict]:
    rows = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows if row["kind"] == kind]


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The tenth step of the test never comes."""
    taken, step = 0, loop._Run.take_step

    def dies(self, *args):
        nonlocal taken
        taken += 1
        if taken == 10:
            raise KeyboardInterrupt
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "take_step", dies)
        yield


TRAINING = Training(batch=4, save_every=2, log_every=1, evaluate_every=3, evaluation=1, bfloat16=False)


def draw_ahead(folder: Path) -> None:
    """Train with two workers, in a process that may fork, and see that it draws nothing of a step itself."""
    batch, drawn = Feed.batch, []
    Feed.batch = lambda feed, step: (drawn.append(step), batch(feed, step))[1]
    run(plan(folder, "ahead", workers=2))
    assert not drawn


def test_batches_drawn_ahead_by_others_are_the_same(tmp_path: Path):
    write(tmp_path / "data", with_codes())
    run(plan(tmp_path, "between"))
    apart = get_context("spawn").Process(target=draw_ahead, args=(tmp_path,))
    apart.start()
    apart.join()
    assert apart.exitcode == 0
    rows_of = [log(tmp_path / name) for name in ("ahead", "between")]
    assert [row["step"] for row in rows_of[0]] == [row["step"] for row in rows_of[1]]
    for name in ("text", "heard", "audio"):  # another process adds up in another order
        ahead, between = ([row[name] for row in rows] for rows in rows_of)
        assert ahead == pytest.approx(between, rel=1e-3)
    with pytest.raises(OmniError, match="leave --workers out"):
        run(plan(tmp_path, "stream", workers=2, streamed=True))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path, streamed: bool, request):
    write(tmp_path / "data", rows(("a dog ran",)) if not streamed else with_codes())
    options = {"streamed": streamed, "save_every": 2}
    run(plan(tmp_path, "whole", **options))
    request.getfixturevalue("killed")
    with pytest.raises(KeyboardInterrupt):
        run(plan(tmp_path, "cut", **options))
    assert load_checkpoint(tmp_path / "cut").done == Done(1, 2)
    run(plan(tmp_path, "cut", **options))
    assert log(tmp_path / "cut") == log(tmp_path / "whole")
    assert len(log(tmp_path / "whole")) == 11
    whole, cut = (OmniModel.from_pretrained(tmp_path / name / "model").bundle.lm for name in ("whole", "cut"))
    for a, b in zip(whole.parameters(), cut.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_stage_ends_in_the_mean_of_its_last_weights(tmp_path: Path, request):
    mix = mixture(("a dog ran", "the sun set", "it rains now"), one_in=2)
    stage = replace(STAGES[0], steps=12, floor=1.0)

    def learn(name: str, averaged: float = 0.75, **options: int) -> dict[str, torch.Tensor]:
        stages = [replace(stage, averaged=averaged)]
        train(tiny_lm(stride=2).float(), mix, stages, tmp_path / name, replace(TRAINING, **options))
        return load_checkpoint(tmp_path / name).lm

    last = learn("plain", averaged=0.0, save_every=1, keep=20)
    taken = [load_pickle(file)["lm"] for file in list_checkpoints(tmp_path / "plain")]
    whole = learn("whole")
    request.getfixturevalue("killed")
    with pytest.raises(KeyboardInterrupt):
        learn("cut")
    cut = learn("cut")
    for name, weight in whole.items():
        torch.testing.assert_close(weight, torch.stack([weights[name] for weights in taken[-9:]]).mean(0))
        assert torch.equal(weight, cut[name])
        if "vision" not in name:  # nothing is seen here
            assert not torch.allclose(weight, last[name], atol=1e-5), name
    unseen = [log(tmp_path / name, "held_out") for name in ("plain", "whole")]
    assert [a == b for a, b in zip(*unseen, strict=True)] == [True] * 3 + [False]  # the mean is what the last tells of


def test_a_stage_that_averages_cannot_be_sharded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop.Accelerator, "num_processes", 2)
    stages = [replace(STAGES[0], averaged=0.5)]
    with pytest.raises(OmniError, match="'one' averages its weights"):
        train(tiny_lm(stride=2).float(), mixture(), stages, tmp_path, Training(parts=2, sharded=True))


def with_codes() -> list:
    """Rows as streams need them: each with its own codes."""
    made = rows(("a dog ran", "the sun set", "it rains"))
    codes = {row.answer_text: row.answer_codes for row in made if row.task == "read"}
    return [replace(row, answer_codes=codes.get(row.answer_text)) for row in made]


def test_a_finished_run_does_nothing_and_keeps_few_checkpoints(tmp_path: Path):
    train(tiny_lm(stride=2).float(), mixture(), STAGES, tmp_path, TRAINING)
    assert len(list_checkpoints(tmp_path)) == 2
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("checkpoint-*")}
    other = tiny_lm(stride=2, seed=99).float()
    train(other, mixture(), STAGES, tmp_path, TRAINING)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("checkpoint-*")} == before
    assert torch.equal(other.norm.weight, load_checkpoint(tmp_path).lm["norm.weight"])


def test_a_run_tells_its_losses(tmp_path: Path):
    mix = mixture(("a dog ran", "the sun set", "it rains now"), one_in=2)
    train(tiny_lm(stride=2).float(), mix, STAGES, tmp_path, TRAINING)
    taken, unseen = log(tmp_path), log(tmp_path, "held_out")
    assert [row["total"] for row in taken] == list(range(11))
    assert [row["name"] for row in taken] == ["one"] * 6 + ["two"] * 5
    assert taken[0].keys() >= {"text", "audio", "heard", "norm", "rate", *(f"audio_{i}" for i in range(7))}
    assert [row["step"] for row in unseen if row["name"] == "one"] == [2, 5]
    assert (tmp_path / "losses.png").read_bytes()[:4] == b"\x89PNG"
    assert list(tmp_path.rglob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("trains", "changed"), [("adapters", {"audio_adapter"}), ("lm", {"embedding", "blocks", "norm"})]
)
def test_only_the_chosen_weights_learn(tmp_path: Path, trains: str, changed: set[str]):
    lm, fresh = tiny_lm(stride=2).float(), tiny_lm(stride=2).float()
    stage = Stage("s", {"A1T2": 1.0}, steps=3, learning_rate=1e-2, warmup=1, trains=trains)
    train(lm, mixture(), [stage], tmp_path, TRAINING)
    pairs = zip(lm.named_parameters(), fresh.parameters(), strict=True)
    assert {name.split(".")[0] for (name, a), b in pairs if not torch.equal(a, b)} == changed


def test_a_stage_without_steps_needs_no_data(tmp_path: Path):
    left_out = Stage("left out", {"VT2": 1.0}, steps=0, learning_rate=1e-3, trains="adapters")
    lm = tiny_lm(stride=2).float()
    train(lm, mixture(), [left_out, STAGES[0]], tmp_path, TRAINING)
    assert load_checkpoint(tmp_path).done == Done(2)
    assert [row["name"] for row in log(tmp_path)] == ["one"] * 6


def test_two_parts_one_after_the_other_are_one_batch_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mix, stage = mixture(("a dog ran",)), STAGES[0]
    train(toy().lm, mix, [stage], tmp_path / "two", replace(TRAINING, parts=2))

    def both(self, step: int):
        drawn = [mix.batches(stage, 4, step - step % GROUP, 0, part, GROUP) for part in (0, 1)]
        return collate([*drawn[0][step % GROUP], *drawn[1][step % GROUP]], LAYOUT, 2)

    monkeypatch.setattr(Feed, "batch", both)
    train(toy().lm, mix, [stage], tmp_path / "one", TRAINING)
    one, two = log(tmp_path / "one"), log(tmp_path / "two")
    assert len(one) == len(two) == stage.steps
    for a, b in zip(one, two, strict=True):
        for name in ("text", "heard", "norm"):
            assert a[name] == pytest.approx(b[name], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_learn_as_one(tmp_path: Path, sharded: bool):
    write(tmp_path / "data", rows(("a dog ran",)))
    run(plan(tmp_path, "one", parts=2))
    run(plan(tmp_path, "two", parts=2, sharded=sharded), processes=2)
    one, two = log(tmp_path / "one"), log(tmp_path / "two")
    assert len(one) == len(two) == 11
    for a, b in zip(one, two, strict=True):
        assert a["text"] == pytest.approx(b["text"], abs=1e-3)
        assert a["audio"] == pytest.approx(b["audio"], abs=1e-3)
        assert a["norm"] == pytest.approx(b["norm"], rel=1e-3)
    models = [OmniModel.from_pretrained(tmp_path / name / "model").bundle.lm for name in ("one", "two")]
    for a, b in zip(*(lm.parameters() for lm in models), strict=True):
        assert torch.allclose(a, b, atol=1e-3)


@pytest.mark.slow
def test_sharded_processes_may_hear_nothing_while_others_do(tmp_path: Path):
    """With two samples a step, one process often has a sound and the other none: its adapter gets no gradient there."""
    write(tmp_path / "data", rows(("a dog ran",)))
    mixed = (Stage("mixed", {"A1T2": 1.0, "T1T2": 1.0}, steps=10, learning_rate=1e-3, warmup=2),)
    few = {"stages": mixed, "parts": 2, "batch": 1, "save_every": 100, "evaluate_every": 100}
    run(plan(tmp_path, "one", **few))
    run(plan(tmp_path, "two", sharded=True, **few), processes=2)
    models = [OmniModel.from_pretrained(tmp_path / name / "model").bundle.lm for name in ("one", "two")]
    for a, b in zip(*(lm.parameters() for lm in models), strict=True):
        assert torch.allclose(a, b, atol=1e-3)


def test_who_is_interrupted_leaves_no_process_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(self) -> None:
        assert len(active_children()) == 2
        raise KeyboardInterrupt

    monkeypatch.setattr(ProcessContext, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(plan(tmp_path, "endless", begin=partial(time.sleep, 600)), processes=2)
    assert not active_children()


def test_kill_minus_nine_leaves_no_process_though_interrupts_are_ignored(tmp_path: Path):
    code = (
        "import signal, sys; from functools import partial; from pathlib import Path; from lessons import plan\n"
        "from omni2.train.fit import run; signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup … & has it\n"
        "waits = partial(exec, 'import time; print(1, flush=True); time.sleep(600)')\n"
        "run(plan(Path(sys.argv[1]), 'endless', begin=waits), processes=2)"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(loop.__file__).parents[2]), *sys.path])
    command, environment = [sys.executable, "-c", code, str(tmp_path)], os.environ | {"PYTHONPATH": paths}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as training:
        assert training.stdout is not None
        assert [training.stdout.readline() for _ in range(2)] == [b"1\n", b"1\n"]
        training.kill()
        training.communicate(timeout=60)  # the pipe closes when the last of its processes has ended


@pytest.mark.slow
@pytest.mark.parametrize("averaged", [0.0, 0.5])  # of the last weights, or of their means over the last steps
def test_processes_that_learn_alone_end_with_the_mean_of_their_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, averaged: float
):
    class Second(Feed):
        def __init__(self, mixture, stage, index, part, training) -> None:
            super().__init__(mixture, stage, index, 1, training)

    write(tmp_path / "data", rows(("a dog ran",)))
    seldom = {"stages": [replace(STAGES[0], averaged=averaged)], "save_every": 100, "evaluate_every": 100}
    torch.set_num_threads(1)  # as the two processes have: sums in another order are other sums
    run(plan(tmp_path, "both", parts=2, average_every=100, **seldom), processes=2)
    run(plan(tmp_path, "first", **seldom))
    monkeypatch.setattr(loop, "Feed", Second)
    run(plan(tmp_path, "second", **seldom))
    made = [OmniModel.from_pretrained(tmp_path / name / "model").bundle.lm for name in ("both", "first", "second")]
    apart = 0.0
    for mean, a, b in zip(*(lm.parameters() for lm in made), strict=True):
        assert torch.allclose(mean, (a + b) / 2, atol=1e-5)
        apart = max(apart, float((a - b).detach().abs().max()))
    assert apart > 1e-3


def test_runs_of_either_precision_follow_each_other(tmp_path: Path):
    """In one process, whatever the hardware would choose."""
    stage = Stage("s", {"A1T2": 1.0}, steps=1, learning_rate=1e-3)
    losses = []
    for name, bfloat16 in (("wide", False), ("narrow", True), ("again", False)):
        train(tiny_lm(stride=2).float(), mixture(), [stage], tmp_path / name, replace(TRAINING, bfloat16=bfloat16))
        losses.append(log(tmp_path / name)[0]["text"])
    assert losses[0] == losses[2] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_parts_are_shared_out_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop.Accelerator, "num_processes", 2)
    with pytest.raises(OmniError, match="3 parts cannot be shared out evenly to 2 processes"):
        train(tiny_lm().float(), mixture(), STAGES, tmp_path, Training(parts=3))


@pytest.mark.parametrize("lead", [0, 2])
def test_a_toy_learns_to_answer(tmp_path: Path, lead: int):
    mix, lm = mixture(), tiny_lm(stride=2).float()
    mix.config = replace(mix.config, text_lead=lead)
    torch.manual_seed(0)
    for weight in lm.parameters():
        torch.nn.init.normal_(weight, std=0.1) if weight.ndim > 1 else torch.nn.init.ones_(weight)
    stage = Stage("all", {"A1T2": 1.0, "T1A2": 1.0}, steps=400, learning_rate=5e-3, warmup=10, masked=0, loose=0)
    train(lm, mix, [stage], tmp_path, Training(batch=16, save_every=1000, evaluate_every=1000, bfloat16=False))
    engine, builder = Engine(lm.eval()), PromptBuilder(LAYOUT, 2, lead)
    for row in [r for r in mix.source.rows if r.task == "answer" and r.topic != "unknown"][::2]:
        steps = list(engine.submit(builder.spoken(row.question_features.float(), "text"), Sampling(max_tokens=60)))
        assert [s.text for s in steps] == [*mix.encode(row.answer_text), LAYOUT.eot]
        line = DelayLine()
        spoken = list(engine.submit(builder.typed(mix.encode(row.question_text), "speech"), Sampling(max_tokens=60)))
        made = [line.push(s.codes) for s in spoken if s.codes is not None]
        said = [s.text for s in spoken if s.text is not None and s.text != LAYOUT.pad_text]
        assert said == [*mix.encode(row.answer_text), LAYOUT.eot]
        codes = mix.source.spoken[row.answer_text].answer_codes
        assert [f for f in made if f and LAYOUT.is_frame(f)] == [tuple(f) for f in codes.tolist()]
