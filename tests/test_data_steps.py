"""The steps of building: text becomes speech, speech and pictures become features and codes."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from building import same, samples, stand_in
from toys import HEARD, LAYOUT, photo, tone

from omni2.encoder import frames_of
from omni2.errors import InputError
from omni2.train.data.encode import Encode
from omni2.train.data.pipeline import make
from omni2.train.data.schema import Row, pack
from omni2.train.data.sound import flac
from omni2.train.data.speak import Speak, draw_voice
from omni2.train.data.store import read_rows
from omni2.train.data.voices import TRAINING


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)


def test_text_becomes_speech_then_features_and_codes(toys: None, tmp_path: Path) -> None:
    manifest = make(samples(5), tmp_path / "sound", [Speak(("hibari", "espeak-us"), "hibari")], size=2)
    assert manifest["rows"] == 5
    spoken = list(read_rows(tmp_path / "sound"))
    assert {row.voice for row in spoken} <= {"hibari", "espeak-us"}
    assert all(row.question_audio and row.answer_audio and row.question_seconds > 0.3 for row in spoken)
    make(read_rows(tmp_path / "sound"), tmp_path / "features", [Encode("toy")], size=3)
    for row, sound in zip(read_rows(tmp_path / "features"), spoken, strict=True):
        assert row.key == sound.key
        assert row.question_features.shape == (frames_of(round(row.question_seconds * 16_000)), HEARD)
        assert row.question_features.dtype == torch.float16
        assert row.answer_codes.shape[1] == 7
        assert row.answer_codes.max() < LAYOUT.codebook_size
        assert row.question_audio is row.answer_audio is None
    make(samples(5), tmp_path / "once", [Speak(("hibari", "espeak-us"), "hibari"), Encode("toy")], size=4)
    assert same(list(read_rows(tmp_path / "once")), list(read_rows(tmp_path / "features")))


def test_each_task_gets_the_sounds_it_needs(toys: None) -> None:
    step = Speak(("hibari",), "hibari", augmented=False)
    text = {"question_text": "hello", "answer_text": "hello"}
    assert step(Row("a", "transcribe", "s", "MIT", question_text="hello")).answer_audio is None
    read = step(Row("b", "read", "s", "MIT", **text))
    assert (read.question_audio, read.voice) == (None, "hibari")
    assert read.answer_audio is not None
    typed = Speak((), None)(Row("c", "answer", "s", "MIT", **text))
    assert typed == Row("c", "answer", "s", "MIT", **text)
    recorded = Row(
        "d", "transcribe", "s", "MIT", voice="x", question_text="hello", question_audio=flac(tone(0.5), 16_000)
    )
    assert step(recorded).voice == "x"
    assert step(recorded).question_seconds == pytest.approx(0.5)
    coded = Row("e", "answer", "s", "MIT", **text, answer_codes=torch.zeros(2, 7, dtype=torch.int64))
    assert step(coded).answer_audio is None


def test_pictures_become_features(toys: None) -> None:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(photo()).save(out, "PNG")
    row = Encode("toy")(Row("a", "see", "s", "MIT", answer_text="a cat", picture=out.getvalue()))
    assert row.picture is None
    assert row.picture_features.dtype == torch.float16
    assert Encode("toy", keep=True)(Row("a", "see", "s", "MIT", picture=out.getvalue())).picture == out.getvalue()
    with pytest.raises(InputError, match="not a picture"):
        Encode("toy")(Row("a", "see", "s", "MIT", picture=b"no picture at all"))


def test_a_row_does_not_depend_on_its_neighbours(toys: None) -> None:
    step = Speak(TRAINING, None)
    rows = samples(6)
    alone = {row.key: pack(step(row)) for row in rows}
    assert {row.key: pack(step(row)) for row in reversed(rows)} == alone
    other = replace(step, seed=1)
    assert sum(pack(other(row)) == alone[row.key] for row in rows) == 0


def test_half_of_the_voices_are_natural_ones() -> None:
    rng = np.random.default_rng(0)
    names = ["hibari", *(f"espeak-{i}" for i in range(9))]
    drawn = Counter(draw_voice(names, rng) for _ in range(1000))
    assert 480 < drawn["hibari"] < 620
    assert draw_voice(["espeak-us"], rng) == "espeak-us"
