"""Sound out of the server: files that other programs read, made piece by piece; telephone speech."""

import io
import wave

import av
import numpy as np
import numpy.typing as npt
import pytest

from omni2.audio import load_audio
from omni2.codec.stream import to_pcm16
from omni2.serve.sound import MEDIA_TYPES, FileWriter, from_g711, sound_file, to_g711

RATE = 24_000
LAWS = ["audio/pcmu", "audio/pcma"]
FILES = [form for form in MEDIA_TYPES if form != "pcm"]
TONE = (0.4 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)).astype(np.float32)


def pitch(samples: npt.NDArray[np.float32], rate: int) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples))


def in_pieces(form: str, size: int = 2_048) -> list[bytes]:
    writer = FileWriter(form, RATE)
    pieces = [writer.push(TONE[begin : begin + size]) for begin in range(0, len(TONE), size)]
    return [*pieces, writer.close()]


@pytest.mark.parametrize("form", FILES)
def test_a_file_made_in_pieces_is_read_by_other_programs(form: str) -> None:
    heard = load_audio(b"".join(in_pieces(form)))
    assert 2.0 <= len(heard) / 16_000 < 2.1
    assert pitch(heard, 16_000) == pytest.approx(440, abs=1)
    assert heard.std() == pytest.approx(TONE.std(), rel=0.1)


@pytest.mark.parametrize("form", MEDIA_TYPES)
def test_most_of_a_file_is_out_before_its_end(form: str) -> None:
    pieces = in_pieces(form)
    assert len(pieces[-1]) < sum(map(len, pieces)) / 2
    assert sum(map(len, pieces[: len(pieces) // 2])) > 0


@pytest.mark.parametrize("form", FILES)
def test_the_container_is_what_was_asked_for(form: str) -> None:
    with av.open(io.BytesIO(sound_file(TONE, form, RATE))) as container:
        names = {container.format.name, container.streams.audio[0].codec_context.name}
    assert any(form in name or (form == "wav" and "pcm" in name) for name in names)


def test_a_whole_wav_file_knows_its_length() -> None:
    with wave.open(io.BytesIO(sound_file(TONE, "wav", RATE))) as file:
        assert (file.getnframes(), file.getframerate(), file.getnchannels()) == (len(TONE), RATE, 1)
        assert file.readframes(len(TONE)) == to_pcm16(TONE)


def test_pcm_has_no_header() -> None:
    for form in ("pcm", "pcm16"):
        assert b"".join(in_pieces(form)) == sound_file(TONE, form, RATE) == to_pcm16(TONE)


@pytest.mark.parametrize("form", MEDIA_TYPES)
def test_an_answer_without_sound_is_still_a_file(form: str) -> None:
    nothing = np.zeros(0, np.float32)
    assert isinstance(sound_file(nothing, form, RATE), bytes)


@pytest.mark.parametrize(
    ("law", "known"),
    [
        ("audio/pcmu", {0xFF: 0, 0x80: 32_124, 0x00: -32_124, 0xF0: 120, 0x6F: -132}),
        ("audio/pcma", {0xD5: 8, 0x55: -8, 0xAA: 32_256, 0x2A: -32_256, 0x80: 5_504}),
    ],
)
def test_g711s_levels(law: str, known: dict[int, int]) -> None:
    levels = from_g711(bytes(known), law) * 32_768
    assert levels.tolist() == [*known.values()]


@pytest.mark.parametrize("law", LAWS)
def test_g711_picks_the_nearest_level(law: str) -> None:
    every = from_g711(bytes(range(256)), law)
    assert (from_g711(to_g711(every, law), law) == every).all()
    back = from_g711(to_g711(TONE, law), law)
    assert np.abs(back - TONE).max() < 0.03
    loud = np.array([-2, 2], np.float32)
    assert np.abs(from_g711(to_g711(loud, law), law)).min() > 0.97
