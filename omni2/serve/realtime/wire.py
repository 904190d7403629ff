"""Sound on a realtime connection: bytes of the wire to 16 kHz and turns, the answer's samples to bytes of the wire."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soxr

from omni2.audio import SAMPLE_RATE
from omni2.codec.stream import to_pcm16
from omni2.duplex.ear import Ear
from omni2.duplex.events import Cause, Model, Policy
from omni2.duplex.listeners import Opinion, listeners_for
from omni2.duplex.vad import WINDOW, VoiceActivity
from omni2.omni import Heard
from omni2.serve.realtime.events import G711, Pcm
from omni2.serve.sound import from_g711, to_g711

Samples = npt.NDArray[np.float32]

TELEPHONE_RATE = 8_000  # Hz, of G.711
DELAY = 0.3  # seconds from the server to the listener's ear and from the mouth to the server, at a guess
BREATH = 0.3  # seconds behind a stop within which the rest of the order may be heard
PIECE = SAMPLE_RATE // 2  # samples that are looked at in one go, however long an append is


def wire_rate(form: Pcm | G711) -> int:
    """Samples a second (Hz) of a format."""
    return form.rate if isinstance(form, Pcm) else TELEPHONE_RATE


def decode(data: bytes, form: Pcm | G711) -> Samples:
    """Bytes of the wire → samples (n,) float32 in [-1, 1]."""
    if isinstance(form, G711):
        return from_g711(data, form.type)
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)


class WireOut:
    """Samples at `rate` Hz, piece by piece, to bytes in the client's format."""

    def __init__(self, rate: int, form: Pcm | G711) -> None:
        self._form = form
        self._resampler = soxr.ResampleStream(rate, wire_rate(form), 1) if rate != wire_rate(form) else None

    def push(self, samples: Samples, last: bool = False) -> bytes:
        """The bytes that (n,) new samples make certain; with `last` all that are left."""
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(samples, last=last)
        return to_g711(samples, self._form.type) if isinstance(self._form, G711) else to_pcm16(samples)


@dataclass(frozen=True)
class SpeechStarted:
    """Somebody speaks since `position` (samples at 16 kHz since the first ever appended), padding included."""

    position: int


@dataclass(frozen=True)
class SpeechStopped:
    """The turn that ended at `position`: samples (n,) float32 at 16 kHz, and what was heard of it in its last pause."""

    position: int
    sound: Samples
    heard: Heard | None = None


@dataclass(frozen=True)
class Suspected:
    """Somebody may want the answer to stop, or (`over`) it was nothing."""

    over: bool


@dataclass(frozen=True)
class Stopped:
    """Somebody wants the answer to stop."""

    cause: Cause


Found = SpeechStarted | SpeechStopped | Suspected | Stopped
Judge = Callable[[Samples], tuple[Heard | None, float | None]]  # of a pause: see `omni2.serve.realtime.pauses`


