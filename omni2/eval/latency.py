"""How long one has to wait: for the model to load, for the first sound of an answer, for all of it."""

from collections.abc import Sequence
from statistics import median

from omni2.eval.asking import each, spoken
from omni2.eval.questions import Case
from omni2.eval.report import Figure, Table
from omni2.omni import OmniModel, Timings


def run(model: OmniModel, questions: Sequence[Case]) -> list[Timings]:
    """The times of the spoken answers, one after the other; the first question is asked once more to warm up."""
    sounds = [spoken(case.voice, case.question) for case in questions]
    return [model.answer(sound).timings for sound in each([*sounds[:1], *sounds], "timing answers")][1:]


def table(times: Sequence[Timings], loading: float | None = None) -> Table:
    """Medians; `loading` is how many seconds it took to load the model."""
    first = [1000 * one.first_audio for one in times if one.first_audio is not None]
    factors = [one.rtf for one in times if one.rtf is not None]
    figures = [] if loading is None else [Figure("latency.load", "load to ready", loading, "s")]
    if first and factors:
        what = "end of question to first sound, median"
        figures.append(Figure("latency.first", what, median(first), "ms", len(first)))
        figures.append(Figure("latency.rtf", "real-time factor, median", median(factors), count=len(factors)))
    return Table(figures, [] if first else ["no answer had a sound to wait for"])
