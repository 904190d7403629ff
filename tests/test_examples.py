"""The examples run as they are given to newcomers; those that need the shipped weights are skipped without them."""

import os
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omni2.hub import NANO_FOLDER

EXAMPLES = Path(__file__).parents[1] / "examples"
PROGRAMS = ("ask.py", "describe_image.py", "duplex.py", "stream_to_speaker.py")
CLIENTS = ("chat_client.py", "openai_client.py", "terminal_client.py")  # run in tests/test_client.py
RECORDINGS = {"capital": "paris", "addition": "twelve", "week": "seven days", "identity": "omni"}

NO_SOUND_CARD = "raise ImportError('nothing to play on')\n"
SOUND_CARD = """
import numpy as np

class OutputStream:
    def __init__(self, samplerate, channels, dtype):
        self.parts, self.form = [], (samplerate, channels, dtype)
    def __enter__(self):
        return self
    def __exit__(self, *error):
        np.save("played.npy", np.concatenate(self.parts))
    def write(self, samples):
        assert samples.dtype == self.form[2] and self.form == (24000, 1, "float32")
        self.parts.append(samples)
"""

needs_nano = pytest.mark.skipif(not NANO_FOLDER.is_dir(), reason="the shipped weights are not there")


def run(folder: Path, program: str, *arguments: str, sounddevice: str = "") -> subprocess.CompletedProcess[str]:
    """Run an example in `folder`, with a `sounddevice` module of that text if one is given."""
    if sounddevice:
        (folder / "sounddevice.py").write_text(sounddevice)
    env = os.environ | {"PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, str(EXAMPLES / program), *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)


def read(path: Path) -> tuple[tuple[int, int, int], np.ndarray]:
    """(channels, bytes a sample, rate) and the samples of a wav file."""
    with wave.open(str(path)) as file:
        form = (file.getnchannels(), file.getsampwidth(), file.getframerate())
        return form, np.frombuffer(file.readframes(file.getnframes()), "<i2")


def test_examples_are_short_and_listed():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*PROGRAMS, *CLIENTS}
    told = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in (*EXAMPLES.glob("*.py"), *EXAMPLES.glob("audio/*"), *EXAMPLES.glob("pictures/*")):
        assert path.name in told
    for program in (*PROGRAMS, *CLIENTS):
        assert len((EXAMPLES / program).read_text(encoding="utf-8").splitlines()) < 40


def test_recordings_and_the_picture_are_what_they_are_said_to_be():
    assert {path.stem for path in EXAMPLES.glob("audio/*.wav")} == set(RECORDINGS)
    for name in RECORDINGS:
        form, samples = read(EXAMPLES / "audio" / f"{name}.wav")
        assert form == (1, 2, 16_000)
        assert 0.5 < len(samples) / 16_000 < 4
        assert 0.3 < np.abs(samples.astype(int)).max() / 32768 < 0.99
    picture = EXAMPLES / "pictures" / "apple.png"
    assert picture.stat().st_size < 20_000
    assert Image.open(picture).convert("RGB").getpixel((192, 250))[0] > 180


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_an_unknown_model_is_one_line_and_status_1(program, tmp_path):
    done = run(tmp_path, program, "--model", "no such model")
    assert done.returncode == 1
    assert done.stderr.startswith(f"{program}: no model 'no such model'")
    assert done.stderr.count("\n") == 1


@needs_nano
@pytest.mark.assets
@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDINGS)
def test_ask(name, tmp_path):
    done = run(tmp_path, "ask.py", str(EXAMPLES / "audio" / f"{name}.wav"))
    assert done.returncode == 0, done.stderr
    assert RECORDINGS[name] in done.stdout.lower().partition("answer:")[2].splitlines()[0]
    assert "first sound after" in done.stdout
    form, samples = read(tmp_path / "answer.wav")
    assert form == (1, 2, 24_000)
    assert 0.5 < len(samples) / 24_000 < 10
    assert np.abs(samples.astype(int)).max() > 1000


@needs_nano
@pytest.mark.assets
@pytest.mark.slow
def test_stream_to_speaker_plays_what_it_would_save(tmp_path):
    saved = run(tmp_path, "stream_to_speaker.py", "--save", "saved.wav", sounddevice=NO_SOUND_CARD)
    played = run(tmp_path, "stream_to_speaker.py", sounddevice=SOUND_CARD)
    assert (saved.returncode, played.returncode) == (0, 0), saved.stderr + played.stderr
    assert saved.stdout == played.stdout != "\n"
    form, samples = read(tmp_path / "saved.wav")
    assert form == (1, 2, 24_000)
    heard = np.load(tmp_path / "played.npy")
    assert len(heard) == len(samples)
    assert np.abs(heard - samples / 32767).max() < 1e-3


@needs_nano
@pytest.mark.assets
@pytest.mark.slow
def test_stream_to_speaker_says_what_to_do_without_a_speaker(tmp_path):
    done = run(tmp_path, "stream_to_speaker.py", sounddevice=NO_SOUND_CARD)
    assert done.returncode == 1
    assert done.stderr == "no speaker (nothing to play on): pip install sounddevice, or give --save answer.wav\n"


@needs_nano
@pytest.mark.assets
@pytest.mark.slow
def test_describe_image_describes(tmp_path):
    done = run(tmp_path, "describe_image.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("I see ")
