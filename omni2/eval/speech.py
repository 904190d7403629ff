"""How well a model's speech is understood: its answers against their own text, and sentences it is given to read."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from omni2.eval.asking import Wave, together
from omni2.eval.questions import Result as Reply
from omni2.eval.recognise import Ear, missed, recogniser, wer
from omni2.eval.report import Figure, Table, by, share
from omni2.eval.transcription import sentences
from omni2.omni import OmniModel
from omni2.train.data.reserved import new_sentences
from omni2.train.data.sound import trim

Kind = Literal["answer", "new", "sentences"]
READ: dict[Kind, str] = {
    "new": "reading new sentences of its answers' words",
    "sentences": "reading unseen everyday sentences",
}

PACE = 14.5  # letters a second of the answer voice; 65 sentences lay between 0.84 and 1.25 of that
CUT, RUNAWAY = 0.7, 1.5  # times the time a sentence should take: what is shorter was cut, what is longer ran away
SHORT, LONG = range(1, 16), range(16, 31)  # words; the lengths that figures of the released models are known for
WORST = 12  # words named


@dataclass(frozen=True)
class Result:
    """A text, how many seconds its speech lasts without silence at its ends, and what the recogniser heard."""

    kind: Kind
    text: str
    seconds: float
    heard: str

    @property
    def pace(self) -> float:
        """How long it is, as a multiple of what its letters should take."""
        return self.seconds * PACE / max(len(re.sub(r"\W", "", self.text)), 1)


def listen_to(replies: Sequence[Reply], rate: int, ear: Ear | None = None) -> list[Result]:
    """Have spoken answers, with sound at `rate` Hz, written down by the recogniser."""
    ears = ear or recogniser()
    said = [one for one in replies if one.reply.strip()]
    return together(lambda one: _heard("answer", one.reply, one.sound, rate, ears), said, "listening to answers")


def read(model: OmniModel, n: int, ear: Ear | None = None) -> list[Result]:
    """Let the model read aloud `n` sentences of both kinds.

    Raises AbilityError if the model never learned to, OmniError if the dictionary is not installed.
    """
    ears = ear or recogniser()
    everyday = [text for texts in sentences(n).values() for text in texts]
    texts: list[tuple[Kind, str]] = [("new", text) for text in new_sentences()[:n]]
    texts += [("sentences", text) for text in everyday]

    def one(asked: tuple[Kind, str]) -> Result:
        kind, text = asked
        return _heard(kind, text, model.speak(text).audio, model.sample_rate, ears)

    return together(one, texts, "reading aloud")


def answers_table(results: Sequence[Result]) -> Table:
    """Word error rates of all answers, of short and of long ones; the words most often misheard as a note."""
    if not results:
        return Table([], ["no answer has words to listen to"])
    figures = [_rate("speech.all", "speech of answers against their own text: WER", results)]
    for key, name, words in (("short", "15 words or fewer", SHORT), ("long", "16 to 30 words", LONG)):
        if ones := [one for one in results if len(one.text.split()) in words]:
            figures.append(_rate(f"speech.{key}", f"… answers of {name}: WER", ones))
    return Table(figures, [f"speech of answers: {line}" for line in _worst(results)], wrong(results))


def reading_table(results: Sequence[Result]) -> Table:
    """Word error rate of each kind, and the shares that were cut or ran away."""
    figures, notes = [], []
    for kind, ones in by(results, lambda one: one.kind).items():
        what = READ[ones[0].kind]
        figures += [
            _rate(f"tts.{kind}", f"{what}: WER", ones),
            Figure(f"tts.{kind}.cut", f"{what}: cut short", share([one.pace < CUT for one in ones]), "%", len(ones)),
            Figure(
                f"tts.{kind}.runaway", f"{what}: ran on", share([one.pace > RUNAWAY for one in ones]), "%", len(ones)
            ),
        ]
        notes += [f"{what}: {line}" for line in _worst(ones)]
    return Table(figures, notes, wrong(results))


def wrong(results: Sequence[Result]) -> Iterator[str]:
    """Every text that was not heard word for word."""
    for one in results:
        if wer([one.text], [one.heard]):
            yield f"{one.kind}, {one.pace:.1f} times the length: {one.text} → {one.heard}"


def _heard(kind: Kind, text: str, sound: Wave, rate: int, ears: Ear) -> Result:
    voiced = trim(sound, rate)
    return Result(kind, text, voiced.size / rate, ears.transcribe(sound, rate) if voiced.size else "")


def _rate(key: str, what: str, results: Sequence[Result]) -> Figure:
    rate = 100 * wer([one.text for one in results], [one.heard for one in results])
    return Figure(key, what, rate, "%", len(results))


def _worst(results: Sequence[Result]) -> list[str]:
    """The words most often missed, as a line; none if all were heard."""
    lost, said = missed([one.text for one in results], [one.heard for one in results])
    worst: Counter[str] = Counter(lost)
    if not worst:
        return []
    return ["words missed most: " + ", ".join(f"{word} {n} of {said[word]}" for word, n in worst.most_common(WORST))]
