"""Questions of every kind and their answers, streamed and whole; models saved and loaded."""

import gc
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toys import LAYOUT, features, photo, tiny_bundle, tiny_model, tone, write_tone
from turns import TURNS, expected, first_model, together, told

from omni2 import Chunk, OmniModel, Sampling
from omni2.audio import to_waveform
from omni2.errors import BusyError, CheckpointError
from omni2.omni import AnswerStream
from omni2.tokens import DelayLine
from omni2.vision import load_picture
from omni2.words import BROKEN


@pytest.fixture(scope="module")
def model() -> OmniModel:
    return tiny_model()


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


@pytest.mark.parametrize("turn", ["spoken", "typed", "picture and sound", "drawn"])
@pytest.mark.parametrize(("first", "later"), [(1, 4), (1, 1), (3, 7)])
def test_streamed_sound_is_the_offline_decode_of_all_frames(
    model: OmniModel, turn: str, first: int, later: int
) -> None:
    submit, steps = model.engine.submit, []

    class Watched:
        def __init__(self, *arguments: Any) -> None:  # noqa: ANN401
            self.inner = submit(*arguments)
            self.close, self.sounded = self.inner.close, self.inner.sounded

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
