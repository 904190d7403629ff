"""A conversation by voice in which both may speak at once.

    session = model.session()             # or model.session("barge-in")
    session.played(n)                     # n more samples of the answer left the loudspeaker, and in that time
    session.listen(samples, rate)         # the microphone heard these
    for event in session.events():        # all there is to tell and to play now; decodes no further ahead
        ...

The clock is the microphone's: a session does not know whether its sound comes from a sound card or from a file.
`played` and `listen` may be called in one thread while another goes through the session itself, which waits for what
comes next.
"""

from collections.abc import Iterator, Sequence
from types import TracebackType

from omni2.answer import Samples
from omni2.audio import SAMPLE_RATE
from omni2.duplex.answer import Question
from omni2.duplex.answering import Answering
from omni2.duplex.ear import Ear, Frame
from omni2.duplex.events import Cause, Event, Model, Policy, SpeechStarted
from omni2.duplex.heard import Memory, Turn
from omni2.duplex.listeners import Opinion, SpeakingUp, is_order, listeners_for
from omni2.duplex.phrases import PHRASES
from omni2.duplex.turns import Began, Edge, Finished, Paused, TurnTaker, WentOn, patience
from omni2.errors import InputError, OmniError

POLICIES = ("command", "barge-in", "off")
BREATH, LONGEST = 3, 16  # frames without voice that end an order, and frames after which it is over in any case: 0.5 s


