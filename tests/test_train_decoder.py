"""The codec's decoder learns alone, against a discriminator, and no code changes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lessons import toy
from typer.testing import CliRunner

from omni2.bundle import CODEC, save
from omni2.codec.istft import IstftCodec, IstftConfig
from omni2.train.cli import train as commands
from omni2.train.decoder_loop import DECODER, STATE, DecoderRun, DecoderTraining, batch, encoded, train_decoder
from omni2.train.discriminator import SpectrogramDiscriminator, deception, judgement
from omni2.train.nano import Workshop, trained_codec
from omni2.weights import read_into, write

SIZES = IstftConfig(
    hop=32, n_fft=128, n_mels=8, width=16, encoder_blocks=1, decoder_blocks=1, codebook_size=32, codebook_width=4
)
OPTIONS = DecoderTraining(steps=4, batch=2, seconds=0.5, warmup=1, ramp=2, channels=2, save_every=2, log_every=1)


def small_codec() -> IstftCodec:
    torch.manual_seed(3)
    return IstftCodec(SIZES).eval()


def speech(samples: int = 36_000) -> np.ndarray:
    """Tones that come and go: (samples,) int16."""
    time = np.arange(samples)
    wave = sum(np.sin(time * f) for f in (0.03, 0.07, 0.15)) * np.sin(time / 3000) ** 2 / 4
    return (wave * 32767).astype(np.int16)


def decoder_names(codec: IstftCodec) -> set[str]:
    return {name for name in codec.state_dict() if name.split(".")[0] in DECODER}


@pytest.mark.parametrize("adversarial", [0.0, 0.5])
def test_the_decoder_learns_and_codes_stay(tmp_path: Path, adversarial: float) -> None:
    wave = torch.from_numpy(speech(9_000).astype(np.float32) / 32768)
    before, codec = small_codec(), small_codec()
    trained = train_decoder(speech(), tmp_path, codec, replace(OPTIONS, adversarial=adversarial))
    old, new = before.state_dict(), trained.state_dict()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == decoder_names(codec)
    codes = before.encode(wave)
    assert torch.equal(codes, trained.encode(wave))
    assert not torch.equal(before.decode(codes), trained.decode(codes))
    rows = [json.loads(line) for line in (tmp_path / "decoder.jsonl").read_text().splitlines()]
    assert all(("judgement" in row) == bool(adversarial) for row in rows)
    stored = read_into(lambda: IstftCodec(SIZES), tmp_path / CODEC)
    assert torch.equal(stored.head.weight, trained.head.weight.half().float())
    assert torch.equal(stored.codebooks[0].vectors, before.codebooks[0].vectors.half().float())


def test_a_resumed_run_is_the_whole_run(tmp_path: Path) -> None:
    options = replace(OPTIONS, learning_rate=1e-3)
    whole = train_decoder(speech(), tmp_path / "whole", small_codec(), options)

    class Killed(Exception):
        pass

    class Cut(np.ndarray):
        """Speech that ends the run once a batch of the fourth step is asked for."""

    cut = speech().view(Cut)
    reads = 0

    def counted(self: Cut, key: object) -> np.ndarray:
        nonlocal reads
        reads += 1
        if reads > 3 * options.batch + 1:  # one read for the codes, then one for each of a batch
            raise Killed
        return np.asarray(self)[key]

    Cut.__getitem__ = counted  # type: ignore[method-assign,assignment]
    with pytest.raises(Killed):
        train_decoder(cut, tmp_path / "cut", small_codec(), options)
    assert torch.load(tmp_path / "cut" / STATE, weights_only=True)["step"] == 2
    other = small_codec()
    torch.nn.init.zeros_(other.embed.conv.weight)  # codes and weights come from the checkpoint alone
    again = train_decoder(speech(), tmp_path / "cut", other, options)
    for (name, a), b in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    logs = [(tmp_path / run / "decoder.jsonl").read_text().splitlines() for run in ("whole", "cut")]
    rows = [[{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in log] for log in logs]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0]] == [0, 1, 2, 3]


def test_the_discriminator_sets_in_when_told_and_moves_the_decoder_alone() -> None:
    codec = small_codec()
    data = batch(encoded(codec, speech()), speech(), codec, OPTIONS, 0)
    runs = [DecoderRun(small_codec(), replace(OPTIONS, adversarial=share)) for share in (0.0, 0.5, 0.5)]
    judge = [weight.clone() for weight in runs[1].adversary.judge.parameters()]
    assert "judgement" in runs[1].step(0, *data)
    assert "judgement" not in runs[0].step(0, *data)
    assert not torch.equal(runs[0].codec.head.weight, runs[1].codec.head.weight)
    assert any(not torch.equal(a, b) for a, b in zip(judge, runs[1].adversary.judge.parameters(), strict=True))
    touched = {name for name, weight in runs[1].codec.named_parameters() if weight.grad is not None}
    assert touched == decoder_names(codec)
    later = DecoderRun(small_codec(), replace(OPTIONS, adversarial_from=1))
    assert "judgement" not in later.step(0, *data)
    assert torch.equal(later.codec.head.weight, runs[0].codec.head.weight)
    assert "judgement" in later.step(1, *data)


def test_the_discriminator_learns_to_tell_buzz_in_pauses_from_silence() -> None:
    torch.manual_seed(0)
    judge = SpectrogramDiscriminator((128,), 4)
    optimiser = torch.optim.Adam(judge.parameters(), 5e-3)
    wave = torch.from_numpy(speech(12_000).astype(np.float32) / 32768).view(4, 3_000)
    wave = wave + 1e-4 * torch.randn(wave.shape)
    buzz = wave + 0.01 * (torch.arange(3_000) % 150 == 0)  # 160 Hz
    first = judgement(judge(wave), judge(buzz)).item()
    for _ in range(30):
        loss = judgement(judge(wave), judge(buzz))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    assert loss.item() < 0.5 < 1.5 < first
    with torch.no_grad():
        real = judge(wave)
        assert deception(real, judge(buzz)) > 1 + deception(real, real)
    shown = buzz.clone().requires_grad_()
    (slope,) = torch.autograd.grad(deception(real, judge(shown)), shown)
    assert (slope * (buzz - wave)).sum() > 0, "less buzz deceives better"
    assert slope.isfinite().all()


def test_silence_has_a_finite_gradient() -> None:
    judge = SpectrogramDiscriminator((128,), 2)
    made = torch.zeros(1, 1_000, requires_grad=True)
    (slope,) = torch.autograd.grad(deception(judge(torch.zeros(1, 1_000)), judge(made)), made)
    assert slope.isfinite().all()


def test_the_command_takes_up_a_models_decoder(tmp_path: Path) -> None:
    model, shop = tmp_path / "toy", Workshop(tmp_path / "runs")
    save(toy(), model, torch.float32)
    shop.speech.mkdir(parents=True)
    speech(60_000).tofile(shop.speech / "speech.i16")
    command = ["codec", "--runs", str(shop.root), "--steps", "1", "--batch", "1", "--threads", "1"]
    done = CliRunner().invoke(commands, [*command, "--from", str(model)])
    assert done.exit_code != 0
    assert "--decoder-only" in done.output
    done = CliRunner().invoke(commands, [*command, "--from", str(model), "--decoder-only", "--adversarial-from", "1"])
    assert done.exit_code == 0, done.output
    (model / CODEC).write_bytes((shop.codec / CODEC).read_bytes())
    (shop.codec / "codec.pt").touch()
    done = CliRunner().invoke(commands, [*command, "--from", str(model), "--decoder-only"])
    assert done.exit_code != 0
    assert "a codec of its own" in done.output


def test_a_workshop_with_a_better_decoder_uses_it(tmp_path: Path) -> None:
    shop = Workshop(tmp_path)
    codec = IstftCodec(IstftConfig())
    shop.codec.mkdir()
    torch.save({"codec": codec.state_dict()}, shop.codec / "codec.pt")
    assert torch.equal(trained_codec(shop).head.bias, codec.head.bias)
    with torch.no_grad():
        codec.head.bias.fill_(0.25)
    write(shop.codec / CODEC, codec, torch.float16)
    assert (trained_codec(shop).head.bias == 0.25).all()
