"""Own model folders, whole and damaged."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from folders import LAYOUT, SIZES, outputs, same, tiny
from safetensors.torch import load_file, save_file
from torch import nn

from omni2.bundle import ENCODERS, Bundle, load, save
from omni2.config import GREEDY, Seek
from omni2.encoder import AudioEncoder
from omni2.errors import CheckpointError
from omni2.hub import load_bundle
from omni2.model import OmniLM
from omni2.weights import dequantise, quantise, read, release_pages


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny()


@pytest.fixture(scope="module")
def saved(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "tiny"
    save(bundle, folder, torch.float32)
    return folder


def test_a_saved_model_is_the_model(bundle, saved):
    loaded = load(saved)
    same(bundle, loaded)
    for part in (loaded.lm, loaded.audio_encoder, loaded.vision_encoder, loaded.codec):
        assert not part.training
        for value in (*part.parameters(), *part.buffers()):
            assert not value.is_meta
            assert value.dtype in (torch.float32, torch.int64)
        assert all(value.requires_grad for value in part.parameters())
    assert json.loads((saved / "config.json").read_text())["abilities"] == ["answer", "see", "speak"]


def test_how_to_search_is_kept_and_not_at_all_where_nothing_is_told(bundle, saved, tmp_path):
    save(dataclasses.replace(bundle, seek=Seek(3, 0.5)), tmp_path / "searching")
    assert load(tmp_path / "searching").seek == Seek(3, 0.5)
    shutil.copytree(saved, tmp_path / "before")
    edit(seek=None)(tmp_path / "before")
    assert load(tmp_path / "before").seek == GREEDY


def test_half_precision_is_stored_once_and_saved_over_itself(bundle, tmp_path):
    save(bundle, tmp_path)
    first = load(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 2.2 * sum(p.numel() for p in bundle.lm.parameters()) + 4096
    save(first, tmp_path)  # over the files that it is mapped from
    same(first, load(tmp_path))
    lm, own = outputs(bundle)["text"], outputs(first)["text"]
    assert 0 < (lm - own).abs().max() < 0.02 * lm.abs().max()


def test_int8_halves_float16_and_keeps_the_numbers(bundle, tmp_path):
    save(bundle, tmp_path / "half")
    save(bundle, tmp_path / "compact", compact=ENCODERS)
    loaded = load(tmp_path / "compact")
    for name in ENCODERS:
        half, compact = ((tmp_path / kind / name).stat().st_size for kind in ("half", "compact"))
        assert compact < 0.7 * half
    for name in ("model.safetensors", "codec.safetensors"):
        assert (tmp_path / "compact" / name).read_bytes() == (tmp_path / "half" / name).read_bytes()
    for part in ("audio_encoder", "vision_encoder"):
        right, near = getattr(bundle, part).state_dict(), getattr(loaded, part).state_dict()
        assert right.keys() == near.keys()
        for name, value in right.items():
            assert near[name].dtype == value.dtype
            limit = value.flatten(1).abs().amax(1).max() / 250 if value.ndim > 1 else 1e-3 * value.abs().max() + 1e-6
            assert (near[name] - value).abs().max() <= limit, name
    save(loaded, tmp_path / "compact", compact=ENCODERS)  # over itself, without loss
    same(loaded, load(tmp_path / "compact"))


def test_the_language_model_may_be_compact_too(bundle, tmp_path):
    save(bundle, tmp_path, compact=["model.safetensors"])
    lm, own = outputs(bundle)["text"], outputs(load(tmp_path))["text"]
    assert 0 < (lm - own).abs().max() < 0.1 * lm.abs().max()


def test_int8_keeps_every_row_within_half_a_scale():
    rows = torch.randn(6, 22, 3) * torch.tensor([1e3, 1.0, 1e-3, 1e-6, 0.0, 5e-8])[:, None, None]
    state = {
        "conv.weight": rows,
        "conv.bias": torch.randn(6),
        "depthwise.weight": torch.randn(90, 1, 7, 9),
        "steps": torch.arange(200).view(2, 100),
    }
    stored = quantise(state)
    assert {name: value.dtype for name, value in stored.items()} == {
        "conv.weight": torch.int8,
        "conv.weight:scale": torch.float16,
        "conv.bias": torch.float32,
        "depthwise.weight": torch.float32,
        "steps": torch.int64,
    }
    back = dequantise(stored)
    assert back.keys() == state.keys()
    for name in ("conv.bias", "depthwise.weight", "steps"):
        assert torch.equal(back[name], state[name])
    error = (back["conv.weight"] - rows).flatten(1).abs().amax(1)
    assert (error <= rows.flatten(1).abs().amax(1) * 0.51 / 127 + 2.0**-25).all()


def test_damaged_scales_are_an_error(bundle, tmp_path):
    save(bundle, tmp_path, compact=ENCODERS)
    file = tmp_path / ENCODERS[0]
    stored = load_file(file)
    name = next(name for name in stored if name.endswith(":scale"))
    for broken in ({**stored, name: stored[name][:-1]}, {k: v for k, v in stored.items() if k != name}):
        save_file({k: v.clone() for k, v in broken.items()}, file)
        with pytest.raises(CheckpointError, match="does not fit"):
            load(tmp_path)


def test_a_model_without_pictures_needs_no_transformers(bundle, tmp_path):
    save(bundle, tmp_path)  # its vision encoder must not stay behind
    lm = OmniLM(dataclasses.replace(SIZES, vision_adapter_dim=0), LAYOUT).eval()
    blind = dataclasses.replace(bundle, lm=lm, vision_encoder=None, abilities=frozenset({"answer"}))
    save(blind, tmp_path)
    assert not (tmp_path / "vision_encoder.safetensors").exists()
    code = (
        "import sys; from omni2.hub import load_bundle; b = load_bundle(sys.argv[1]); assert b.vision_encoder is None\n"
        "assert not {'transformers', 'snac', 'huggingface_hub.hf_api'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=120)


def test_a_model_that_claims_to_see_needs_an_eye(bundle, tmp_path):
    lm = OmniLM(dataclasses.replace(SIZES, vision_adapter_dim=0), LAYOUT).eval()
    save(dataclasses.replace(bundle, lm=lm, vision_encoder=None, abilities=frozenset({"see"})), tmp_path)
    with pytest.raises(CheckpointError, match="vision encoder"):
        load(tmp_path)


def test_odd_positions_of_the_audio_encoder_are_kept(bundle, tmp_path):
    encoder = AudioEncoder(8, 100, 64, 1, 2).eval()
    encoder.positional_embedding.mul_(0.5)
    save(dataclasses.replace(bundle, audio_encoder=encoder), tmp_path, torch.float32)
    assert torch.equal(load(tmp_path).audio_encoder.positional_embedding, encoder.positional_embedding)


def test_what_cannot_be_saved(bundle, tmp_path):
    with pytest.raises(CheckpointError, match="float16 or float32"):
        save(bundle, tmp_path, torch.int8)
    lm = OmniLM(SIZES, LAYOUT)
    nn.init.constant_(lm.norm.weight, 1e6)
    with pytest.raises(CheckpointError, match="no weights are in config"):
        save(bundle, tmp_path, compact=["config.json"])
    with pytest.raises(CheckpointError, match=r"norm\.weight has values that float16 cannot hold"):
        save(dataclasses.replace(bundle, lm=lm), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot write"):
        save(bundle, tmp_path / "file")
    with pytest.raises(CheckpointError, match="cannot be saved"):
        save(dataclasses.replace(bundle, codec=object()), tmp_path)


def edit(**entries: object) -> Callable[[Path], None]:
    """Change entries of config.json: `model={"n_head": 3}` below one, `window=None` takes one away."""

    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        for key, value in entries.items():
            if isinstance(value, dict):
                config[key] = {k: v for k, v in (config[key] | value).items() if v is not None}
            elif value is None:
                del config[key]
            else:
                config[key] = value
        (folder / "config.json").write_text(json.dumps(config))

    return change


def cut(name: str, left: float = 0.5) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, int((folder / name).stat().st_size * left))


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def text(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


WEIGHTS = ("model", "audio_encoder", "vision_encoder", "codec")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        *[(remove(f"{name}.safetensors"), rf"{name}\.safetensors is missing") for name in WEIGHTS],
        *[(cut(f"{name}.safetensors"), rf"{name}\.safetensors is damaged or cut short") for name in WEIGHTS],
        (cut("model.safetensors", 0), "damaged or cut short"),
        (cut("model.safetensors", 0.001), "damaged or cut short"),
        (text("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"), "damaged or cut short"),
        (remove("config.json"), r"config\.json is missing"),
        (remove("tokenizer.json"), r"tokenizer\.json is missing"),
        (cut("config.json"), r"cannot read .*config\.json"),
        (cut("tokenizer.json"), r"tokenizer\.json is damaged"),
        (text("config.json", "[]"), "not of this library"),
        (text("config.json", "{}"), "not of this library"),
        (text("config.json", '{"format": 1}'), '"layout" is missing'),
        (text("config.json", "[" * 100_000), "cannot read"),
        (edit(format=2), "format 2, this version reads 1; update omni2"),
        (edit(format="x"), "format 'x'"),
        *[(edit(**{key: None}), f'"{key}" is missing') for key in ("model", "window", "abilities", "codec", "name")],
        *[(edit(**{key: 5}), "not a dict") for key in ("model", "layout", "audio_encoder", "vision_encoder", "codec")],
        (edit(window="round"), "exact or trimmed"),
        (edit(seek=2), '"seek" is .* not a dict'),
        (edit(seek={"beams": 0}), "not a Seek: beams are 1"),
        (edit(seek={"beams": "2"}), "beams is '2'"),
        (edit(seek={"cascade": -0.3}), "not a Seek: the weight"),
        (edit(abilities=[1]), "a list of names"),
        (edit(model={"n_layer": "2"}), "n_layer is '2'"),
        (edit(model={"n_layer": True}), "n_layer is True"),
        (edit(model={"n_layer": None}), "n_layer"),
        (edit(model={"n_layer": 3}), r"model\.safetensors does not fit .*missing"),
        (edit(model={"n_layer": 1}), r"model\.safetensors does not fit .*unknown"),
        (edit(model={"n_head": 3}), "impossible sizes"),
        (edit(model={"n_query_groups": 0}), "not a ModelConfig"),
        (edit(model={"n_embd": 64}), "size mismatch"),
        (edit(model={"n_embd": -1}), "does not fit"),
        (edit(model={"experts": 8}), "unknown entry 'experts'"),
        (edit(layout={"text_ids": 60}), "no room"),
        (edit(layout={"text_ids": 30}), "more than 30 tokens"),
        (edit(layout={"codebook_size": [16]}), r"codebook_size is \[16\]"),
        (edit(audio_encoder={"width": 0}), "positive whole numbers"),
        (edit(audio_encoder={"layers": None}), "positive whole numbers"),
        (edit(vision_encoder={"patch": 4}), r"vision_encoder\.safetensors does not fit"),
        (edit(codec={"kind": "mp3"}), "unknown codec 'mp3'"),
        (edit(codec={"kind": "snac"}), "SNAC"),
        (edit(codec={"width": 32}), r"codec\.safetensors does not fit"),
        (edit(codec={"strides": 4}), "not a IstftConfig"),
    ],
)
def test_damaged_folders_are_refused_in_one_line(saved, tmp_path, damage, message):
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_bundle(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def held(file: Path) -> int:
    """Kilobytes of a mapped file that this process holds."""
    kilobytes, mine = 0, False
    for line in Path("/proc/self/smaps").read_text("utf-8").splitlines():
        if "-" in line.split(maxsplit=1)[0]:
            mine = line.endswith(str(file))
        elif mine and line.startswith("Rss:"):
            kilobytes += int(line.split()[1])
    return kilobytes


@pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="Linux tells what memory a file takes")
def test_pages_of_a_file_are_given_back_and_come_again(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    values = torch.arange(1_000_000, dtype=torch.int32)
    save_file({"a": values, "b": -values}, file)
    state = read(file)
    assert torch.equal(state["a"], values)
    before = held(file)
    assert before > 3_000
    release_pages(file)
    assert held(file) < before / 10
    assert torch.equal(state["a"], values)
    assert torch.equal(state["b"], -values)
    release_pages(tmp_path / "nothing")
    assert held(file) > 3_000  # of this file alone
