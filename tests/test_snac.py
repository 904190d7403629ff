"""SNAC by this project: the package's layers with noise by place, less computed around what is kept, its files."""

import json
from pathlib import Path

import pytest
import torch
from test_codec import CODES, CONFIG, SNAC_CODEC, SNAC_STATE, package_model, random_codes
from torch import Tensor

from omni2.codec.snac import SnacCodec, noise
from omni2.errors import CheckpointError, InputError


def test_snac_context_follows_from_its_layers() -> None:
    def back(first: int, last: int, stride: int) -> tuple[int, int]:
        """Positions of one rate → those of the rate below that they depend on, through one block."""
        first, last = first - 39, last + 39  # residual units of width 7, dilations 1, 3, 9
        return -((2 * stride - stride // 2 - 1 - first) // stride), (last + stride // 2) // stride

    first, last = -3, SnacCodec.frame_size - 1 + 3
    for stride in reversed(CONFIG["decoder_rates"]):
        first, last = back(first, last, stride)
    assert (first - 3, last + 3) == (-10, 13)
    assert SnacCodec.context == (-((first - 3) // 4), (last + 3) // 4)


def test_snac_computes_less_around_what_is_kept_the_nearer_it_comes_to_the_samples() -> None:
    size = SnacCodec.frame_size
    spans = SNAC_CODEC.spans(4 * 14, 3 * size, 11 * size)
    lengths = [14 * 4, 14 * 32, 14 * 256, 14 * 1024, 14 * 2048]
    shares = [(last - first) / length for (first, last), length in zip(spans, lengths, strict=True)]
    assert shares == sorted(shares, reverse=True)
    assert 0.6 < shares[1] < 0.8
    assert shares[-1] == (8 * size + 6) / (14 * size)
    whole = [(0, length) for length in lengths]
    assert SNAC_CODEC.spans(4 * 14, 0, 14 * size) == whole


def test_snac_is_the_package_but_for_its_noise() -> None:
    model = package_model({**CONFIG, "noise": False})
    state = {}
    for name, value in SNAC_STATE.items():  # the layers behind a noise layer move up by one without it
        parts = name.split(".")
        if parts[:2] == ["decoder", "model"] and parts[3] == "block":
            if int(parts[4]) == 2:
                continue
            parts[4] = str(int(parts[4]) - (int(parts[4]) > 2))
        state[".".join(parts)] = value
    model.load_state_dict(state)
    codes = random_codes(5)
    books = [codes[:, :1], codes[:, 1:3], codes[:, 3:]]
    with torch.inference_mode():
        expected = model.decode([book.reshape(1, -1) for book in books])[0, 0]
    torch.testing.assert_close(SNAC_CODEC.decode(codes), expected, atol=1e-5, rtol=0)
    wave = torch.randn(4096, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        ours, theirs = SNAC_CODEC.encode(wave), model.encode(wave[None, None])
    assert [book.tolist() for book in (ours[:, 0], ours[:, 1:3].flatten(), ours[:, 3:].flatten())] == [
        book[0].tolist() for book in theirs
    ]


def test_noise_is_a_function_of_seed_and_place() -> None:
    whole = noise(3, 1, 0, 9, 9 * 256)
    torch.testing.assert_close(noise(3, 1, 4, 2, 2 * 256), whole[4 * 256 : 6 * 256], atol=0, rtol=0)
    assert abs(whole.mean()) < 0.1
    assert abs(whole.std() - 1) < 0.1
    others = [noise(4, 1, 0, 9, 9 * 256), noise(3, 2, 0, 9, 9 * 256), noise(3, 1, 1, 9, 9 * 256)]
    assert all(abs(float((whole * other).mean())) < 0.1 for other in others)


def test_the_seed_matters() -> None:
    codes = random_codes(4)
    silent, one, again, two = (SNAC_CODEC.decode(codes, seed=seed) for seed in (None, 1, 1, 2))
    assert torch.equal(one, again)
    assert (one - silent).std() > 1e-3
    assert (one - two).std() > 1e-3
    before = torch.get_rng_state()
    SNAC_CODEC.decode(codes, seed=1)
    assert torch.equal(before, torch.get_rng_state())


# ---- SNAC's files


def test_snac_from_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    torch.save({name: value.half() for name, value in SNAC_STATE.items()}, tmp_path / "pytorch_model.bin")
    codec = SnacCodec.from_folder(tmp_path)
    codes = random_codes(2)
    assert codec.decode(codes).dtype == torch.float32
    torch.testing.assert_close(codec.decode(codes), SNAC_CODEC.decode(codes), atol=0.02, rtol=0)
    assert not any("parametrizations" in name for name in codec.state_dict())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "missing"),
        ("{", "cannot read"),
        ("\udcff", "cannot read"),
        ("[]", "list"),
        ("{}", "sampling_rate"),
        (json.dumps({**CONFIG, "vq_strides": [8, 4, 2, 1]}), "vq_strides"),
        (json.dumps({**CONFIG, "attn_window_size": 32}), "attn_window_size"),
        (json.dumps({**CONFIG, "surprise": 1}), "surprise"),
        (json.dumps({**CONFIG, "encoder_dim": "4"}), "do not fit"),
        (json.dumps({**CONFIG, "decoder_dim": 64}), "do not fit"),
    ],
)
def test_damaged_snac_config(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    torch.save(SNAC_STATE, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=message):
        SnacCodec.from_folder(tmp_path)


def test_damaged_snac_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    path = tmp_path / "pytorch_model.bin"
    with pytest.raises(CheckpointError, match="missing"):
        SnacCodec.from_folder(tmp_path)
    torch.save(SNAC_STATE, path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        SnacCodec.from_folder(tmp_path)
    missing = dict(SNAC_STATE)
    del missing["quantizer.quantizers.0.codebook.weight"]
    for state in (missing, {**SNAC_STATE, "more": torch.zeros(1)}, {**SNAC_STATE, "version": 1}, {}):
        torch.save(state, path)
        with pytest.raises(CheckpointError, match="SNAC weights"):
            SnacCodec.from_folder(tmp_path)


@pytest.mark.parametrize(
    "codes",
    [
        torch.zeros(0, 7, dtype=torch.int64),
        torch.zeros(3, 6, dtype=torch.int64),
        torch.zeros(7, dtype=torch.int64),
        torch.full((1, 7), CODES),
        torch.full((1, 7), -1),
    ],
)
def test_snac_refuses_what_are_no_codes(codes: Tensor) -> None:
    with pytest.raises(InputError, match="codes"):
        SNAC_CODEC.decode(codes)


@pytest.mark.parametrize("wave", [torch.zeros(0), torch.zeros(1, 2048)])
def test_snac_refuses_what_is_no_sound(wave: Tensor) -> None:
    with pytest.raises(InputError, match="samples"):
        SNAC_CODEC.encode(wave)
