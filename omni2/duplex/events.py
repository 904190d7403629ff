"""What a session tells, and what it needs of a model."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from omni2.answer import AnswerStream, Chunk, Samples
from omni2.duplex.overheard import Overheard
from omni2.errors import OmniError

Policy = Literal["command", "barge-in", "off"]
Cause = Literal["command", "barge-in", "asked"]  # an order to stop, somebody speaking up, the program itself


class Model(Protocol):
    """What a session needs of a model; `OmniModel` has it."""

    sample_rate: int

    @property
    def abilities(self) -> frozenset[str]: ...
    def hear(self, audio: Any, /) -> Any: ...  # noqa: ANN401 (what `stream` and `transcribe` take as sound)
    def stream(self, audio: Any = None, /, *args: Any, **options: Any) -> AnswerStream: ...  # noqa: ANN401
    def transcribe(self, audio: Any, /) -> str: ...  # noqa: ANN401
    def ordered(self, audio: Any, /) -> float: ...  # noqa: ANN401
    def overheard(self, audio: Any, /) -> Overheard | None: ...  # noqa: ANN401
    def finished(self, heard: Any, /) -> float | None: ...  # noqa: ANN401
    def tokens(self, text: str, /) -> int: ...


@dataclass(frozen=True)
class SpeechStarted:
    """Somebody began to speak to it, at `position`: samples at 16 kHz since the session began."""

    position: int


@dataclass(frozen=True)
class TurnStarted:
    """A question is complete and its answer begins.

    `question` is the sound (samples,) float32 at 16 kHz, or what was typed; None for a picture that came alone.  For a
    sound, `position` is where its last word ended, in samples at 16 kHz since the session began.
    """

    question: Samples | str | None
    position: int


@dataclass(frozen=True)
class Ducked:
    """Somebody may want it to stop: hold the sound at sample `position` of the answer until the next event."""

    position: int


@dataclass(frozen=True)
class Resumed:
    """It was nothing: go on with sample `position`, the one that `Ducked` named."""

    position: int


@dataclass(frozen=True)
class Interrupted:
    """The answer ends here: play nothing more of it.

    It was heard up to sample `position`; `heard` are the words said until then, `why` what stopped it.
    """

    position: int
    heard: str
    why: Cause


@dataclass(frozen=True)
class TurnEnded:
    """The answer was heard to its end, or interrupted; `answer` are the words heard, `question` its words if known."""

    question: str
    answer: str
    interrupted: bool


@dataclass(frozen=True)
class TurnFailed:
    """A question could not be answered."""

    error: OmniError


Event = SpeechStarted | TurnStarted | Chunk | Ducked | Resumed | Interrupted | TurnEnded | TurnFailed
