"""Every evaluation by its name, with what it works on; `omni2 eval all` runs them one after the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from omni2.eval import codec, duplex, interruption, latency, questions, speech, transcription, vision
from omni2.eval.recognise import recogniser
from omni2.eval.report import Table, joined
from omni2.omni import OmniModel
from omni2.train.data.questions import Item, corpus


@dataclass(frozen=True)
class Sizes:
    """How much is measured; the defaults are those of the single commands."""

    questions: int = 300  # in scope
    sentences: int = 200  # to write down, and of each kind to read aloud
    answers: int = 150  # listened to
    things: int | None = None  # drawn; None is all
    orders: int = 48  # to stop, at each level of babble
    minutes: float = 60.0  # of other speech
    timed: int = 15  # answers
    scenes: int = 20  # of every kind of conversation, turns more often
    coded: int = 40  # sentences
    aside: bool = True  # have the recogniser write down what the model does

    def limited(self, limit: int) -> "Sizes":
        """The same with nothing larger than `limit` (and a minute of other speech for every ten)."""
        return Sizes(
            questions=min(self.questions, limit),
            sentences=min(self.sentences, limit),
            answers=min(self.answers, limit),
            things=limit if self.things is None else min(self.things, limit),
            orders=min(self.orders, limit),
            minutes=min(self.minutes, max(limit / 10, 0.5)),
            timed=min(self.timed, limit),
            scenes=min(self.scenes, limit),
            coded=min(self.coded, limit),
            aside=self.aside,
        )


QUICK = Sizes(100, sentences=40, answers=60, timed=9, scenes=20, coded=20, aside=False)  # for `all`


@dataclass
class Session:
    """A model under evaluation: how long it took to load (None: not known), and what its evaluations share.

    `items` are the scope it is asked about.
    """

    model: OmniModel
    sizes: Sizes = field(default_factory=Sizes)
    loading: float | None = None
    items: Sequence[Item] = field(default_factory=corpus)
    _asked: questions.Asked | None = None

    def asked(self) -> questions.Asked:
        """The questions with their answers, asked once."""
        if self._asked is None:
            self._asked = questions.ask_all(self.model, self.sizes.questions, self.items)
        return self._asked

    def replies(self, n: int) -> list[questions.Result]:
        """`n` spoken answers; those of `asked`, if they are there."""
        if self._asked is None:
            return questions.ask(self.model, questions.cases(self.items, n), "speech")
        return self._asked.of("speech")[:n]


def qa(session: Session) -> Table:
    """Right answers."""
    return questions.table(session.asked(), session.model)


def asr(session: Session) -> Table:
    """Transcription of questions and of everyday sentences."""
    n, ear = session.sizes.sentences, recogniser() if session.sizes.aside else None
    cases = transcription.question_cases(questions.cases(session.items, n)) + transcription.sentence_cases(n)
    return transcription.table(transcription.run(session.model, cases, ear))


def tts(session: Session) -> Table:
    """Reading aloud."""
    return speech.reading_table(speech.read(session.model, session.sizes.sentences))


def answers(session: Session) -> Table:
    """Speech of answers against their own text."""
    replies = session.replies(session.sizes.answers)
    return speech.answers_table(speech.listen_to(replies, session.model.sample_rate))


def see(session: Session) -> Table:
    """Drawings and photographs."""
    shown = [*vision.cases(session.sizes.things), *vision.photographs()]
    return vision.table(vision.run(session.model, shown))


def stop(session: Session) -> Table:
    """The stop command."""
    sizes = session.sizes
    results = interruption.run(session.model, interruption.cases(sizes.orders))
    stops = interruption.false_stops(session.model, interruption.other_speech(sizes.minutes))
    return interruption.table(results, stops, sizes.minutes)


def talking(session: Session) -> Table:
    """Conversation in both directions."""
    return duplex.table(duplex.run(session.model, duplex.scenes(session.sizes.scenes, session.items)))


def coding(session: Session) -> Table:
    """The codec."""
    return codec.table(codec.run(session.model.bundle.codec, session.sizes.coded))


def waiting(session: Session) -> Table:
    """How long one waits."""
    asked = questions.cases(session.items, session.sizes.timed)
    return latency.table(latency.run(session.model, asked), session.loading)


@dataclass(frozen=True)
class Evaluation:
    """What is measured, and the ability it takes."""

    measure: Callable[[Session], Table]
    ability: str | None = None


EVALUATIONS = {
    "qa": Evaluation(qa, "answer"),
    "asr": Evaluation(asr, "transcribe"),
    "tts": Evaluation(tts, "speak"),
    "speech": Evaluation(answers, "answer"),
    "vision": Evaluation(see, "see"),
    "interruption": Evaluation(stop, "listen"),
    "duplex": Evaluation(talking, "answer"),
    "codec": Evaluation(coding),
    "latency": Evaluation(waiting, "answer"),
}


def evaluate(name: str, session: Session) -> Table:
    """The table of one evaluation; without a figure where the model lacks the ability, which a note says."""
    one = EVALUATIONS[name]
    if one.ability is not None and one.ability not in session.model.abilities:
        return Table([], [f"{name}: the model never learned to {one.ability}"])
    return one.measure(session)


def evaluate_all(session: Session) -> Table:
    """All evaluations in one table, without details."""
    return joined([evaluate(name, session) for name in EVALUATIONS])
