"""What faster ways of computing change: int8 weights beside float32, one window of the encoder beside the other."""

from collections.abc import Sequence

from omni2.encoder import Window
from omni2.eval import transcription
from omni2.eval.asking import spoken, together
from omni2.eval.questions import Case
from omni2.eval.recognise import wer
from omni2.eval.report import Figure, Table, share
from omni2.omni import OmniModel
from omni2.train.data.questions import normalise


def replies(model: OmniModel, cases: Sequence[Case], window: Window | None = None) -> list[str]:
    """The text of the spoken answer to each question, through one window of the encoder or its own."""

    def one(case: Case) -> str:
        return normalise(model.answer(spoken(case.voice, case.question), window=window).text)

    return together(one, cases, "asking")


def written(model: OmniModel, cases: Sequence[transcription.Case]) -> float:
    """Word error rate in percent."""
    results = transcription.run(model, cases)
    return 100 * wer([one.case.text for one in results], [one.written for one in results])


def run(exact: OmniModel, fast: OmniModel, cases: Sequence[Case]) -> Table:
    """Answers unchanged by int8 and by the encoder's other window, in percent, and the difference in word error rate.

    `exact` has weights in float32, `fast` the same in int8.
    """
    own = exact.bundle.window
    other: Window = "exact" if own == "trimmed" else "trimmed"
    before, after, through = replies(exact, cases), replies(fast, cases), replies(exact, cases, other)
    changed = [
        f"{case.voice}: {case.question} → {old} | int8: {new}"
        for case, old, new in zip(cases, before, after, strict=True)
        if old != new
    ]
    heard = transcription.question_cases(cases)
    rates = written(exact, heard), written(fast, heard)
    same = share([old == new for old, new in zip(before, after, strict=True)])
    agreed = share([old == new for old, new in zip(before, through, strict=True)])
    n = len(cases)
    figures = [
        Figure("int8.unchanged", "answers unchanged by int8", same, "%", n),
        Figure(
            "int8.wer", "transcription of questions: WER with int8, less that with float32", rates[1] - rates[0], "%", n
        ),
        Figure("window.unchanged", f"answers unchanged by the {other} window (the model's own: {own})", agreed, "%", n),
    ]
    return Table(figures, wrong=changed)
