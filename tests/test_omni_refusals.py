"""What cannot be answered is refused at the call, in one line."""

import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from toys import ABILITIES, photo, tiny_model, tone, write_tone
from turns import TURNS, expected, told

from omni2 import OmniModel, Sampling
from omni2.errors import AbilityError, ContextLengthError, InputError


@pytest.fixture(scope="module")
def model() -> OmniModel:
    return tiny_model()


def png_header(width: int, height: int) -> bytes:
    """A picture file of a few bytes that claims to be large."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    blocks = [struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(blocks)


def wav_bytes(tmp: str = "") -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return write_tone(Path(folder) / "a.wav").read_bytes()


def silent(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    return np.zeros(shape, np.float32)


BAD_SOUNDS: Mapping[str, object] = {
    "empty array": silent((0,)),
    "empty bytes": b"",
    "silent": silent((16_000,)),
    "too short": tone(0.01),
    "too long": tone(31.0),
    "NaN": np.where(np.arange(8000) == 5, np.nan, tone(0.5)),
    "infinite": np.where(np.arange(8000) == 5, np.inf, tone(0.5)),
    "rank 0": np.float32(0.5) * np.ones(()),
    "rank 3": silent((2, 3, 4000)),
    "two axes, both long": np.ones((100, 100), np.float32),
    "int8": np.ones(8000, np.int8),
    "complex": np.ones(8000, np.complex64),
    "text array": np.array(["a"] * 8000),
    "wrong scale": tone(0.5) * 20_000,
    "number": 5,
    "list": [0.1, 0.2],
    "no such file": "/nonexistent/question.wav",
    "folder": "/tmp",
    "text file": b"this is no sound at all" * 50,
    "picture file": png_header(8, 8),
    "cut wav": wav_bytes()[:30],
    "noise bytes": np.random.default_rng(0).bytes(5000),
}
BAD_PICTURES: Mapping[str, object] = {
    "empty bytes": b"",
    "corrupt": b"\x89PNG\r\n\x1a\n" + b"x" * 200,
    "cut": png_header(64, 64),
    "bomb": png_header(30_000, 30_000),
    "1x1": Image.new("RGB", (1, 1)),
    "strip": np.zeros((8, 1000, 3), np.uint8),
    "wrong rank": np.zeros((8,), np.uint8),
    "NaN": np.full((16, 16, 3), np.nan),
    "int64": np.zeros((16, 16, 3), np.int64),
    "number": 5,
    "no such file": "/nonexistent/photo.png",
    "sound file": wav_bytes(),
}
BAD_TURNS: dict[str, dict[str, object]] = {
    **{f"sound: {name}": {"audio": sound} for name, sound in BAD_SOUNDS.items()},
    **{f"picture: {name}": {"image": picture} for name, picture in BAD_PICTURES.items()},
    "nothing": {},
    "sound and text": {"audio": tone(), "text": "what"},
    "empty text": {"text": ""},
    "blank text": {"text": " \n\t"},
    "empty text and a picture": {"text": "", "image": photo()},
    "number as text": {"text": 5},
    "bytes as text": {"text": b"what"},
    "half a character": {"text": "what \ud83d"},
    "unknown reply": {"text": "what", "reply": "song"},
    "unknown window": {"audio": tone(), "window": "round"},
    "rate 0": {"audio": tone(), "rate": 0},
    "negative rate": {"audio": tone(), "rate": -16_000},
    "NaN rate": {"audio": tone(), "rate": float("nan")},
    "no first chunk": {"text": "what", "first_chunk_frames": 0},
    "chunks that shrink": {"text": "what", "first_chunk_frames": 5, "chunk_frames": 4},
    "seed of 65 bits": {"text": "what", "sampling": Sampling(seed=2**64)},
}


@pytest.mark.parametrize("name", BAD_TURNS)
def test_bad_input_fails_at_the_call_in_one_line_and_leaves_the_model_usable(model: OmniModel, name: str) -> None:
    with pytest.raises(InputError) as caught:
        model.stream(**BAD_TURNS[name])  # type: ignore[arg-type]
    assert type(caught.value) is InputError
    assert str(caught.value)
    assert "\n" not in str(caught.value)
    assert model.engine.live == 0
    assert told(model.answer(**TURNS["drawn"])) == expected("drawn")


@pytest.mark.parametrize(
    "turn",
    [{"text": "what is " * 200}, {"text": "word " * 20_000}, {"audio": tone(20.0)}, {"audio": tone(30.0)}],
    ids=["long text", "very long text", "20 s", "30 s"],
)
def test_turns_longer_than_the_context_fail_at_the_call(model: OmniModel, turn: dict[str, Any]) -> None:
    with pytest.raises(ContextLengthError, match="64"):
        model.stream(**turn)
    with pytest.raises(ContextLengthError):
        model.stream(text="what is there", sampling=Sampling(max_tokens=3))
    assert told(model.answer(**TURNS["drawn"])) == expected("drawn")


def test_bad_input_to_the_other_calls(model: OmniModel) -> None:
    for sound in BAD_SOUNDS.values():
        with pytest.raises(InputError):
            model.transcribe(sound)  # type: ignore[arg-type]
    for text in ("", "  ", None, 7, "\udcff"):
        with pytest.raises(InputError):
            model.speak(text)  # type: ignore[arg-type]
        with pytest.raises(InputError):
            model.read_aloud(text)  # type: ignore[arg-type]
    with pytest.raises(ContextLengthError):
        model.speak("what is " * 200)
    assert told(model.answer(**TURNS["drawn"])) == expected("drawn")


@pytest.mark.parametrize(
    ("ability", "ask"),
    [
        ("answer", lambda model: model.stream(text="what")),
        ("answer", lambda model: model.stream(tone())),
        ("see", lambda model: model.stream(image=photo())),
        ("see", lambda model: model.stream(tone(), image=photo())),
        ("transcribe", lambda model: model.transcribe(tone())),
        ("speak", lambda model: model.speak("what")),
        ("speak", lambda model: model.read_aloud("what")),
    ],
)
def test_what_was_never_learned_is_refused_at_the_call(ability: str, ask: Callable[[OmniModel], object]) -> None:
    model = tiny_model(abilities=ABILITIES - {ability})
    assert model.abilities == ABILITIES - {ability}
    with pytest.raises(AbilityError, match=ability) as caught:
        ask(model)
    assert all(known in str(caught.value) for known in model.abilities)
    assert model.engine.live == 0
