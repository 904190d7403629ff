import os
import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from omni2.errors import CheckpointError
from omni2.pickles import load_pickle, read_torchscript


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.randn(12, 4).half())
        self.out_proj = nn.Linear(4, 4)


class Visual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.size = 8
        self.conv1 = nn.Conv2d(3, 4, 2, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(4).bfloat16())
        self.resblocks = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        self.attn = Attention()
        self.register_buffer("steps", torch.arange(6).reshape(2, 3).t())
        self.tied = self.resblocks[0].weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv1(x).sum() + self.class_embedding.sum() + self.resblocks[0].weight.sum() + self.steps.sum()


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual = Visual()
        self.logit_scale = nn.Parameter(torch.tensor(3.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.visual(x) * self.logit_scale


def archive(path: Path, how: str = "script") -> dict[str, torch.Tensor]:
    """Save a small TorchScript archive; return its weights."""
    model = Model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        jit = torch.jit.script(model) if how == "script" else torch.jit.trace(model, torch.zeros(1, 3, 8, 8))
        jit.save(str(path))
    return {name: value.detach() for name, value in model.state_dict().items()}


def with_pickle(source: Path, target: Path, data: bytes, *, compressed: bool = False) -> None:
    """Copy a TorchScript archive with another data.pkl."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            own = entry.filename.count("/") == 1 and entry.filename.endswith("/data.pkl")
            method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
            new.writestr(entry.filename, data if own and data else old.read(entry), method)


@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript_weights_are_read_without_running_code(tmp_path, how, monkeypatch):
    expected = archive(tmp_path / "model.pt", how)
    monkeypatch.setattr(torch.jit, "load", None)
    tensors = read_torchscript(tmp_path / "model.pt")
    assert set(tensors) == set(expected)
    for name, value in tensors.items():
        assert value.is_contiguous()
        assert value.dtype == (torch.int64 if name == "visual.steps" else torch.float32)
        assert torch.equal(value, expected[name].to(value.dtype))


class Evil:
    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


@pytest.mark.parametrize(
    "evil",
    [
        Evil(os.system, "touch PWNED"),
        Evil(eval, "open('PWNED', 'w')"),
        Evil(torch.load, "x"),
        Evil(getattr, "a", "upper"),
        Evil(torch.hub.load_state_dict_from_url, "http://127.0.0.1"),
    ],
)
def test_a_pickle_that_asks_for_more_is_refused(tmp_path, monkeypatch, evil):
    monkeypatch.chdir(tmp_path)
    archive(tmp_path / "good.pt")
    with_pickle(tmp_path / "good.pt", tmp_path / "bad.pt", pickle.dumps(evil, protocol=2))
    with pytest.raises(CheckpointError, match="which is not a weight: refused") as caught:
        read_torchscript(tmp_path / "bad.pt")
    assert "\n" not in str(caught.value)
    for zipped in (True, False):
        torch.save({"weight": evil}, tmp_path / "bad.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=r"more than weights, refused: .*GLOBAL") as caught:
            load_pickle(tmp_path / "bad.pth")
        assert "\n" not in str(caught.value)
        assert "weights_only" not in str(caught.value)
    assert not Path("PWNED").exists()


def test_damaged_archives_are_refused(tmp_path):
    good = tmp_path / "good.pt"
    archive(good)
    with zipfile.ZipFile(good) as opened:
        data = next(opened.read(name) for name in opened.namelist() if name.count("/") == 1 and "/data.pkl" in name)
    bad = tmp_path / "bad.pt"
    for changed in (
        data[: len(data) // 2],
        data.replace(b"FloatStorage", b"DoublStorage"),
        b"\x80\x02N.",  # None
        b"\x80\x02}.",  # an empty dict
        data.replace(b"K\x08s", b"K\xffs"),
        b"garbage",
    ):
        if changed != data:
            with_pickle(good, bad, changed)
            with pytest.raises(CheckpointError):
                read_torchscript(bad)
    with_pickle(good, bad, b"", compressed=True)
    with pytest.raises(CheckpointError, match="compressed"):
        read_torchscript(bad)
    whole = good.read_bytes()
    for cut in (whole[: len(whole) // 2], b"", b"PK\x03\x04"):
        bad.write_bytes(cut)
        with pytest.raises(CheckpointError, match="damaged or not a TorchScript"):
            read_torchscript(bad)
    with pytest.raises(CheckpointError, match="missing"):
        read_torchscript(tmp_path / "missing.pt")
    torch.save({"weight": torch.zeros(2)}, bad)
    with pytest.raises(CheckpointError):
        read_torchscript(bad)


def test_a_view_beyond_its_storage_is_refused(tmp_path):
    good, bad = tmp_path / "good.pt", tmp_path / "bad.pt"
    archive(good)
    with zipfile.ZipFile(good) as opened:
        largest = max((i for i in opened.infolist() if "/data/" in i.filename), key=lambda i: i.file_size).filename
        with zipfile.ZipFile(bad, "w") as new:
            for name in opened.namelist():
                new.writestr(name, opened.read(name)[: 4 if name == largest else None])
    with pytest.raises(CheckpointError, match="cut short"):
        read_torchscript(bad)


@pytest.mark.parametrize("zipped", [True, False])
def test_load_pickle_loads_plain_checkpoints(tmp_path, zipped):
    saved = {"dims": {"n_mels": 80}, "model_state_dict": {"a": torch.randn(3).half()}}
    torch.save(saved, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    loaded = load_pickle(tmp_path / "a.pt")
    assert loaded["dims"] == saved["dims"]
    assert torch.equal(loaded["model_state_dict"]["a"], saved["model_state_dict"]["a"])


def test_load_pickle_turns_every_failure_into_one_line(tmp_path):
    path = tmp_path / "a.pth"
    with pytest.raises(CheckpointError, match="is missing"):
        load_pickle(path)
    torch.save({"a": torch.randn(1000)}, path)
    whole = path.read_bytes()
    for data in (b"", b"garbage", whole[: len(whole) // 2], whole[:10], b"<html>not found</html>"):
        path.write_bytes(data)
        with pytest.raises(CheckpointError) as caught:
            load_pickle(path)
        assert "\n" not in str(caught.value)
        assert "weights_only" not in str(caught.value)
    torch.save(torch.zeros(2), path)
    with pytest.raises(CheckpointError, match="a Tensor, not a dict"):
        load_pickle(path)
    archive(path)
    with pytest.raises(CheckpointError, match="TorchScript archive"):
        load_pickle(path)