class Ears:
    """The input buffer of one connection, bounded to `limit` seconds, and the turns found in it.

    `data` comes at `rate` Hz if the format is PCM.  Not for several threads at once.
    """

    def __init__(self, form: Pcm | G711, rate: int, limit: float) -> None:
        self._limit = round(limit * SAMPLE_RATE)
        self._pieces: list[Samples] = []
        self._start = 0  # position of the buffer's first sample
        self._end = 0  # and behind its last
        self._activity: VoiceActivity | None = None
        self._padding = 0
        self._judge: Judge | None = None
        self._early: tuple[int, Heard] | None = None  # what was heard up to a position, in a pause there
        self.answering = False  # an answer is being made
        self._sounds_until = 0  # position at which the client has played all it was sent, as far as one can tell
        self._watch: Watch | None = None
        self._deaf_until = 0  # position up to which all that is said still belongs to an order
        self._muted: int | None = None  # position since which somebody speaks, but perhaps not to it
        self.tune(form, rate)

    def tune(self, form: Pcm | G711, rate: int) -> None:
        """Take another format from now on."""
        self._form, self._odd = form, b""
        self._resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1) if rate != SAMPLE_RATE else None

    def detect(self, activity: VoiceActivity | None, padding: float = 0.0, judge: Judge | None = None) -> None:
        """Find turns with `activity`, each from `padding` seconds before its speech; None: the client says.

        `judge` hears what was said up to a pause, while it is not known whether the turn is over.
        """
        self._activity, self._padding = activity, round(padding * SAMPLE_RATE)
        self._judge, self._early = judge, None
        if activity is not None and judge is not None:
            activity.patience = self._consider
        self._origin = self._end  # where the detector's positions count from

    def watch(self, watch: "Watch | None") -> None:
        """While an answer is made or played, only what `watch` lets through is a turn; None: everything is."""
        self._watch, self._muted = watch, None

    def sounds(self, seconds: float) -> None:
        """So much more sound was sent to the client."""
        self._sounds_until = max(self._sounds_until, self._end + round(DELAY * SAMPLE_RATE)) + round(
            seconds * SAMPLE_RATE
        )

    def hush(self) -> None:
        """The client plays nothing any more."""
        self._sounds_until = self._end

    @property
    def _guarded(self) -> bool:
        return self._watch is not None and (self.answering or self._end < self._sounds_until)

    @property
    def seconds(self) -> float:
        """How much is buffered."""
        return (self._end - self._start) / SAMPLE_RATE

    def push(self, data: bytes) -> tuple[list[Found], bool]:
        """Append bytes; returns the turns' edges in them, and whether the buffer overflowed, its last part was lost.

        While turns are detected nothing is lost: silence is forgotten, and a turn as long as the limit ends there.
        """
        found: list[Found] = []
        samples = self._decode(data)
        for begin in range(0, len(samples), PIECE):
            piece = samples[begin : begin + PIECE]
            if self._activity is None:
                piece = piece[: max(self._limit - (self._end - self._start), 0)]
            self._pieces.append(piece)
            self._end += len(piece)
            if self._activity is None and self._end - self._start >= self._limit:
                return found, begin + len(piece) < len(samples)
            found += self._heed(piece) if self._guarded else []
            found += self._turns(piece)
        return found, False

    def take(self) -> Samples:
        """All that is buffered, (n,) float32 at 16 kHz; the buffer is empty then, and nobody speaks."""
        if self._resampler is not None:
            self._append_rest()
        sound = self._buffered()
        self._forget(self._end)
        if self._activity is not None:
            self._activity.speaking = False
        return sound

    def _append_rest(self) -> None:
        """What the resampler holds back."""
        assert self._resampler is not None
        rest = self._resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        self._resampler.clear()
        self._pieces.append(rest)
        self._end += len(rest)

    def _decode(self, data: bytes) -> Samples:
        data = self._odd + data
        if isinstance(self._form, Pcm) and len(data) % 2:
            data, self._odd = data[:-1], data[-1:]
        else:
            self._odd = b""
        samples = decode(data, self._form)
        return samples if self._resampler is None else self._resampler.resample_chunk(samples)

    def _heed(self, piece: Samples) -> list[Found]:
        """What the newest samples are to an answer that is made or played."""
        assert self._watch is not None
        found: list[Found] = []
        for said in self._watch.push(piece):
            if isinstance(said, Stopped):
                self.answering, since, self._muted = False, self._muted, None
                self.hush()
                if said.cause == "command" and self._activity is not None:
                    self._deaf_until = self._end + round(BREATH * SAMPLE_RATE)  # the order is no question
                elif since is not None:
                    found.append(SpeechStarted(max(since, self._start)))
            found.append(said)
        return found

    def _turns(self, piece: Samples) -> list[Found]:
        """The edges in the newest samples; what lies before a turn and its padding is forgotten."""
        if self._activity is None:
            return []
        found: list[Found] = []
        edges = self._activity.push(piece)
        if self._end <= self._deaf_until:
            self._activity.speaking = False
            edges = []
        for edge in edges:
            position = self._origin + edge.position
            if edge.kind == "started":
                self._forget(max(position - self._padding, self._start))
                self._muted = self._start if self._guarded else None
                found += [] if self._guarded else [SpeechStarted(self._start)]
            elif self._muted is not None and self._guarded:
                self._forget(position)
                self._muted = None
            else:
                found += [] if self._muted is None else [SpeechStarted(self._start)]  # the answer ended meanwhile
                self._muted = None
                found.append(self._stopped(position))
        if self._activity.speaking and self._end - self._start >= self._limit:
            self._activity.speaking = False
            found.append(self._stopped(self._start + self._limit))
        if not self._activity.speaking:
            self._forget(max(self._end - self._padding - WINDOW, self._start))
        return found

    def _consider(self, position: int) -> float | None:
        """Judge the pause at `position` of the detector; seconds that end the turn, None for its usual ones."""
        if self._judge is None or self._muted is not None:
            return None
        end = self._origin + position
        heard, seconds = self._judge(self._buffered()[: end - self._start])
        self._early = (end, heard) if heard is not None else None
        return seconds

    def _stopped(self, position: int) -> SpeechStopped:
        sound = self._buffered()[: position - self._start]
        self._forget(position)
        early, self._early = self._early, None
        assert self._activity is not None
        fresh = early is not None and early[0] > self._origin + self._activity.last_voice
        return SpeechStopped(position, sound, early[1] if early is not None and fresh else None)

    def _buffered(self) -> Samples:
        self._pieces = [np.concatenate([np.zeros(0, np.float32), *self._pieces])]
        return self._pieces[0]

    def _forget(self, position: int) -> None:
        """Drop what lies before `position`."""
        self._pieces = [self._buffered()[position - self._start :]]
        self._start = position


class Watch:
    """Listens while an answer is made or played: see `omni2.duplex.listeners`.  Not for several threads at once."""

    def __init__(self, policy: Policy, model: Model | None, phrases: Sequence[str]) -> None:
        self._ear, self._listeners = Ear(), listeners_for(policy, model, phrases)
        self._suspicious = False

    def reset(self) -> None:
        """A new answer begins."""
        self._suspicious = False
        for listener in self._listeners:
            listener.reset()

    def push(self, samples: Samples) -> list[Suspected | Stopped]:
        """What (n,) samples at 16 kHz, from the client's microphone, give reason for; nothing follows on a stop."""
        found: list[Suspected | Stopped] = []
        for frame in self._ear.push(samples, SAMPLE_RATE):
            opinions = [(listener.push(frame), listener.cause) for listener in self._listeners]
            worst = max((opinion for opinion, _ in opinions), default=Opinion.NOTHING)
            if worst is Opinion.STOP:
                self.reset()
                return [*found, Stopped(next(cause for opinion, cause in opinions if opinion is worst))]
            if (worst is Opinion.SUSPICION) != self._suspicious:
                self._suspicious = not self._suspicious
                found.append(Suspected(over=not self._suspicious))
        return found
