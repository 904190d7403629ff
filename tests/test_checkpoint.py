"""Released model folders, whole and damaged."""

import os
import pickle
import shutil
import warnings
from pathlib import Path

import parity
import pytest
import torch
from folders import Holder, clip_weights, outputs, same, snac_folder, tokenizer

from omni2 import checkpoint as released
from omni2.bundle import save
from omni2.encoder import AudioEncoder
from omni2.errors import CheckpointError
from omni2.hub import load_bundle


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as of gpt-omni/mini-omni2, the codec beside."""
    torch.manual_seed(1)
    folder = parity.write(tmp_path_factory.mktemp("theirs") / "omni", parity.state_dict(5, 64, 32))
    tokenizer().save(str(folder / "tokenizer.json"))
    encoder = AudioEncoder(8, 100, 64, 1, 1).half().state_dict()
    whisper = {f"encoder.{name}": value for name, value in encoder.items()} | {"decoder.ln.weight": torch.ones(3)}
    torch.save({"dims": {"n_mels": 8}, "model_state_dict": whisper}, folder / "small.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        torch.jit.save(torch.jit.script(Holder(clip_weights())), str(folder / "ViT-B-32.pt"))
    snac_folder(folder / "snac_24khz")
    return folder


@pytest.fixture
def copy(theirs: Path, tmp_path: Path) -> Path:
    """A copy of the released folder that a test may damage; the big file is a link."""
    folder = tmp_path / "omni"
    shutil.copytree(theirs, folder, ignore=shutil.ignore_patterns("*.pth"))
    (folder / "lit_model.pth").symlink_to(theirs / "lit_model.pth")
    return folder


def test_a_released_folder_becomes_an_own_one(theirs, tmp_path):
    bundle = load_bundle(str(theirs))
    assert bundle.abilities == {"answer", "transcribe", "see"}
    assert (bundle.window, bundle.name) == ("exact", "omni")
    assert (bundle.lm.config.whisper_adapter_dim, bundle.lm.config.vision_adapter_dim) == (64, 32)
    assert outputs(bundle)["sound"].shape == (3 * 2048,)
    save(bundle, tmp_path / "own", torch.float32)
    same(bundle, load_bundle(tmp_path / "own"))


def test_mini_omni_sees_nothing_and_its_post_adapter_is_ignored(copy):
    state = parity.state_dict(5, 64, 0) | {"transformer.post_adapter.0.norm_1.weight": torch.ones(64)}
    (copy / "lit_model.pth").unlink()
    (copy / "ViT-B-32.pt").unlink()
    settings = {"post_adapter": True, "vision_adapter_dim": None, "pos_type": "rope", "n_expert": 0}
    bundle = load_bundle(parity.write(copy, state, **settings))
    assert bundle.vision_encoder is None
    assert bundle.abilities == {"answer", "transcribe"}


def test_weights_of_another_kind_are_refused(tmp_path):
    good = parity.state_dict(5, 64, 0)
    norm = good["transformer.ln_f.weight"]
    other = good["lm_head.weight"].clone()
    other[7, 7] += 1
    for changed, message in (
        ({"lm_head.weight": other}, "to which it is tied"),
        ({"transformer.h.0.norm_3.weight": norm}, r"blocks\.0\.norm_3\.weight is unknown"),
        ({"transformer.h.0.norm_1.weight": None}, r"blocks\.0\.norm_1\.weight is missing"),
        ({"transformer.wte.weight": None}, r"'transformer\.wte\.weight' is missing"),
        ({"transformer.h.0.attn.attn.weight": torch.ones(96, 64)}, "does not fit"),
        ({"transformer.h.2.norm_1.weight": norm}, "3 of 2 layers"),
        ({"transformer.ln_f.weight": torch.ones(64, dtype=torch.int64)}, "more than weights"),
        ({"extra": [1]}, "more than weights"),
    ):
        state = {name: value for name, value in (good | changed).items() if value is not None}
        torch.save(state, parity.write(tmp_path / "omni", {}) / "lit_model.pth")
        with pytest.raises(CheckpointError, match=message) as caught:
            released.load_released(tmp_path / "omni")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("a: [", "cannot read"),
        ("- a", "no settings"),
        ("n_head: 4", "'block_size' is missing"),
        ("{n_head: none, block_size: 64, n_query_groups: 2, head_size: 16}", "does not fit"),
        ("{n_head: 8, block_size: 64, n_query_groups: 2, head_size: 16}", "does not fit"),
        ("parallel_residual: true", "parallel_residual is True, only False can be used"),
        ("text_vocab_size: 32000", "text_vocab_size is 32000, only 152000 can be used"),
        ("!!python/object/apply:os.system [exit]", "cannot read"),
    ],
)
def test_settings_of_another_kind_are_refused(copy, settings, message):
    (copy / "model_config.yaml").write_text(settings)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_bundle(copy)
    assert "\n" not in str(caught.value)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("name", ["lit_model.pth", "small.pt", "ViT-B-32.pt", "snac_24khz/pytorch_model.bin"])
def test_pickles_that_run_code_and_damaged_ones_are_refused(copy, tmp_path, name):
    data = (copy / name).read_bytes()
    (copy / name).unlink()
    (copy / name).write_bytes(pickle.dumps({"transformer.wte.weight": Evil(tmp_path / "ran")}, protocol=2))
    with pytest.raises(CheckpointError, match=r"refused|damaged"):
        load_bundle(copy)
    torch.save({"model_state_dict": Evil(tmp_path / "ran")}, copy / name)
    with pytest.raises(CheckpointError, match="refused"):
        load_bundle(copy)
    assert not (tmp_path / "ran").exists()
    (copy / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"cannot|damaged"):
        load_bundle(copy)


@pytest.mark.parametrize(
    ("name", "repo"),
    [
        ("tokenizer.json", "gpt-omni/mini-omni2"),
        ("small.pt", "gpt-omni/mini-omni2"),
        ("ViT-B-32.pt", "gpt-omni/mini-omni2"),
        ("lit_model.pth", "gpt-omni/mini-omni2"),
        ("model_config.yaml", "gpt-omni/mini-omni2"),
        ("snac_24khz", "hubertsiuzdak/snac_24khz"),
    ],
)
@pytest.mark.usefixtures("offline")
def test_a_missing_file_is_named_with_the_way_to_get_it(copy, name, repo):
    if name == "snac_24khz":
        shutil.rmtree(copy / name)
        name = "config.json"
    else:
        (copy / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}.*hf download {repo} {name}") as caught:
        load_bundle(copy)
    assert "\n" not in str(caught.value)


def test_a_missing_file_comes_from_the_hub(copy, tmp_path, monkeypatch):
    asked = []

    def snapshot_download(repo: str, allow_patterns: list[str]) -> str:
        asked.append((repo, *allow_patterns))
        return str(tmp_path / "hub" / repo)

    (tmp_path / "hub/gpt-omni").mkdir(parents=True)
    (tmp_path / "hub/hubertsiuzdak").mkdir()
    shutil.move(copy / "snac_24khz", tmp_path / "hub/hubertsiuzdak/snac_24khz")
    shutil.copytree(copy, tmp_path / "hub/gpt-omni/mini-omni2", symlinks=True)
    (copy / "small.pt").unlink()
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert load_bundle(copy).name == "omni"
    snac = [("hubertsiuzdak/snac_24khz", file) for file in ("config.json", "pytorch_model.bin")]
    assert asked == [("gpt-omni/mini-omni2", "small.pt"), *snac]
    asked.clear()
    assert load_bundle("gpt-omni/mini-omni2").name == "gpt-omni/mini-omni2"
    assert asked[0][0] == "gpt-omni/mini-omni2"
    assert {"lit_model.pth", "model_config.yaml", "config.json", "model.safetensors"} <= set(asked[0])
