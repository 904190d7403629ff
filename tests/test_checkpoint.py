"""Model folders, own and released, whole and damaged; where models are looked for."""

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import parity
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn

from omni2 import checkpoint as released
from omni2 import hub
from omni2.bundle import Bundle, load, save
from omni2.codec.istft import IstftCodec, IstftConfig
from omni2.config import ModelConfig
from omni2.encoder import AudioEncoder
from omni2.errors import CheckpointError
from omni2.hub import find, load_bundle
from omni2.model import OmniLM
from omni2.tokens import TokenLayout
from omni2.vision import VisionEncoder

LAYOUT = TokenLayout(text_ids=50, text_block=64, codebook_size=16, audio_block=24)
SIZES = ModelConfig(
    **{"n_layer": 2, "n_head": 4, "n_query_groups": 2, "head_size": 8, "n_embd": 32, "intermediate_size": 48},
    **{"block_size": 64, "whisper_adapter_dim": 64, "vision_adapter_dim": 24, "adapter_size": 40, "audio_stride": 2},
    **{"rope_base": 10_000.0},
)
SNAC = {
    **{"sampling_rate": 24_000, "encoder_dim": 4, "encoder_rates": [2, 4, 8, 8], "latent_dim": None},
    **{"decoder_dim": 32, "decoder_rates": [8, 8, 4, 2], "attn_window_size": None, "codebook_size": 4096},
    **{"codebook_dim": 4, "vq_strides": [4, 2, 1], "noise": True, "depthwise": True},
}


def tokenizer(size: int = 40) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel()
    made.train_from_iterator(["the quick brown fox jumps over the lazy dog"], trainers.BpeTrainer(vocab_size=size))
    return made


def tiny() -> Bundle:
    torch.manual_seed(0)
    audio, codec = AudioEncoder(8, 100, 64, 1, 2), IstftCodec(IstftConfig(width=16, n_mels=20, codebook_size=16))
    vision = VisionEncoder(64, 2, 8, 16, 24, 96)
    for part in (lm := OmniLM(SIZES, LAYOUT), audio, vision, codec):
        part.eval()
    abilities = frozenset({"see", "answer", "speak"})
    return Bundle(lm, tokenizer(), audio, vision, codec, "trimmed", abilities, "tiny")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny()


@pytest.fixture(scope="module")
def saved(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "tiny"
    save(bundle, folder, torch.float32)
    return folder


@torch.inference_mode()
def outputs(bundle: Bundle, codes: int = 16) -> dict[str, Tensor]:
    """What every part makes of the same inputs."""
    rng = torch.Generator().manual_seed(3)
    wave = torch.randn(8000, generator=rng) * 0.1
    text = torch.randint(0, 16, (1, 8, 7), generator=rng)
    lm = bundle.lm
    hidden = lm(lm.embed(text))
    made = {
        "text": lm.text_logits(hidden),
        "audio": lm.audio_logits(hidden),
        "heard": bundle.audio_encoder.encode(wave, "trimmed"),
        "codes": bundle.codec.encode(wave),
        "sound": bundle.codec.decode(torch.randint(0, codes, (3, 7), generator=rng), seed=1),
    }
    made["adapted"] = lm.adapt(made["heard"], "audio")
    if bundle.vision_encoder:
        made["seen"] = bundle.vision_encoder(torch.randn(1, 3, 16, 16, generator=rng))[0]
        made["pictured"] = lm.adapt(made["seen"], "image")
    return made


def same(one: Bundle, other: Bundle, tolerance: float = 0.0) -> None:
    left, right = outputs(one), outputs(other)
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.allclose(value, right[name], rtol=0, atol=tolerance), name
    assert one.tokenizer.to_str() == other.tokenizer.to_str()
    for field in ("window", "abilities", "name"):
        assert getattr(one, field) == getattr(other, field)
    assert (one.lm.config, one.lm.layout) == (other.lm.config, other.lm.layout)


# ---- own folders


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


def test_half_precision_is_stored_once_and_saved_over_itself(bundle, tmp_path):
    save(bundle, tmp_path)
    first = load(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 2.2 * sum(p.numel() for p in bundle.lm.parameters()) + 4096
    save(first, tmp_path)  # over the files that it is mapped from
    same(first, load(tmp_path))
    lm, own = outputs(bundle)["text"], outputs(first)["text"]
    assert 0 < (lm - own).abs().max() < 0.02 * lm.abs().max()


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


# ---- released folders


class Holder(nn.Module):
    """Weights at dotted names, as a module that TorchScript can save."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        for child in {name.split(".")[0] for name in weights if "." in name}:
            below = {name[len(child) + 1 :]: value for name, value in weights.items() if name.startswith(f"{child}.")}
            self.add_module(child, Holder(below))
        for name, value in weights.items():
            if "." not in name:
                self.register_parameter(name, nn.Parameter(value))

    def forward(self, x: Tensor) -> Tensor:
        return x


def clip_weights(width: int = 64, out: int = 32) -> dict[str, Tensor]:
    """openai/CLIP's names: one layer, patches of 8 in pictures of 16, 5 tokens."""
    shapes = {"class_embedding": (width,), "positional_embedding": (5, width), "proj": (width, out)}
    shapes |= {"conv1.weight": (width, 3, 8, 8)}
    block = "transformer.resblocks.0"
    for name in ("ln_pre", "ln_post", f"{block}.ln_1", f"{block}.ln_2"):
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    for name, rows, columns in (
        ("attn.in_proj_", 3 * width, width),
        ("attn.out_proj.", width, width),
        ("mlp.c_fc.", 2 * width, width),
        ("mlp.c_proj.", width, 2 * width),
    ):
        shapes |= {f"{block}.{name}weight": (rows, columns), f"{block}.{name}bias": (rows,)}
    return {f"visual.{name}": torch.randn(shape).half() * 0.1 for name, shape in shapes.items()}


def snac_folder(folder: Path) -> None:
    from omni2.codec import snac  # imports the package without the warning it gives

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SNAC))
    torch.save(snac.SNAC(**SNAC).state_dict(), folder / "pytorch_model.bin")


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


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network and an empty cache, as HF_HUB_OFFLINE=1 and HF_HUB_CACHE say at start."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


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


# ---- names


@pytest.mark.usefixtures("offline")
def test_a_hub_id_that_cannot_be_had(tmp_path):
    for name in ("gpt-omni/mini-omni2", "someone/else"):
        with pytest.raises(CheckpointError, match=f"hf download {name}"):
            load_bundle(name)


def test_unknown_names_never_reach_the_network(tmp_path, monkeypatch, saved):
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pth").touch()
    (tmp_path / "empty").mkdir()
    for name in (
        "large",
        "",
        "a/b/c",
        "./org/name",
        "../org",
        "/no/where",
        "~/no-where",
        "org/",
        "a\nb",
        "org/na me",
        "~no-user/x",
        "x" * 5000,
    ):
        with pytest.raises(CheckpointError, match=r'(?s)no model .*"nano", a folder, or a hub id'):
            find(name)
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        find("model.pth")
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load_bundle("empty")
    monkeypatch.setattr(hub, "NANO_FOLDER", saved)
    assert find("nano") == saved
    monkeypatch.setattr(hub, "NANO_FOLDER", tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="install omni2 again"):
        find("nano")