class Session:
    """One conversation of a model with one person; everything it knows of it is here, none of it on the model.

    Made by `OmniModel.session`, which says what `policy` and `phrases` mean.  `memory` are the turns before; with
    `remembers` they are put into prompts.  Close it, or leave its `with` block, when the conversation is over.
    """

    def __init__(
        self,
        model: Model,
        policy: Policy = "command",
        phrases: Sequence[str] = PHRASES,
        memory: Memory | None = None,
        remembers: bool = False,
        sampling: object = None,
    ) -> None:
        if isinstance(phrases, str) or not phrases or not all(isinstance(one, str) and one.strip() for one in phrases):
            raise InputError("phrases are a list of words that stop an answer, at least one")
        self._model, self._phrases = model, tuple(phrases)
        self._memory = Memory(0, len) if memory is None else memory
        self._answers = Answering(model, self._memory, remembers, sampling)
        self._ear, self._taker = Ear(), TurnTaker()
        self._muted = False  # somebody speaks, but not to it
        self._heeded: object = None  # the answer that the listeners guard
        self._order = 0  # frames that may still belong to an order that was obeyed
        self._quiet = 0  # frames without voice
        self._image: object = None
        self.policy = policy

    @property
    def policy(self) -> Policy:
        """What stops an answer; may be set at any time.  Raises InputError for what is none."""
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        if policy not in POLICIES:
            raise InputError(f"a policy is one of {', '.join(POLICIES)}, not {policy!r}")
        self._policy: Policy = policy
        self._listeners = listeners_for(policy, self._model, self._phrases)

    @property
    def history(self) -> tuple[Turn, ...]:
        """The turns remembered, the oldest first: questions ("" where their words are not known), answers as heard."""
        return self._memory.turns

    @property
    def answering(self) -> bool:
        """Whether an answer is being decoded or played."""
        return self._answers.now is not None

    @property
    def hearing(self) -> bool:
        """Whether somebody is speaking to it."""
        return self._taker.speaking and not self._muted

    def listen(self, samples: Samples, rate: float = SAMPLE_RATE) -> None:
        """What the microphone heard next: (n,) float32 in [-1, 1] at `rate` Hz, any n.

        Call `played` before it for what left the loudspeaker meanwhile.  Raises InputError for other sound.
        """
        for frame in self._ear.push(samples, rate):
            self._quiet = 0 if frame.is_voice else self._quiet + 1
            answer = self._answers.now
            if answer is not None and answer.told:
                if answer is not self._heeded:
                    self._heeded = answer
                    for listener in self._listeners:
                        listener.reset()
                self._heed(frame)
            self._order = max(self._order - 1, 0) if self._quiet < BREATH else 0
            for edge in self._taker.push(frame) if not self._order else ():
                self._follow(edge)

    def played(self, samples: int) -> None:
        """So many more samples of the answer left the loudspeaker.  Raises InputError for less than none."""
        if samples < 0:
            raise InputError(f"samples that were played are counted, {samples} cannot be")
        self._ear.play(self._answers.played(samples))

    def ask(self, text: str | None = None, *, image: object = None) -> None:
        """Ask by hand: a text, a picture, or both; what is being said ends.  Raises InputError for neither."""
        if text is None and image is None:
            raise InputError("nothing was asked; give text or image")
        self._answers.stop("asked")
        self._muted = True
        self._answers.ask(Question(text=text, image=image, position=self._ear.position))

    def show(self, image: object) -> None:
        """A picture for the spoken question that comes next, or that is under way."""
        self._image = image

    def interrupt(self) -> None:
        """Stop the answer by hand, as an order would."""
        self._answers.stop("asked")

    def reset(self) -> None:
        """Forget the conversation; what is being said ends."""
        self._answers.stop("asked")
        self._answers.forget()
        self._taker.reset()
        self._image = None

    def close(self) -> None:
        """Stop all work; nothing more is told."""
        self._answers.close()

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def events(self) -> Iterator[Event]:
        """All there is to tell now, and as much of an answer as is needed for the next seconds.

        Never waits for the microphone.  One thread at a time.
        """
        answers = self._answers
        while not answers.closed:
            with answers.changed:
                event = answers.events.popleft() if answers.events else None
            if event is not None:
                yield event
            elif not answers.work():
                return

    def __iter__(self) -> Iterator[Event]:
        """All events until the session is closed, each as soon as it is there."""
        answers = self._answers
        while not answers.closed:
            yield from self.events()
            with answers.changed:
                answers.changed.wait_for(lambda: answers.closed or not answers.idle)

    def _heed(self, frame: Frame) -> None:
        """Have the listeners hear a frame, and do what they think."""
        worst = Opinion.NOTHING
        cause: Cause = "asked"
        for listener in self._listeners:
            opinion = listener.push(frame)
            if opinion > worst:
                worst, cause = opinion, listener.cause
        if worst is Opinion.STOP:
            self._stop(cause)
        else:
            self._answers.suspect(worst is Opinion.SUSPICION)

    def _stop(self, cause: Cause) -> None:
        self._answers.stop(cause)
        if cause == "command":
            self._taker.reset()  # the order is no question
            self._order = LONGEST
        elif self._muted and self._taker.speaking:
            self._answers.tell(SpeechStarted(self._taker.began))
        self._muted = False

    def _follow(self, edge: Edge) -> None:
        """Do what the edge of a turn asks for."""
        if isinstance(edge, Began):
            self._muted = self.answering
            if not self._muted:
                self._answers.tell(SpeechStarted(edge.position))
        elif self._muted:
            if isinstance(edge, Finished):
                self._muted = False
            elif not self.answering:  # the answer is over, what is said now is for it
                self._muted = False
                self._answers.tell(SpeechStarted(self._taker.began))
        elif isinstance(edge, Paused):
            self._consider(edge.sound)
        elif isinstance(edge, WentOn):
            self._answers.drop()
        else:
            self._complete(edge)

    def _consider(self, sound: Samples) -> bool:
        """Begin the work on a turn that may be complete, and find out how long to wait for more; false if it asks
        nothing."""
        try:
            heard = self._model.hear(sound)
        except OmniError:
            return False  # too soft or too short to be asked
        if is_order(self._model, sound, heard, self._phrases):
            self._answers.drop()
            return False
        self._taker.wait(patience(self._model.finished(heard)))
        self._answers.prepare(Question(heard, sound, image=self._image, position=self._ear.position))
        return True

    def _complete(self, turn: Finished) -> None:
        """Answer a turn that is over, unless it asks nothing."""
        if turn.sound is None:
            self._answers.drop()
            return
        if not self._answers.confirm(turn.position):
            if not self._consider(turn.sound):
                return
            self._answers.confirm(turn.position)
        self._image = None
        for listener in self._listeners:
            if isinstance(listener, SpeakingUp):
                listener.near = turn.level
