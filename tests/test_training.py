"""Training: targets line up with positions, a killed run goes on as if nothing had happened, losses fall."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import HEARD, LAYOUT, tiny_lm, tiny_tokenizer

from omni2.codec.istft import IstftConfig
from omni2.config import Sampling
from omni2.engine import Engine
from omni2.prompt import PromptBuilder
from omni2.tokens import AUDIO_LAYERS, LAYERS, TEXT_LAYER, DelayLine
from omni2.train.codec_loop import CodecTraining, train_codec
from omni2.train.data.questions import Item
from omni2.train.data.shards import Spoken
from omni2.train.loop import Training, losses, train
from omni2.train.losses import EnvelopeLoss, SpectralLoss
from omni2.train.mixture import Mixture, loosened, masked
from omni2.train.samples import IGNORE, collate, make_sample
from omni2.train.stages import Stage

TINY_CODEC = IstftConfig(
    hop=32, n_fft=128, n_mels=8, width=16, encoder_blocks=1, decoder_blocks=1, codebook_size=32, codebook_width=4
)


def frames(n: int, seed: int = 0) -> Tensor:
    return torch.randint(0, LAYOUT.codebook_size, (n, 7), generator=torch.Generator().manual_seed(seed))


def mixture(sentences: tuple[str, ...] = ()) -> Mixture:
    items = [
        Item("a", "the cat", ("what is it", "who is it"), ()),
        Item("b", "paris", ("capital", "the capital"), ()),
        Item("unknown", "no", ("there",), ()),
    ]
    generator = torch.Generator().manual_seed(3)
    spoken = [
        Spoken(q, "toy", torch.randn(5 + len(q), HEARD, generator=generator).half()) for i in items for q in i.train
    ]
    codes = {item.answer: frames(3 + i, i) for i, item in enumerate(items)}
    plain = [Spoken(text, "toy", torch.randn(9, HEARD, generator=generator).half()) for text in sentences]
    return Mixture(items, spoken, codes, tiny_tokenizer(), LAYOUT, 2, plain)


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
    batch = collate([make_sample(prompt, [5, 6, 7], None, LAYOUT), spoken], LAYOUT)
    n = len(prompt)
    assert batch.ids[0, TEXT_LAYER, :n].tolist() == prompt.ids[TEXT_LAYER].tolist()
    assert batch.targets[0, TEXT_LAYER, n - 1 : n + 3].tolist() == [5, 6, 7, LAYOUT.eot]
    assert batch.ids[0, TEXT_LAYER, n : n + 3].tolist() == [5, 6, 7]
    assert (batch.ids[0, :AUDIO_LAYERS, n:] == LAYOUT.pad_audio).all()
    assert (batch.targets[:, :, : n - 1] == IGNORE).all()
    steps = spoken.targets.shape[1]
    assert torch.equal(batch.ids[1, :AUDIO_LAYERS, n : n + steps - 1], spoken.targets[:AUDIO_LAYERS, :-1])


def test_corruption_hits_only_the_codes_that_are_fed():
    sample = make_sample(PromptBuilder(LAYOUT).typed([9, 8], "speech"), [5, 6], frames(6), LAYOUT)
    clean = collate([sample], LAYOUT)
    dirty = collate([sample], LAYOUT, 0.5, torch.Generator().manual_seed(0))
    assert torch.equal(clean.targets, dirty.targets)
    changed = clean.ids != dirty.ids
    assert 5 < changed.sum() < 42
    assert (clean.ids[changed] < LAYOUT.codebook_size).all()
    assert not changed[:, TEXT_LAYER].any()


def test_padding_changes_no_loss():
    lm = tiny_lm().float()
    short = make_sample(PromptBuilder(LAYOUT).typed([9]), [5], None, LAYOUT)
    long = make_sample(PromptBuilder(LAYOUT).typed([9, 8, 7]), [5, 6, 7], None, LAYOUT)
    alone = [losses(lm, collate([s], LAYOUT))["text"] * k for s, k in ((short, 2), (long, 4))]
    together = losses(lm, collate([short, long], LAYOUT))["text"]
    assert torch.allclose(sum(alone) / 6, together, atol=1e-5)


def test_recognition_is_learned_wherever_sound_was_heard():
    lm, mix, rng = tiny_lm(stride=2).float(), mixture(), np.random.default_rng(0)
    heard = [mix.sample(task, mix.items[1], "capital", rng) for task in ("A1T1", "A1T2", "A1A2")]
    typed = mix.sample("T1T2", mix.items[1], "capital", rng)
    assert [s.heard for s in heard] == [tuple(mix.encode("capital"))] * 3
    assert losses(lm, collate([typed], LAYOUT))["heard"] == 0
    alone = [losses(lm, collate([s], LAYOUT))["heard"].item() for s in heard]
    together = losses(lm, collate([*heard, typed], LAYOUT))["heard"]
    assert together.item() == pytest.approx(np.mean(alone), rel=1e-4)
    torch.autograd.backward(together)
    assert lm.audio_adapter.proj.weight.grad.abs().sum() > 0
    assert lm.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    assert lm.blocks[1].attn.qkv.weight.grad is None, "the upper half belongs to the answer"


def test_everyday_sentences_are_transcribed_and_out_of_scope():
    mix, rng = mixture(("a dog ran", "the sun set")), np.random.default_rng(0)
    spoken = {tuple(mix.encode(text)) for text in mix.sentences}
    drawn = [mix.draw(Stage("s", {"A1T1": 1.0}, 1, 1e-3, sentences=0.5), rng) for _ in range(200)]
    share = np.mean([s.heard in spoken for s in drawn])
    assert 0.4 < share < 0.65
    answers = {
        tuple(s.targets[TEXT_LAYER].tolist())
        for s in (mix.draw(Stage("s", {"A1T2": 1.0}, 1, 1e-3), rng) for _ in range(300))
        if s.heard in spoken
    }
    assert answers == {(*mix.encode("no"), LAYOUT.eot)}


STAGES = [
    Stage("one", {"A1T2": 1.0, "A1T1": 0.5, "T1T2": 0.5}, steps=6, learning_rate=1e-3, warmup=2),
    Stage("two", {"A1A2": 1.0, "T1A2": 0.5, "T1A1": 0.5}, steps=5, learning_rate=1e-3, warmup=2),
]


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    training = Training(batch=4, save_every=2)
    whole = tiny_lm(stride=2).float()
    train(whole, mixture(), STAGES, tmp_path / "whole", training)

    import omni2.train.loop as loop

    taken = 0
    step = loop.take_step

    def killed(*args: object) -> dict[str, float]:
        nonlocal taken
        taken += 1
        if taken == 10:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(loop, "take_step", killed)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_lm(stride=2).float(), mixture(), STAGES, tmp_path / "cut", training)
    monkeypatch.setattr(loop, "take_step", step)
    resumed = tiny_lm(stride=2, seed=99).float()
    train(resumed, mixture(), STAGES, tmp_path / "cut", training)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_it_learns_to_answer(tmp_path: Path):
    lm, mix = tiny_lm(stride=2).float(), mixture()
    torch.manual_seed(0)
    for weight in lm.parameters():
        torch.nn.init.normal_(weight, std=0.1) if weight.ndim > 1 else torch.nn.init.ones_(weight)
    stage = Stage("all", {"A1T2": 1.0, "T1A2": 1.0}, steps=400, learning_rate=5e-3, warmup=10)
    train(lm, mix, [stage], tmp_path, Training(batch=16, save_every=1000))
    engine, builder = Engine(lm.eval()), PromptBuilder(LAYOUT, 2)
    for item in mix.items[:2]:
        audio = mix.recordings[item.train[0]][0].features.float()
        steps = list(engine.submit(builder.spoken(audio, "text"), Sampling(max_tokens=60)))
        assert [s.text for s in steps] == [*mix.encode(item.answer), LAYOUT.eot]
        line = DelayLine()
        spoken = engine.submit(builder.typed(mix.encode(item.train[0]), "speech"), Sampling(max_tokens=60))
        made = [line.push(s.codes) for s in spoken if s.codes is not None]
        assert [f for f in made if f and LAYOUT.is_frame(f)] == [tuple(f) for f in mix.frames[item.answer].tolist()]


def test_the_codec_learns_and_resumes(tmp_path: Path):
    rng = np.random.default_rng(0)
    time = np.arange(24_000)
    speech = sum(np.sin(time * f * (1 + 0.2 * np.sin(time / 3000))) for f in (0.03, 0.07, 0.15)) * 0.2
    speech = ((speech + 0.01 * rng.standard_normal(24_000)) * 32767 * 0.5).astype(np.int16)
    options = {"batch": 4, "frames": 40, "warmup": 2, "save_every": 10, "log_every": 1, "learning_rate": 5e-3}
    whole = train_codec(speech, tmp_path / "whole", CodecTraining(steps=20, **options), TINY_CODEC)
    log = (tmp_path / "whole" / "log.jsonl").read_text().splitlines()
    assert len(log) == 20
    state = torch.load(tmp_path / "whole" / "codec.pt", weights_only=True)
    assert state["step"] == 20
    assert torch.equal(state["codec"]["head.weight"], whole.head.weight)
    again = train_codec(speech, tmp_path / "whole", CodecTraining(steps=20, **options), TINY_CODEC)
    assert torch.equal(again.head.weight, whole.head.weight)
    assert len((tmp_path / "whole" / "log.jsonl").read_text().splitlines()) == 20


def test_losses_are_zero_for_equals_and_grow_with_noise():
    rng = torch.Generator().manual_seed(0)
    wave = torch.randn(2, 24_000, generator=rng) * torch.linspace(0, 1, 24_000).sin().abs() * 0.3
    noise = torch.randn(wave.shape, generator=rng)
    for loss in (SpectralLoss(24_000), EnvelopeLoss(24_000)):
        values = [float(loss(wave + level * noise, wave)) for level in (0.0, 0.03, 0.3)]
        assert abs(values[0]) < 1e-4
        assert values[0] < values[1] < values[2]


def test_masking_and_loosening_keep_what_matters():
    rng = np.random.default_rng(1)
    features = torch.ones(60, HEARD)
    for _ in range(30):
        out = masked(features, rng)
        assert out.shape == features.shape
        assert (out.mean(1) < 0.5).sum() <= 16
        text = loosened("What is the capital of France?", rng)
        assert "capital" in text.lower()
        assert "france" in text.lower()


def test_every_process_draws_its_own_samples_and_layers_are_whole():
    mix = mixture()
    one, two = (mix.batches(STAGES[0], 4, 0, 0, rank, 2) for rank in (0, 1))
    assert all(s.targets.shape[0] == LAYERS for batch in one for s in batch)
    assert any(len(a) != len(b) for x, y in zip(one, two, strict=True) for a, b in zip(x, y, strict=True))
