"""The answers of a session: begun early, decoded a little ahead of what is heard, cut where they were stopped."""

import threading
from collections import deque
from typing import Any

import numpy as np

from omni2.answer import AnswerStream, Samples
from omni2.duplex.answer import Answer, Question
from omni2.duplex.events import Cause, Ducked, Event, Interrupted, Model, Resumed, TurnEnded, TurnFailed, TurnStarted
from omni2.duplex.heard import Memory
from omni2.errors import Cancelled, ContextLengthError, OmniError

AHEAD = 2.0  # seconds of sound that are decoded before they are needed


class Answering:
    """At most one answer that is heard, and one begun in a pause that may not be the last of its question.

    `work` is called by one thread, everything else by any.  With `remembers` the turns of `memory` go into prompts.
    """

    def __init__(self, model: Model, memory: Memory, remembers: bool, sampling: object) -> None:
        self._model, self._memory, self._remembers, self._sampling = model, memory, remembers, sampling
        self.changed = threading.Condition()
        self.events: deque[Event] = deque()
        self.now: Answer | None = None
        self._early: Answer | None = None
        self._unwritten: deque[tuple[Answer, str, bool]] = deque()  # whose questions are to be written down
        self.closed = False

    # --- what the conversation asks for

    def tell(self, event: Event) -> None:
        """Put an event in line."""
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def ask(self, question: Question) -> None:
        """Answer a question that is complete; nothing else is being answered."""
        with self.changed:
            self._drop()
            self.now = Answer(question, self._model.sample_rate)
            self.changed.notify_all()

    def prepare(self, question: Question) -> None:
        """Begin to answer a question that may be complete, in place of what was begun before."""
        with self.changed:
            self._drop()
            self._early = Answer(question, self._model.sample_rate)
            self.changed.notify_all()

    def drop(self) -> None:
        """Throw away what was begun early."""
        with self.changed:
            self._drop()

    def confirm(self, position: int) -> bool:
        """The question of `prepare` is complete, its last word ended at `position`; false if there is none."""
        with self.changed:
            answer, self._early = self._early, None
            if answer is None:
                return False
            answer.question.position = position
            self.now = answer
            self.changed.notify_all()
            return True

    def suspect(self, suspicious: bool) -> None:
        """Hold the answer's sound, or let it go on."""
        with self.changed:
            answer = self.now
            if answer is not None and answer.told and answer.ducked != suspicious:
                answer.ducked = suspicious
                self.events.append((Ducked if suspicious else Resumed)(answer.played))
                self.changed.notify_all()

    def stop(self, cause: Cause) -> None:
        """End the answer where it is, within a step of the decoder."""
        with self.changed:
            answer, self.now = self.now, None
            if answer is None:
                return
            answer.close()
            if answer.told:
                self.events.append(Interrupted(answer.played, answer.heard, cause))
                self._unwritten.append((answer, answer.heard, True))
            self.changed.notify_all()

    def played(self, samples: int) -> Samples:
        """So many more samples left the loudspeaker; the same sound at 16 kHz."""
        with self.changed:
            answer = self.now
            if answer is None:
                return np.zeros(0, np.float32)
            own = answer.play(samples)
            self._finish(answer)
            self.changed.notify_all()
            return own

    def forget(self) -> None:
        """Forget all turns."""
        with self.changed:
            self._drop()
            self._unwritten.clear()
            self._memory.clear()

    def close(self) -> None:
        """Stop all work for good."""
        with self.changed:
            self.closed = True
            self._drop()
            if self.now is not None:
                self.now.close()
            self.now = None
            self.events.clear()
            self._unwritten.clear()
            self.changed.notify_all()

    # --- the work itself

    @property
    def idle(self) -> bool:
        """Whether there is nothing to tell and nothing to do now; the lock is held."""
        return not self.events and not self._unwritten and self._next() is None

    def work(self) -> bool:
        """One piece of what there is to do; false if there is nothing."""
        with self.changed:
            answer = self._next()
        if answer is None:
            return self._write_down()
        if answer.stream is None:
            self._begin(answer)
        elif not self._announce(answer):
            self._decode(answer)
        return True

    def _next(self) -> Answer | None:
        """The answer that needs work."""
        now, early = self.now, self._early
        if now is not None and (not now.told or (not now.ended and now.ahead < AHEAD)):
            return now
        if early is not None and not early.made and not early.ended:
            return early
        return None

    def _begin(self, answer: Answer) -> None:
        try:
            stream = self._stream(answer.question)
        except OmniError as error:
            self._fail(answer, error)
            return
        with self.changed:
            answer.stream = stream
            if answer not in (self.now, self._early):
                stream.close()  # it was stopped while it began

    def _stream(self, question: Question) -> AnswerStream:
        """The stream of an answer; turns before it leave if the context cannot hold them."""
        options: dict[str, Any] = {"image": question.image, "sampling": self._sampling, "text": question.text}
        while True:
            turns = self._memory.turns if self._remembers else ()
            try:
                return self._model.stream(question.heard, **options, **({"history": turns} if turns else {}))
            except ContextLengthError:
                if not turns:
                    raise
                self._memory.drop()

    def _announce(self, answer: Answer) -> bool:
        """Tell that a question is complete, with what was decoded before that was known; false if it was told."""
        with self.changed:
            if answer.told or answer is not self.now:
                return False
            answer.told, question = True, answer.question
            asked = question.said if question.said is not None else question.text
            self.events.append(TurnStarted(asked, question.position))
            self.events.extend(answer.waiting)
            answer.waiting.clear()
            return True

    def _decode(self, answer: Answer) -> None:
        assert answer.stream is not None
        try:
            chunk = next(answer.stream, None)
        except OmniError as error:
            self._fail(answer, error)
            return
        with self.changed:
            if answer not in (self.now, self._early):
                return  # it was stopped while this piece was made
            if chunk is None:
                answer.ended = True
            else:
                answer.take(chunk)
                (self.events if answer.told else answer.waiting).append(chunk)
            self._finish(answer)

    def _fail(self, answer: Answer, error: OmniError) -> None:
        with self.changed:
            if answer is self._early:
                self._early = None
            elif answer is self.now:
                self.now = None
                if not isinstance(error, Cancelled):
                    self.events.append(TurnFailed(error))

    def _finish(self, answer: Answer) -> None:
        """End an answer that was heard to its end; the lock is held."""
        if answer is self.now and answer.told and answer.over:
            self.now = None
            self._unwritten.append((answer, answer.heard, False))

    def _write_down(self) -> bool:
        """Find the words of a question that was answered, and remember the turn."""
        with self.changed:
            if not self._unwritten:
                return False
            answer, said, interrupted = self._unwritten.popleft()
        asked = answer.question.text or ""
        if answer.question.heard is not None and self._remembers and "transcribe" in self._model.abilities:
            asked = self._model.transcribe(answer.question.heard)
        with self.changed:
            if self._remembers:
                self._memory.add(asked, said)
            self.events.append(TurnEnded(asked, said, interrupted))
        return True

    def _drop(self) -> None:
        if self._early is not None:
            self._early.close()
            self._early = None
