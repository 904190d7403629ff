import gc
import io
import struct
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from toys import ABILITIES, LAYOUT, features, photo, tiny_bundle, tiny_model, tone, write_tone

from omni2 import Answer, Chunk, OmniModel, Pick, Sampling
from omni2.audio import to_waveform
from omni2.errors import AbilityError, BusyError, CheckpointError, ContextLengthError, InputError
from omni2.omni import AnswerStream
from omni2.tokens import DelayLine
from omni2.vision import load_picture
from omni2.words import BROKEN

HOT = Pick(2.0)
TURNS: dict[str, dict[str, Any]] = {
    "spoken": {"audio": tone()},
    "spoken, text": {"audio": tone(), "reply": "text"},
    "typed": {"text": "what is there"},
    "typed, text": {"text": "hello", "reply": "text"},
    "picture": {"image": photo()},
    "picture, text": {"image": photo(), "reply": "text"},
    "picture and sound": {"image": photo(), "audio": tone()},
    "picture and sound, text": {"image": photo(), "audio": tone(), "reply": "text"},
    "picture and text": {"image": photo(), "text": "what is it"},
    "picture and text, text": {"image": photo(), "text": "what is it", "reply": "text"},
    "drawn": {"text": "the cat", "sampling": Sampling(HOT, HOT, seed=4)},
}


@pytest.fixture(scope="module")
def model() -> OmniModel:
    return tiny_model()


@cache
def first_model() -> OmniModel:
    return tiny_model()


@cache
def expected(turn: str) -> tuple[str, bytes, str]:
    return told(first_model().answer(**TURNS[turn]))


def told(answer: Answer) -> tuple[str, bytes, str]:
    """What of an answer must be the same each time."""
    return answer.text, answer.audio.tobytes(), answer.finish_reason


def together(chunks: list[Chunk]) -> tuple[str, bytes, str | None]:
    audio = np.concatenate([chunk.audio for chunk in chunks])
    return "".join(chunk.text for chunk in chunks), audio.tobytes(), chunks[-1].finish_reason


# ---- turns


@pytest.mark.parametrize("turn", TURNS)
def test_chunks_of_a_stream_make_the_answer(model: OmniModel, turn: str) -> None:
    chunks = list(model.stream(**TURNS[turn]))
    assert together(chunks) == expected(turn)
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason in ("end", "length")
    for chunk in chunks:
        assert chunk.audio.dtype == np.float32
        assert chunk.audio.ndim == 1
        assert np.abs(chunk.audio).max(initial=0) <= 1
        assert chunk.text or chunk.audio.size or chunk.finish_reason
    if TURNS[turn].get("reply") == "text":
        assert sum(chunk.audio.size for chunk in chunks) == 0
    assert model.engine.live == 0


def test_the_turns_are_worth_testing_with() -> None:
    answers = [expected(turn) for turn in TURNS]
    assert len({*answers}) == len(TURNS)
    assert {reason for _, _, reason in answers} == {"end", "length"}
    assert any(len(audio) > 20_000 for _, audio, _ in answers)
    assert len(list(first_model().stream(**TURNS["spoken"]))) > 3


def test_each_kind_of_turn_is_prompted_as_such(model: OmniModel, monkeypatch: pytest.MonkeyPatch) -> None:
    submit, seen = model.engine.submit, []
    monkeypatch.setattr(
        model.engine, "submit", lambda prompt, sampling: (seen.append(prompt), submit(prompt, sampling))[1]
    )
    build, bundle = model.prompts, model.bundle
    heard = bundle.audio_encoder.encode(to_waveform(tone()), "trimmed")
    assert bundle.vision_encoder is not None
    pictured = bundle.vision_encoder.encode(load_picture(photo()))
    ids = bundle.tokenizer.encode("the cat").ids
    wanted = [
        (lambda: model.answer(tone()), build.spoken(heard, "speech")),
        (lambda: model.answer(tone(), reply="text"), build.spoken(heard, "text")),
        (lambda: model.answer(text="the cat"), build.typed(ids, "speech")),
        (lambda: model.answer(text=" the cat\n", reply="text"), build.typed(ids, "text")),
        (lambda: model.answer(image=photo()), build.picture(pictured)),
        (lambda: model.answer(image=photo(), reply="text"), build.picture(pictured, reply="text")),
        (lambda: model.answer(tone(), image=photo()), build.picture(pictured, heard)),
        (lambda: model.answer(text="the cat", image=photo(), reply="text"), build.picture(pictured, None, ids, "text")),
        (lambda: model.transcribe(tone()), build.transcription(heard)),
        (lambda: model.speak("the cat"), build.reading(ids)),
    ]
    for number, (ask, prompt) in enumerate(wanted):
        ask()
        made = seen.pop()
        assert torch.equal(made.ids, prompt.ids), number
        assert (made.audio_out, made.paired) == (prompt.audio_out, prompt.paired), number
        assert len(made.spans) == len(prompt.spans)
        for mine, theirs in zip(made.spans, prompt.spans, strict=True):
            assert (mine.start, mine.modality) == (theirs.start, theirs.modality)
            assert torch.equal(mine.features, theirs.features)


