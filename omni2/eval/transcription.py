"""What a model writes down of questions, of everyday sentences, of a folder of recordings, against what was said."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omni2.audio import SAMPLE_RATE, to_waveform
from omni2.errors import InputError
from omni2.eval.asking import Wave, each, spoken, together
from omni2.eval.questions import Case as Question
from omni2.eval.recognise import Ear, wer
from omni2.eval.report import Figure, Table, by
from omni2.omni import OmniModel
from omni2.train.data.schema import Row
from omni2.train.data.sentences import definitions, examples, shuffled, split
from omni2.train.data.voices import RESERVED

ASIDE = "Whisper base on the same sounds"


@dataclass(frozen=True)
class Case:
    """Something said: the kind of text, the words, whose voice it is, and the sound (samples,) at 16 kHz."""

    kind: str
    text: str
    voice: str
    sound: Wave


@dataclass(frozen=True)
class Result:
    """What the model wrote, and what the recogniser did, if it was asked as well."""

    case: Case
    written: str
    recognised: str | None = None


def question_cases(questions: Sequence[Question]) -> list[Case]:
    """The sounds of `questions`."""
    return [
        Case("questions", one.question, one.voice, spoken(one.voice, one.question))
        for one in each(questions, "preparing questions")
    ]


def sentences(n: int) -> dict[str, list[str]]:
    """`n` everyday sentences that nothing was trained on: examples of use and definitions, half each.

    Raises OmniError if the dictionary is not installed.
    """
    return {"examples": split(examples())[1][: n - n // 2], "definitions": split(definitions())[1][: n // 2]}


def sentence_cases(n: int, seed: int = 0) -> list[Case]:
    """`n` of `sentences` in reserved voices."""
    rng = np.random.default_rng(seed)
    drawn = [(kind, text, str(rng.choice(RESERVED))) for kind, texts in sentences(n).items() for text in texts]
    return [Case(kind, text, voice, spoken(voice, text)) for kind, text, voice in each(drawn, "preparing sentences")]


def folder_cases(folder: Path, n: int) -> tuple[list[Case], int]:
    """`n` recordings of a folder laid out as LibriSpeech or LibriTTS, and how many more were drawn but cannot be used.

    Raises InputError: neither layout.
    """
    from omni2.train.data.readers import speech_folder

    found = list(speech_folder(folder))
    drawn = [found[int(i)] for i in shuffled(list(map(str, range(len(found)))), 0)[:n]]
    cases = []
    for row in drawn:
        if isinstance(row, Row) and row.question_audio is not None:
            try:
                cases.append(Case(folder.name, row.question_text, row.voice, to_waveform(row.question_audio)))
            except InputError:
                continue
    return cases, len(drawn) - len(cases)


def run(model: OmniModel, cases: Sequence[Case], ear: Ear | None = None) -> list[Result]:
    """Have everything written down, by `ear` too, if there is one.

    Raises AbilityError if the model never learned to.
    """

    def one(case: Case) -> Result:
        recognised = ear.transcribe(case.sound, SAMPLE_RATE) if ear is not None else None
        return Result(case, model.transcribe(case.sound), recognised)

    return together(one, cases, "writing down")


def table(results: Sequence[Result]) -> Table:
    """Word error rates of questions, of everyday sentences together and by kind, or of a folder."""
    groups = by(results, lambda one: one.case.kind)
    everyday = [*groups.get("examples", []), *groups.get("definitions", [])]
    figures = []
    for kind, ones in groups.items():
        detail = kind in ("examples", "definitions")
        figures += _rates(f"asr.{kind}", f"transcription, {kind}: WER", ones, detail)
    if everyday:
        figures += _rates("asr.sentences", "transcription, unseen everyday sentences: WER", everyday)
    for voice, ones in by(results, lambda one: one.case.voice).items():
        figures.append(_rate(f"asr.voice.{voice}", f"transcription, {voice}: WER", ones, True))
    return Table(figures, wrong=wrong(results))


def wrong(results: Sequence[Result]) -> Iterator[str]:
    """Every sentence that was not written down word for word."""
    for one in results:
        if wer([one.case.text], [one.written]):
            aside = "" if one.recognised is None else f" (Whisper base: {one.recognised})"
            yield f"{one.case.voice}: {one.case.text} → {one.written}{aside}"


def _rates(key: str, what: str, results: Sequence[Result], detail: bool = False) -> list[Figure]:
    """The model's rate, and the recogniser's where it wrote everything down as well."""
    figures = [_rate(key, what, results, detail)]
    recognised = [one.recognised for one in results if one.recognised is not None]
    if len(recognised) == len(results):
        aside = 100 * wer([one.case.text for one in results], recognised)
        figures.append(Figure(f"{key}.recogniser", f"{what}, {ASIDE}", aside, "%", len(results), True))
    return figures


def _rate(key: str, what: str, results: Sequence[Result], detail: bool = False) -> Figure:
    rate = 100 * wer([one.case.text for one in results], [one.written for one in results])
    return Figure(key, what, rate, "%", len(results), detail)
