"""Training samples and losses: targets line up with positions, losses are means over what is emitted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lessons import frames, mixture, rows
from toys import HEARD, LAYOUT, SEEN, tiny_lm

from omni2.codec.istft import IstftConfig
from omni2.engine import Engine
from omni2.prompt import PromptBuilder
from omni2.tokens import AUDIO_LAYERS, TEXT_LAYER, DelayLine
from omni2.train.codec_loop import CodecTraining, train_codec
from omni2.train.data.schema import Row
from omni2.train.losses import EnvelopeLoss, SpectralLoss
from omni2.train.objective import PARTS, Objective, losses, named, per_part
from omni2.train.samples import IGNORE, collate, make_sample
from omni2.train.stages import Stage

TINY_CODEC = IstftConfig(
    hop=32, n_fft=128, n_mels=8, width=16, encoder_blocks=1, decoder_blocks=1, codebook_size=32, codebook_width=4
)
PLAIN = Stage("plain", {}, 1, 1e-3, masked=0.0, loose=0.0)


def asked(question: str) -> Row:
    return next(row for row in rows() if row.question_text == question)


def test_targets_follow_the_decoding_rules():
    prompt = PromptBuilder(LAYOUT).spoken(torch.zeros(4, HEARD))
    sample = make_sample(prompt, [5, 6], frames(3), LAYOUT)
    assert sample.targets[TEXT_LAYER, :4].tolist() == [5, 6, LAYOUT.eot, IGNORE]
    line, decoded = DelayLine(), []
    for step in sample.targets[:AUDIO_LAYERS].T.tolist():
        decoded.append(line.push(step))
        if step[-1] == LAYOUT.eoa:
            break
    assert [f for f in decoded if f is not None and LAYOUT.is_frame(f)] == [tuple(f) for f in frames(3).tolist()]


def test_inputs_are_the_targets_of_the_step_before():
    prompt = PromptBuilder(LAYOUT).typed([9, 8])
    spoken = make_sample(PromptBuilder(LAYOUT).typed([9, 8], "speech"), [5], frames(2), LAYOUT)
    batch = collate([make_sample(prompt, [5, 6, 7], None, LAYOUT), spoken], LAYOUT, 2)
    n = len(prompt)
    assert batch.ids[0, TEXT_LAYER, :n].tolist() == prompt.ids[TEXT_LAYER].tolist()
    length, text = batch.ids.shape[2], batch.text
    assert text.at.tolist()[:4] == [*range(n - 1, n + 3)]
    assert text.what.tolist() == [5, 6, 7, LAYOUT.eot, 5, LAYOUT.eot]
    assert batch.ids[0, TEXT_LAYER, n : n + 3].tolist() == [5, 6, 7]
    assert (batch.ids[0, :AUDIO_LAYERS, n:] == LAYOUT.pad_audio).all()
    steps = spoken.targets.shape[1]
    assert batch.audio.at.tolist() == [*range(length + n - 1, length + n - 1 + steps)]
    assert torch.equal(batch.audio.what.T, spoken.targets[:AUDIO_LAYERS])
    assert torch.equal(batch.ids[1, :AUDIO_LAYERS, n : n + steps - 1], spoken.targets[:AUDIO_LAYERS, :-1])
    assert batch.counts.tolist() == [4 + 2, steps, 0]


def test_learned_on_is_what_decoding_feeds(monkeypatch: pytest.MonkeyPatch):
    lm, fed = tiny_lm(block_size=200).float().eval(), []
    embed = lm.embed
    monkeypatch.setattr(lm, "embed", lambda ids, *spans: (fed.append(ids[0]), embed(ids, *spans))[1])
    prompt = PromptBuilder(LAYOUT).typed([9, 8], "speech")
    steps = list(Engine(lm).submit(replace(prompt, paired=False)))
    assert steps[-1].finish_reason == "end"
    text = [step.text for step in steps if step.text is not None]
    assert text[-1] == LAYOUT.eot
    assert len(text) + 1 < len(steps)
    sample = make_sample(prompt, text[:-1], frames(len(text) + 2), LAYOUT)
    ids = collate([sample], LAYOUT, 2).ids[0]
    after = len(prompt)  # the answer's own steps are fed one by one
    given = torch.cat([one[:, -1:] for one in fed if one.shape[1] == 1], 1)[:, 1:]
    assert torch.equal(ids[TEXT_LAYER, after : after + len(text) + 1], given[TEXT_LAYER, : len(text) + 1])


def test_corruption_hits_only_the_codes_that_are_fed():
    sample = make_sample(PromptBuilder(LAYOUT).typed([9, 8], "speech"), [5, 6], frames(6), LAYOUT)
    clean = collate([sample], LAYOUT, 2)
    dirty = collate([sample], LAYOUT, 2, 0.5, torch.Generator().manual_seed(0))
    assert torch.equal(clean.audio.what, dirty.audio.what)
    changed = clean.ids != dirty.ids
    assert 5 < changed.sum() < 42
    assert (clean.ids[changed] < LAYOUT.codebook_size).all()
    assert not changed[:, TEXT_LAYER].any()


def test_padding_changes_no_loss():
    lm = tiny_lm().float()
    short = make_sample(PromptBuilder(LAYOUT).typed([9]), [5], None, LAYOUT)
    long = make_sample(PromptBuilder(LAYOUT).typed([9, 8, 7]), [5, 6, 7], None, LAYOUT)
    alone = [losses(lm, collate([s], LAYOUT, 2))["text"] * k for s, k in ((short, 2), (long, 4))]
    together = losses(lm, collate([short, long], LAYOUT, 2))["text"]
    assert torch.allclose(sum(alone) / 6, together, atol=1e-5)


def test_each_audio_layer_is_reported_and_their_mean_learned():
    lm = tiny_lm().float()
    batch = collate([make_sample(PromptBuilder(LAYOUT).typed([9], "speech"), [5], frames(4), LAYOUT)], LAYOUT, 2)
    means = Objective(lm)(batch) / per_part(batch.counts)
    values = named(means)
    assert {*values} == {*PARTS, "audio"}
    hidden = lm(lm.embed(batch.ids))
    for layer in range(AUDIO_LAYERS):
        said = lm.audio_logits(hidden)[0, batch.audio.at, layer]
        nats = torch.nn.functional.cross_entropy(said, batch.audio.what[:, layer])
        assert values[f"audio_{layer}"] == pytest.approx(nats.item(), rel=1e-4)
    assert values["audio"] == pytest.approx(losses(lm, batch)["audio"].item(), rel=1e-5)


@pytest.mark.parametrize("tasks", [("A1T1", "A1T2", "A1A2"), ("VA1T2", "VA1A2")])
def test_recognition_is_learned_wherever_sound_was_heard(tasks):
    lm, mix, rng = tiny_lm(stride=2).float(), mixture(seen=SEEN), np.random.default_rng(0)
    task = "see" if tasks[0].startswith("V") else "answer"
    row = next(r for r in mix.source.rows if r.task == task and r.question_text)
    row = Row(**vars(row) | {"answer_codes": frames(3)})
    heard = [mix.sample(kind, row, PLAIN, rng) for kind in tasks]
    typed = mix.sample("T1T2", asked("capital"), PLAIN, rng)
    assert [s.heard for s in heard] == [tuple(mix.encode(row.question_text))] * len(tasks)
    assert losses(lm, collate([typed], LAYOUT, 2))["heard"] == 0
    alone = [losses(lm, collate([s], LAYOUT, 2))["heard"].item() for s in heard]
    together = losses(lm, collate([*heard, typed], LAYOUT, 2))["heard"]
    assert together.item() == pytest.approx(np.mean(alone), rel=1e-4)
    torch.autograd.backward(together)
    assert lm.audio_adapter.proj.weight.grad.abs().sum() > 0
    assert lm.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    assert not lm.blocks[1].attn.qkv.weight.grad.any(), "the upper half belongs to the answer"


def test_the_codec_learns_and_resumes(tmp_path: Path):
    rng = np.random.default_rng(0)
    time = np.arange(24_000)
    speech = sum(np.sin(time * f * (1 + 0.2 * np.sin(time / 3000))) for f in (0.03, 0.07, 0.15)) * 0.2
    speech = ((speech + 0.01 * rng.standard_normal(24_000)) * 32767 * 0.5).astype(np.int16)
    options = {"batch": 4, "frames": 40, "warmup": 2, "save_every": 10, "log_every": 1, "learning_rate": 5e-3}
    whole = train_codec(speech, tmp_path / "whole", CodecTraining(steps=20, **options), TINY_CODEC)
    log = (tmp_path / "whole" / "codec.jsonl").read_text().splitlines()
    assert len(log) == 20
    state = torch.load(tmp_path / "whole" / "codec.pt", weights_only=True)
    assert state["step"] == 20
    assert torch.equal(state["codec"]["head.weight"], whole.head.weight)
    again = train_codec(speech, tmp_path / "whole", CodecTraining(steps=20, **options), TINY_CODEC)
    assert torch.equal(again.head.weight, whole.head.weight)
    assert len((tmp_path / "whole" / "codec.jsonl").read_text().splitlines()) == 20
    train_codec(speech, tmp_path / "cut", CodecTraining(steps=10, **options), TINY_CODEC)
    before = torch.load(tmp_path / "cut" / "codec.pt", weights_only=True)["average0"]["count"]
    train_codec(speech, tmp_path / "cut", CodecTraining(steps=11, **options), TINY_CODEC)
    after = torch.load(tmp_path / "cut" / "codec.pt", weights_only=True)["average0"]["count"]
    assert (after > 0.989 * before).all(), "it goes on from the averages it had"


def test_losses_are_zero_for_equals_and_grow_with_noise():
    rng = torch.Generator().manual_seed(0)
    wave = torch.randn(2, 24_000, generator=rng) * torch.linspace(0, 1, 24_000).sin().abs() * 0.3
    noise = torch.randn(wave.shape, generator=rng)
    for loss in (SpectralLoss(24_000), EnvelopeLoss(24_000)):
        values = [float(loss(wave + level * noise, wave)) for level in (0.0, 0.03, 0.3)]
        assert abs(values[0]) < 1e-4
        assert values[0] < values[1] < values[2]
