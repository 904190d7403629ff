"""Rows on disk: what goes in comes out, whole, by column or streaming, and the manifest tells the truth."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from omni2.errors import InputError, OmniError
from omni2.train.data.schema import FEATURES, Row, keyed, pack, unpack
from omni2.train.data.sound import flac, read_sound
from omni2.train.data.store import digest, read_columns, read_manifest, read_rows, shard, stream, summarise, write_shard


def row(i: int, **more: object) -> Row:
    return Row(f"toy/{i}", "answer", "toy", "MIT", question_text=f"question {i}", answer_text="yes", **more)


def full(i: int) -> Row:
    generator = torch.Generator().manual_seed(i)
    return row(
        i,
        voice="someone",
        question_seconds=1.5,
        question_features=torch.randn(7, 4, generator=generator).half(),
        picture_features=torch.randn(3, 5, generator=generator).half(),
        answer_codes=torch.randint(0, 24, (6, 7), generator=generator),
        answer_seconds=0.5,
    )


def test_every_field_is_a_column_and_comes_back() -> None:
    columns = pack(full(1))
    assert set(columns) == set(FEATURES)
    again = unpack(columns)
    for name, value in vars(full(1)).items():
        other = getattr(again, name)
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
    bare = unpack({"key": "k", "task": "read", "source": "s", "licence": "MIT"})
    assert (bare.question_features, bare.answer_codes, bare.label) == (None, None, "")


def test_rows_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(InputError, match="no task 'sing'"):
        Row("k", "sing", "s", "MIT")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="label"):
        Row("k", "answer", "s", "MIT", label="irq")
    with pytest.raises(InputError, match="label"):
        Row("k", "listen", "s", "MIT")
    with pytest.raises(InputError, match="no rows of 3"):
        unpack(pack(full(1)) | {"question_width": 3})
    with pytest.raises(InputError, match="frames of 6 codes"):
        unpack(pack(row(1)) | {"answer_codes": [[1] * 6]})


def test_a_key_tells_samples_apart_by_their_contents() -> None:
    one = keyed(row(1))
    assert keyed(row(1, voice="another")).key == one.key
    assert len({one.key, keyed(row(2)).key, keyed(row(1, sha256="f")).key, keyed(row(1), 1).key}) == 4


def test_shards_come_back_whole_and_by_column(tmp_path: Path) -> None:
    write_shard([full(i) for i in range(3)], shard(tmp_path, 0))
    write_shard([row(i) for i in range(3, 5)], shard(tmp_path, 1))
    rows = list(read_rows(tmp_path))
    assert [r.key for r in rows] == [f"toy/{i}" for i in range(5)]
    assert torch.equal(rows[2].answer_codes, full(2).answer_codes)
    light = list(read_rows(tmp_path, ["answer_text", "question_features"]))
    assert light[0].answer_text == "yes"
    assert light[0].question_features.shape == (7, 4)
    assert light[0].question_text == ""
    assert [c["key"] for c in read_columns(tmp_path, "key")] == [r.key for r in rows]
    assert not list(tmp_path.glob("*.part"))
    with pytest.raises(OmniError, match="omni2 data build"):
        list(read_rows(tmp_path / "nothing"))


def test_the_manifest_counts_and_hashes(tmp_path: Path) -> None:
    write_shard([full(i) for i in range(3)], shard(tmp_path, 0))
    write_shard([Row("a", "listen", "own", "CC0", voice="x", label="irq", question_seconds=3600)], shard(tmp_path, 1))
    manifest = summarise(tmp_path)
    assert manifest == json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["rows"] == 4
    assert manifest["hours"] == {"questions": pytest.approx(1 + 4.5 / 3600, abs=1e-4), "answers": 0.0004}
    assert manifest["tasks"] == {"answer": 3, "listen": 1}
    assert manifest["licences"] == {"CC0": 1, "MIT": 3}
    assert manifest["voices"] == {"someone": 3, "x": 1}
    assert manifest["labels"] == {"irq": 1}
    assert [one["sha256"] for one in manifest["shards"]] == [digest(shard(tmp_path, i)) for i in (0, 1)]
    write_shard([row(9)], shard(tmp_path, 2))
    assert summarise(tmp_path)["rows"] == read_manifest(tmp_path)["rows"] == 5
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        read_manifest(tmp_path)


def test_streams_shuffle_split_and_resume(tmp_path: Path) -> None:
    for number in range(2):
        write_shard([full(10 * number + i) for i in range(4)], shard(tmp_path, number))
    keys = [f"toy/{i}" for i in (0, 1, 2, 3, 10, 11, 12, 13)]
    assert [c["key"] for c in stream(tmp_path)] == keys
    first, again = ([c["key"] for c in stream([tmp_path], seed=3)] for _ in range(2))
    assert first == again != keys
    assert sorted(first) == sorted(keys)
    shares = [[c["key"] for c in stream(tmp_path, seed=3, rank=rank, world=2)] for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == sorted(keys)
    assert torch.equal(unpack(next(iter(stream(tmp_path)))).question_features, full(0).question_features)
    with pytest.raises(OmniError, match="no shards"):
        stream(tmp_path / "nothing")


def test_flac_keeps_samples_and_rate() -> None:
    wave = np.random.default_rng(0).uniform(-1, 1, 5000).astype(np.float32)
    again, rate = read_sound(flac(wave, 24_000))
    assert rate == 24_000
    assert again.dtype == np.float32
    np.testing.assert_allclose(again, wave, atol=2 / 32768)
    with pytest.raises(InputError, match="no sound file"):
        read_sound(b"nothing of the kind")