def test_transcribe_and_speak(model: OmniModel) -> None:
    heard = model.transcribe(tone())
    assert heard == heard.strip()
    assert model.transcribe(tone()) == heard
    spoken = model.speak("the cat says")
    assert spoken.audio.size
    assert spoken.timings.audio == spoken.audio.size / 24_000
    assert told(model.read_aloud("the cat says").collect()) == told(spoken)


def test_all_forms_of_a_sound_are_the_same_question(model: OmniModel, tmp_path: Path) -> None:
    file = write_tone(tmp_path / "question.wav")
    steps = np.rint(tone() * 32767).astype(np.int16)
    forms: list[Any] = [file, str(file), file.read_bytes(), io.BytesIO(file.read_bytes()), steps]
    forms += [torch.from_numpy(steps), np.stack([steps, steps]), steps / 32768]
    answers = {told(model.answer(form)) for form in forms}
    assert len(answers) == 1
    double = np.repeat(steps, 2)
    assert model.answer(double, rate=32_000).audio.size


def test_all_forms_of_a_picture_are_the_same_question(model: OmniModel, tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    Image.fromarray(photo()).save(file)
    forms: list[Any] = [file, str(file), file.read_bytes(), Image.fromarray(photo())]
    assert {told(model.answer(image=form)) for form in forms} == {expected("picture")}


def test_the_window_changes_what_is_heard(model: OmniModel) -> None:
    assert told(model.answer(tone(), window="trimmed")) == expected("spoken")
    assert told(model.answer(tone(), window="exact")) != expected("spoken")


# ---- sound and words


@pytest.mark.parametrize("turn", ["spoken", "typed", "picture and sound", "drawn"])
@pytest.mark.parametrize(("first", "later"), [(1, 4), (1, 1), (3, 7)])
def test_streamed_sound_is_the_offline_decode_of_all_frames(
    model: OmniModel, turn: str, first: int, later: int
) -> None:
    submit, steps = model.engine.submit, []

    class Watched:
        def __init__(self, *arguments: Any) -> None:  # noqa: ANN401
            self.inner = submit(*arguments)
            self.close = self.inner.close

        def __next__(self) -> object:
            steps.append(next(self.inner))
            return steps[-1]

    model.engine.submit = Watched  # type: ignore[method-assign, assignment]
    try:
        chunks = list(model.stream(**TURNS[turn], first_chunk_frames=first, chunk_frames=later))
    finally:
        del model.engine.submit  # type: ignore[method-assign]
    line = DelayLine()
    frames = [frame for step in steps if (frame := line.push(step.codes)) and LAYOUT.is_frame(frame)]
    assert len(frames) > 8
    offline = model.bundle.codec.decode(torch.tensor(frames)).clamp(-1, 1).numpy()
    streamed = np.concatenate([chunk.audio for chunk in chunks])
    assert streamed.shape == offline.shape
    np.testing.assert_allclose(streamed, offline, atol=1e-4)
    sizes = [chunk.audio.size // model.bundle.codec.frame_size for chunk in chunks if chunk.audio.size]
    assert sizes[0] == first
    assert max(sizes[:-1], default=0) <= later
    assert together(chunks)[0] == expected(turn)[0]


def test_samples_are_clipped_not_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    decode = model.bundle.codec.decode
    monkeypatch.setattr(model.bundle.codec, "decode", lambda *args, **kwargs: 50 * decode(*args, **kwargs))
    loud = model.answer(text="what is there").audio
    quiet = np.frombuffer(expected("typed")[1], np.float32)
    assert np.abs(loud).max() == 1
    np.testing.assert_allclose(loud, np.clip(50 * quiet, -1, 1), atol=1e-2)


def test_words_come_in_pieces_before_the_end(model: OmniModel) -> None:
    chunks = list(model.stream(text="hello", reply="text"))
    assert len([chunk for chunk in chunks if chunk.text]) > 3
    ids = [step.text for step in model.engine.submit(model.prompts.typed(model.bundle.tokenizer.encode("hello").ids))]
    words = model.bundle.tokenizer.decode([token for token in ids if token is not None and token < LAYOUT.text_ids])
    assert "".join(chunk.text for chunk in chunks) == words


def test_an_answer_cut_within_a_character_keeps_its_last_piece(model: OmniModel) -> None:
    prompt, broken = model.prompts.typed(model.bundle.tokenizer.encode("hello").ids), 0
    for limit in range(len(prompt) + 1, len(prompt) + 15):
        sampling = Sampling(max_tokens=limit)
        ids = [step.text for step in model.engine.submit(prompt, sampling)]
        words = model.bundle.tokenizer.decode([token for token in ids if token is not None and token < LAYOUT.text_ids])
        answer = model.answer(text="hello", reply="text", sampling=sampling)
        assert (answer.text, answer.finish_reason) == (words, "length")
        broken += words.endswith(BROKEN)
    assert broken


def test_timings(model: OmniModel) -> None:
    spoken, written = model.answer(**TURNS["spoken"]).timings, model.answer(**TURNS["typed, text"]).timings
    assert spoken.first_text is not None
    assert spoken.first_audio is not None
    assert 0 < spoken.first_text < spoken.first_audio <= spoken.total
    assert spoken.rtf == spoken.total / spoken.audio
    assert (written.first_audio, written.audio, written.rtf) == (None, 0, None)


# ---- several at once, and leaving early


def test_interleaved_streams_answer_as_sequential_ones(model: OmniModel) -> None:
    for pair in (["spoken", "typed"], ["drawn", "picture and sound"], ["spoken, text", "drawn"]):
        streams = {turn: model.stream(**TURNS[turn]) for turn in pair}
        chunks: dict[str, list[Chunk]] = {turn: [] for turn in pair}
        while streams:
            for turn in [*streams]:
                chunk = next(streams[turn], None)
                if chunk is None:
                    del streams[turn]
                else:
                    chunks[turn].append(chunk)
        assert {turn: together(said) for turn, said in chunks.items()} == {turn: expected(turn) for turn in pair}


def by_close(stream: AnswerStream) -> None:
    stream.close()
    stream.close()
    assert list(stream) == []


def by_with(stream: AnswerStream) -> None:
    with pytest.raises(ZeroDivisionError), stream:
        raise ZeroDivisionError
    assert next(stream, None) is None


@pytest.mark.parametrize("read", [0, 2])
@pytest.mark.parametrize("leave", [by_close, by_with, None])
def test_leaving_early_frees_the_rows(leave: Callable[[AnswerStream], None] | None, read: int) -> None:
    model = tiny_model(slots=2)
    stream = model.stream(**TURNS["spoken"])
    assert model.engine.live == 1
    for _ in range(read):
        next(stream)
    with pytest.raises(BusyError):
        model.stream(**TURNS["spoken"])
    if leave:
        leave(stream)
    else:
        del stream
        gc.collect()
    assert model.engine.live == 0
    assert told(model.answer(**TURNS["spoken"])) == expected("spoken")


def test_a_codec_that_fails_frees_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(slots=2)

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(model.bundle.codec, "decode", fail)
        with pytest.raises(MemoryError):
            model.answer(**TURNS["spoken"])
    assert model.engine.live == 0
    assert told(model.answer(**TURNS["spoken"])) == expected("spoken")


# ---- what cannot be answered


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


# ---- saved and loaded


def test_a_saved_model_answers_the_same(model: OmniModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "toy")
    loaded = OmniModel.from_pretrained(tmp_path / "toy", slots=2)
    assert loaded.abilities == model.abilities
    assert (loaded.bundle.window, loaded.bundle.name, loaded.sample_rate) == ("trimmed", "the toy", 24_000)
    for turn in TURNS:
        assert told(loaded.answer(**TURNS[turn])) == expected(turn), turn
    assert loaded.transcribe(tone()) == model.transcribe(tone())
    assert told(OmniModel(tiny_bundle(seed=8)).answer(**TURNS["spoken"])) != expected("spoken")


def test_models_that_cannot_be_loaded_say_so_in_one_line(model: OmniModel, tmp_path: Path, monkeypatch: Any) -> None:  # noqa: ANN401
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model.save_pretrained(tmp_path / "toy")
    weights = tmp_path / "toy" / "model.safetensors"
    whole = weights.read_bytes()
    (tmp_path / "empty").mkdir()
    for name in ("no-such-model", tmp_path / "empty", tmp_path / "nowhere", ""):
        with pytest.raises(CheckpointError) as caught:
            OmniModel.from_pretrained(name)
        assert "\n" not in str(caught.value)
    for damaged in (whole[:-100], whole[:5], b"", whole[:8] + b"\0" * 100):
        weights.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            OmniModel.from_pretrained(tmp_path / "toy")
    weights.write_bytes(whole)
    assert told(OmniModel.from_pretrained(tmp_path / "toy").answer(**TURNS["typed"])) == expected("typed")


def test_features_of_the_toy_are_as_wide_as_its_encoder(model: OmniModel) -> None:
    assert model.bundle.audio_encoder.encode(tone(), "trimmed").shape == (16, features(1).shape[1])
