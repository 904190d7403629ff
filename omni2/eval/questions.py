"""Does the embedded model answer right?  Unseen phrasings, unseen voices, judged in text and by an independent ear."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from rich.progress import track

from omni2.audio import to_waveform
from omni2.eval.recognise import Recogniser, wer
from omni2.omni import OmniModel
from omni2.train.data.questions import Item, normalise
from omni2.train.data.voices import RESERVED, trim, voice


@dataclass(frozen=True)
class Case:
    """One question of the test: what is asked, in which voice, and the right answer."""

    topic: str
    question: str
    voice: str
    answer: str


@dataclass(frozen=True)
class Result:
    """What the model made of a case: its answers' texts by mode, its transcription, and what the recogniser heard."""

    case: Case
    spoken_reply: str
    text_reply: str
    typed_reply: str
    transcript: str
    heard: str
    first_audio: float | None
    rtf: float | None


def cases(items: Sequence[Item], unknown: Item, n: int, seed: int = 0) -> list[Case]:
    """`n` questions in scope, a quarter as many out of it: intents evenly, phrasings and reserved voices at random."""
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(items)) for _ in range(-(-n // len(items)))])[:n]
    picked = [items[i] for i in order] + [unknown] * (n // 4)
    return [Case(item.topic, str(rng.choice(item.test)), str(rng.choice(RESERVED)), item.answer) for item in picked]


def run(model: OmniModel, questions: Sequence[Case]) -> list[Result]:
    """Ask every case aloud (answered in speech and in text), typed, and for transcription."""
    recogniser = Recogniser("base")
    results = []
    for case in track(questions, description="asking"):
        sound, rate = voice(case.voice).say(case.question)
        wave = to_waveform(trim(sound, rate), rate)
        spoken = model.answer(wave)
        results.append(
            Result(
                case,
                spoken.text,
                model.answer(wave, reply="text").text,
                model.answer(text=case.question, reply="text").text,
                model.transcribe(wave),
                recogniser.transcribe(spoken.audio, model.sample_rate) if spoken.audio.size else "",
                spoken.timings.first_audio,
                spoken.timings.rtf,
            )
        )
    return results


def right(said: str, answer: str) -> bool:
    """Whether two answers are the same words."""
    return normalise(said) == normalise(answer)


def table(results: Sequence[Result]) -> dict[str, float]:
    """The figures: shares in percent, WER in percent."""
    inside = [r for r in results if r.case.topic != "unknown"]
    outside = [r for r in results if r.case.topic == "unknown"]
    unknown = outside[0].case.answer if outside else ""

    def share(hits: list[bool]) -> float:
        return 100 * sum(hits) / max(len(hits), 1)

    figures = {
        "questions in scope": float(len(inside)),
        "questions out of scope": float(len(outside)),
        "spoken question, spoken answer: right text %": share([right(r.spoken_reply, r.case.answer) for r in inside]),
        "spoken question, text answer: right %": share([right(r.text_reply, r.case.answer) for r in inside]),
        "typed question, text answer: right %": share([right(r.typed_reply, r.case.answer) for r in inside]),
        "out of scope, told so %": share([right(r.spoken_reply, unknown) for r in outside]),
        "in scope, told unknown %": share([right(r.spoken_reply, unknown) for r in inside]),
        "transcription of in-scope questions: WER %": 100
        * wer([r.case.question for r in inside], [r.transcript for r in inside]),
        "speech against its own text: WER %": 100 * wer([r.spoken_reply for r in results], [r.heard for r in results]),
        "end of question to first sound, median ms": 1000 * median([r.first_audio or 0.0 for r in results]),
        "real-time factor, median": median([r.rtf or 0.0 for r in results]),
    }
    for topic in dict.fromkeys(r.case.topic for r in inside):
        mine = [right(r.spoken_reply, r.case.answer) for r in inside if r.case.topic == topic]
        figures[f"  {topic} ({len(mine)}): right text %"] = share(mine)
    return figures
