"""Question shards: every text is said as often as asked for, also when a run was cut or the corpus has grown."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import HEARD

from omni2.encoder import AudioEncoder, frames_of
from omni2.errors import OmniError
from omni2.train.data import shards


class Tone:
    """A voice whose pitch tells the text's length."""

    def say(self, text: str) -> tuple[np.ndarray, int]:
        return np.sin(np.arange(8000) * (0.05 + 0.01 * len(text))).astype(np.float32) * 0.3, 16_000


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = AudioEncoder(80, 1500, HEARD, 2, 1).eval()
    monkeypatch.setattr(shards, "voice", lambda name: Tone())
    monkeypatch.setattr(shards, "load_tiny", lambda: encoder)
    monkeypatch.setattr(shards, "SIZE", 4)


def test_each_text_is_said_as_often_as_asked_for(tmp_path: Path):
    texts = [f"question {i}" for i in range(7)]
    shards.build_questions(texts, tmp_path, passes=2)
    spoken = shards.read_questions(tmp_path)
    assert Counter(s.text for s in spoken) == dict.fromkeys(texts, 2)
    assert all(s.features.dtype == torch.float16 and s.features.shape[1] == HEARD for s in spoken)
    assert all(frames_of(6000) <= len(s.features) <= frames_of(32_000) for s in spoken)


def test_a_cut_run_and_a_grown_corpus_add_only_what_lacks(tmp_path: Path):
    texts = [f"question {i}" for i in range(6)]
    shards.build_questions(texts, tmp_path, passes=1)
    files = sorted(tmp_path.iterdir())
    kept, lost = files[0].read_bytes(), files[-1]
    lost.unlink()
    shards.build_questions([*texts, "a new one"], tmp_path, passes=1)
    assert Counter(s.text for s in shards.read_questions(tmp_path)) == dict.fromkeys([*texts, "a new one"], 1)
    assert files[0].read_bytes() == kept
    before = sorted(tmp_path.iterdir())
    shards.build_questions([*texts, "a new one"], tmp_path, passes=1)
    assert sorted(tmp_path.iterdir()) == before


def test_an_empty_folder_says_what_to_do(tmp_path: Path):
    with pytest.raises(OmniError, match="omni2 data questions"):
        shards.read_questions(tmp_path)
