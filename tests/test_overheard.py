"""The small networks that read the encoder's features, and what is said over an answer."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toys import tiny_bundle

from omni2.duplex import overheard as product
from omni2.duplex.overheard import FRAMES, KINDS, WEIGHTS, overheard, overhearing
from omni2.duplex.reader import ENCODER, Reader
from omni2.errors import InputError, OmniError
from omni2.train import overheard as training
from omni2.train.data.schema import Row
from omni2.train.data.store import shard, write_shard
from omni2.train.overheard import kind, make
from omni2.train.reading import END, NOISE, SHIFT, Fitting, disturbed, fit, keep, padded
from omni2.weights import read_into

WIDTH = 8


def test_the_last_frames_are_judged_and_fewer_are_enough() -> None:
    torch.manual_seed(0)
    net = Reader(16, 40, 2).eval()
    features = torch.randn(70, 16)
    torch.testing.assert_close(net.judge(features), net.judge(features[30:]))
    assert not torch.allclose(net.judge(features), net.judge(features[:-10]))
    assert net.judge(features[:5]).isfinite().all()


def test_features_are_kept_at_the_end() -> None:
    long, short = torch.randn(50, WIDTH), torch.randn(7, WIDTH)
    kept = padded([long, short], 20)
    assert kept.shape == (2, 20, WIDTH)
    torch.testing.assert_close(kept[0], long[-20:].bfloat16())
    torch.testing.assert_close(kept[1, 13:], short.bfloat16())
    assert not kept[1, :13].any()


@pytest.mark.parametrize("careful", [False, True])
def test_it_learns_what_differs_and_is_stored_in_int8(tmp_path: Path, careful: bool) -> None:
    truth = torch.arange(300) % 3
    features = 0.1 * torch.randn(300, 40, WIDTH, generator=torch.Generator().manual_seed(0))
    for index in (1, 2):
        features[truth == index, -20:, index] += 1.0
    net = Reader(WIDTH, 40, 3)
    held = torch.arange(300) % 10 < 2
    said = fit(net, features, truth, held, F.cross_entropy, Fitting(80, careful=careful))
    assert (said.argmax(1) == truth[held]).float().mean() > 0.9
    file = tmp_path / "new" / "net.safetensors"
    keep(net, file)
    again = read_into(lambda: Reader(WIDTH, 40, 3), file)
    torch.testing.assert_close(again.judge(features[0]), net.judge(features[0]), atol=0.2, rtol=0.05)
    assert file.stat().st_size < sum(value.numel() for value in net.parameters()) * 2


def test_the_weights_of_the_last_steps_are_averaged() -> None:
    truth, features = torch.arange(40) % 3, torch.randn(40, 40, WIDTH, generator=torch.Generator().manual_seed(0))
    net, seen = Reader(WIDTH, 40, 3), []

    def loss(logits: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        seen.append(net.enter.weight.detach().clone())
        return F.cross_entropy(logits, right)

    fit(net, features, truth, truth == 0, loss, Fitting(6, careful=True))
    last = 4 * net.enter.weight - sum(seen[3:])  # of the four steps that count; the rate is next to none by then
    assert (last - seen[5]).norm() < (seen[5] - seen[4]).norm()


@pytest.mark.parametrize("careful", [False, True])
def test_it_goes_back_to_what_it_began_with(careful: bool) -> None:
    truth, features = torch.arange(40) % 3, torch.randn(40, 40, WIDTH, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    begun = Reader(WIDTH, 40, 3).state_dict()
    ends = []
    for back in (0.0, 0.5, 1.0):
        net = Reader(WIDTH, 40, 3)
        net.load_state_dict(begun)
        said = fit(net, features, truth, truth == 0, F.cross_entropy, Fitting(5, careful=careful, back=back))
        torch.testing.assert_close(said, net(features[truth == 0]))
        ends.append(net.enter.weight)
    torch.testing.assert_close(ends[1], (ends[0] + begun["enter.weight"]) / 2)
    torch.testing.assert_close(ends[2], begun["enter.weight"])
    assert not torch.allclose(ends[0], ends[2])


def test_what_is_disturbed_keeps_its_end_and_its_kind() -> None:
    torch.manual_seed(0)
    features = torch.full((400, 124, WIDTH), 3.0)
    features[:, :60] = -3.0
    changed = disturbed(features, torch.full((WIDTH,), 0.1))
    assert changed.shape == features.shape
    gone = changed == 0
    silent = gone.all(1)  # a feature that was left out of an example
    assert 0.03 < silent.float().mean() < 0.07
    gaps = gone.all(2)
    assert not gaps[:, -END + SHIFT :].any()
    assert 0.35 < gaps.any(1).float().mean() < 0.65
    assert gaps.sum(1).max() < 20 + SHIFT
    kept = changed[:, -1][~silent]
    assert (kept - 3).abs().max() < 6 * NOISE * 0.1
    assert (kept - 3).std() > 0.01
    steps = (changed.mean(2) > 0).float()[~gaps.any(1)].sum(1)
    assert {*steps.tolist()} == set(range(64 - SHIFT, 64 + SHIFT + 1))


def windows(count: int) -> list[Row]:
    """Features that tell orders and nods by their last frames."""
    rows = []
    for index in range(count):
        label, topic = (("irq", "ordered"), ("n-irq", "nod"), ("n-irq", "near"))[index % 3]
        features = torch.zeros(FRAMES + 6, WIDTH)
        features[-30:, index % 3] = 1.0
        row = Row(f"w/{index}", "listen", "interruption", "MIT", topic=topic, label=label)
        rows.append(row.__class__(**{**row.__dict__, "question_features": features.half()}))
    return rows


def test_windows_are_learnt_from_by_what_they_end_with(tmp_path: Path) -> None:
    rows = windows(240)
    assert [kind(row) for row in rows[:3]] == ["order", "nod", "other"]
    write_shard(rows, shard(tmp_path, 0))
    right = make(tmp_path, tmp_path / "net.safetensors", Fitting(60, 64))
    assert set(right) == set(KINDS)
    assert min(right.values()) > 90
    with pytest.raises(OmniError, match="no shards"):
        make(tmp_path / "none", tmp_path / "net.safetensors", Fitting(1))


def test_it_goes_on_from_weights_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_learnt(net: Reader, features: torch.Tensor, truth: torch.Tensor, held: torch.Tensor, *_: object):
        with torch.inference_mode():
            return net.eval()(features[held].float())

    write_shard(windows(240), shard(tmp_path, 0))
    make(tmp_path, tmp_path / "net.safetensors", Fitting(60, 64))
    monkeypatch.setattr(training, "fit", nothing_learnt)
    assert min(make(tmp_path, tmp_path / "new.safetensors", Fitting(0)).values()) < 50
    assert min(make(tmp_path, tmp_path / "on.safetensors", Fitting(0), tmp_path / "net.safetensors").values()) > 90


def test_one_cannot_go_back_to_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--from"):
        make(tmp_path, tmp_path / "net.safetensors", Fitting(1, back=0.5))


def test_windows_without_features_are_refused(tmp_path: Path) -> None:
    write_shard([Row("w/0", "listen", "interruption", "MIT", label="irq")], shard(tmp_path, 0))
    with pytest.raises(OmniError, match="have no features"):
        make(tmp_path, tmp_path / "net.safetensors", Fitting(1))


def test_an_encoder_that_nobody_trained_for_has_no_opinion(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    features = torch.randn(FRAMES, ENCODER[1])
    assert overheard(tiny_bundle().audio_encoder, features) is None
    own = tiny_bundle().audio_encoder
    monkeypatch.setattr(own, "width", ENCODER[1], raising=False)
    monkeypatch.setattr(own, "layers", ENCODER[2], raising=False)
    found = overheard(own, features)
    assert found is not None
    assert 0 <= found.order <= 1
    monkeypatch.setattr(product, "WEIGHTS", tmp_path / "missing.safetensors")
    assert overheard(own, features) is None


def test_the_shipped_weights_fit_and_are_small() -> None:
    read_into(overhearing, WEIGHTS)
    assert WEIGHTS.stat().st_size < 500_000
    assert np.isclose(FRAMES / 50, product.LISTENING, atol=0.05)
