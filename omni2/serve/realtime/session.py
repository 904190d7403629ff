"""The rules of a realtime session, apart from its socket: what each client event changes and what answers it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from omni2.audio import SAMPLE_RATE
from omni2.duplex.events import Model, Policy
from omni2.duplex.vad import VoiceActivity
from omni2.omni import Heard
from omni2.serve.limits import from_base64
from omni2.serve.problems import Problem
from omni2.serve.realtime.events import (
    AudioAppend,
    AudioClear,
    AudioCommit,
    ClientEvent,
    ItemCreate,
    ItemDelete,
    ItemRetrieve,
    ItemTruncate,
    OutputClear,
    Pcm,
    ResponseCancel,
    ResponseConfig,
    ResponseCreate,
    SemanticVad,
    ServerVad,
    SessionConfig,
    SessionUpdate,
    merge,
)
from omni2.serve.realtime.items import Conversation, Item, Json, Part, new_id, question, read_item
from omni2.serve.realtime.pauses import Pauses, usual
from omni2.serve.realtime.response import Reason, Response
from omni2.serve.realtime.wire import (
    Ears,
    Found,
    Samples,
    SpeechStarted,
    SpeechStopped,
    Suspected,
    Watch,
    wire_rate,
)

PADDING = 0.3  # seconds kept before a turn's speech where the client does not say
SHORTEST = 0.1  # seconds: a shorter buffer cannot be committed


class Host(Protocol):
    """What a session needs done outside of it."""

    def send(self, event: Json) -> None:
        """Send an event; its id is put in there."""

    def answer(self, response: Response) -> None:
        """Begin to decode the answer to `response.question` and to tell it to `response`."""

    def stop(self, response: Response) -> None:
        """Stop decoding at once."""

    def transcribe(self, item: Item, part: Part) -> None:
        """Write down what `part` of `item` says and tell it to the session."""


class Session:
    """One client's session: its choices, its input buffer, its conversation, at most one response under way.

    `model` listens while answers are played; `rate` is the answers' (Hz), `input_rate` that of PCM input where it is
    not 24 kHz, `seconds` bounds the buffer.
    Methods raise Problem for what the protocol does not allow; nothing has changed then.
    """

    def __init__(
        self, host: Host, name: str, rate: int, seconds: float, input_rate: int = 24_000, model: Model | None = None
    ) -> None:
        self.id = new_id("sess")
        self.config = SessionConfig()
        self.conversation = Conversation()
        self._newest: Response | None = None
        self._host, self._name, self._rate, self._input_rate = host, name, rate, input_rate
        self._model = model
        self._watch: Watch | None = None
        self._coming = new_id("item")  # id of the item that the next turn will be
        self.ears = Ears(self.config.audio.input.format, self._wire_rate, seconds)
        self._detect()
        self._handlers: dict[type, Callable[[Any], None]] = {
            SessionUpdate: self._update,
            AudioCommit: self._commit,
            AudioClear: self._clear,
            OutputClear: self._clear_output,
            ItemCreate: self._create,
            ItemRetrieve: self._retrieve,
            ItemDelete: self._delete,
            ItemTruncate: self._truncate,
            ResponseCreate: self._create_response,
            ResponseCancel: self._cancel_response,
        }

    def begin(self) -> None:
        """Greet the client."""
        self._host.send({"type": "session.created", "session": self._as_json()})

    def handle(self, event: ClientEvent) -> None:
        """Do what `event` asks; of an append only the bytes are taken: see `sound_of` and `heard`."""
        self._handlers[type(event)](event)

    def sound_of(self, event: AudioAppend) -> bytes:
        """The bytes of an append, for `ears.push`; what that returns is for `heard`."""
        return from_base64(event.audio, "audio")

    def heard(self, edges: list[Found], overflow: bool) -> None:
        """React to where turns began and ended.  Raises Problem if part of the sound was lost."""
        for edge in edges:
            if isinstance(edge, SpeechStarted):
                self._speech_started(edge)
            elif isinstance(edge, SpeechStopped):
                self._speech_stopped(edge)
            elif isinstance(edge, Suspected):
                self._suspect(edge)
            else:
                self._silence("turn_detected")
        if overflow:
            why = f"the input buffer is full after {self.ears.seconds:g} s; commit or clear it"
            raise Problem(413, "invalid_request_error", "input_audio_buffer_full", why, "audio")

    def transcribed(self, item: Item, part: Part, words: str | Problem) -> None:
        """Tell what a committed sound says, or why that is not known."""
        place = {"item_id": item.id, "content_index": item.parts.index(part)}
        kind = "conversation.item.input_audio_transcription"
        if isinstance(words, Problem):
            error = words.body["error"]
            self._host.send({"type": f"{kind}.failed", **place, "error": error})
            return
        part.text = words
        usage = {"type": "duration", "seconds": part.seconds}
        if words:
            self._host.send({"type": f"{kind}.delta", **place, "delta": words})
        self._host.send({"type": f"{kind}.completed", **place, "transcript": words, "usage": usage})

    @property
    def response(self) -> Response | None:
        """The one under way."""
        return self._newest if self._newest is not None and self._newest.status == "in_progress" else None

    @property
    def _wire_rate(self) -> int:
        form = self.config.audio.input.format
        return self._input_rate if isinstance(form, Pcm) else wire_rate(form)

    @property
    def _turns(self) -> ServerVad | SemanticVad | None:
        return self.config.audio.input.turn_detection

    def _detect(self) -> None:
        if self._turns is None:
            self.ears.detect(None)
        elif isinstance(self._turns, ServerVad):
            activity = VoiceActivity(self._turns.threshold, self._turns.silence_duration_ms / 1000)
            judge = Pauses(self._model) if self._model is not None else None
            self.ears.detect(activity, self._turns.prefix_padding_ms / 1000, judge)
        else:
            eagerness = self._turns.eagerness
            judge = Pauses(self._model, eagerness) if self._model is not None else None
            self.ears.detect(VoiceActivity(silence=usual(eagerness)), PADDING, judge)
        self._guard()

    def _update(self, event: SessionUpdate) -> None:
        before, own = self.config.audio.input, self.config.omni2
        self.config = merge(self.config, event.session)
        now = self.config.audio.input
        if now.format != before.format:
            self.ears.tune(now.format, self._wire_rate)
        if now.turn_detection != before.turn_detection:
            self._detect()
        elif self.config.omni2 != own:
            self._guard()
        self._host.send({"type": "session.updated", "session": self._as_json()})

    def _speech_started(self, edge: SpeechStarted) -> None:
        at = {"audio_start_ms": round(1000 * edge.position / SAMPLE_RATE), "item_id": self._coming}
        self._host.send({"type": "input_audio_buffer.speech_started", **at})
        if self._policy == "barge-in":
            self._stop("turn_detected")

    def _suspect(self, found: Suspected) -> None:
        if self.config.omni2.ducking and self._newest is not None:
            kind = "resumed" if found.over else "ducked"
            self._host.send({"type": f"omni2.output_audio_buffer.{kind}", "response_id": self._newest.id})

    def _silence(self, reason: Reason) -> None:
        """End the answer that is made or played, and have the client forget what it has of it."""
        self._stop(reason)
        self.ears.hush()
        if self._newest is not None and self._newest.reply == "speech":
            self._host.send({"type": "output_audio_buffer.cleared", "response_id": self._newest.id})

    def played(self, response: Response, seconds: float) -> None:
        """So much more of an answer's sound was sent to the client, which plays it from now on."""
        if response is self._newest:
            self.ears.sounds(seconds)
            self.ears.answering = self.response is not None

    @property
    def _policy(self) -> Policy | None:
        """What stops an answer; None: nothing does, but all that is said is a turn."""
        if self._turns is None:
            return None
        own = self.config.omni2.interruption
        return own or ("barge-in" if self._turns.interrupt_response else None)

    def _guard(self) -> None:
        """Listen from now on as the session's choices say."""
        policy = self._policy
        self._watch = Watch(policy, self._model, self.config.omni2.phrases) if policy is not None else None
        self.ears.watch(self._watch)

    def _speech_stopped(self, edge: SpeechStopped) -> None:
        at = {"audio_end_ms": round(1000 * edge.position / SAMPLE_RATE), "item_id": self._coming}
        self._host.send({"type": "input_audio_buffer.speech_stopped", **at})
        answers = self._turns is not None and self._turns.create_response and self.response is None
        self._add_sound(edge.sound, ResponseConfig() if answers else None, edge.heard)

    def _commit(self, event: AudioCommit) -> None:
        if self.ears.seconds < SHORTEST:
            why = f"the buffer holds {1000 * self.ears.seconds:.0f} ms of sound; a commit needs {1000 * SHORTEST:.0f}"
            raise Problem(400, "invalid_request_error", "input_audio_buffer_commit_empty", why)
        self._add_sound(self.ears.take())

    def _add_sound(self, sound: Samples, config: ResponseConfig | None = None, heard: Heard | None = None) -> None:
        """Make an item of a turn, answer it if `config` says how, and have it written down if that was asked for."""
        part = Part("input_audio", sound=sound, rate=SAMPLE_RATE, heard=heard)
        item = Item("user", [part], self._coming)
        self._coming = new_id("item")
        before = self.conversation.add(item)
        committed = {"item_id": item.id, "previous_item_id": before}
        self._host.send({"type": "input_audio_buffer.committed", **committed})
        self._tell(item, before)
        if config is not None:
            self._respond(config)
        if self.config.audio.input.transcription is not None:
            self._host.transcribe(item, part)

    def _clear(self, event: AudioClear) -> None:
        self.ears.take()
        self._host.send({"type": "input_audio_buffer.cleared"})

    def _clear_output(self, event: OutputClear) -> None:
        if self._newest is None:
            why = "no answer was made yet"
            raise Problem(400, "invalid_request_error", "invalid_value", why, "type")
        self._silence("client_cancelled")

    def _create(self, event: ItemCreate) -> None:
        item = read_item(event.item, self.config.audio.input.format)
        self._tell(item, self.conversation.add(item, event.previous_item_id))

    def _tell(self, item: Item, before: str | None) -> None:
        for moment in ("added", "done"):
            told = {"previous_item_id": before, "item": item.as_json()}
            self._host.send({"type": f"conversation.item.{moment}", **told})

    def _retrieve(self, event: ItemRetrieve) -> None:
        item, audio = self.conversation.find(event.item_id), self.config.audio
        form = audio.output.format if item.role == "assistant" else audio.input.format
        self._host.send({"type": "conversation.item.retrieved", "item": item.as_json(form)})

    def _delete(self, event: ItemDelete) -> None:
        item = self.conversation.find(event.item_id)
        self._stop("client_cancelled", item)
        self.conversation.items.remove(item)
        self._host.send({"type": "conversation.item.deleted", "item_id": item.id})

    def _truncate(self, event: ItemTruncate) -> None:
        item = self.conversation.find(event.item_id)
        self._stop("client_cancelled", item)
        if item.role != "assistant" or item.parts[0].sound is None or event.content_index != 0:
            why = "only the sound of a recent answer, its content 0, can be truncated"
            raise Problem(400, "invalid_request_error", "invalid_value", why, "item_id")
        part = item.parts[0]
        if event.audio_end_ms > 1000 * part.seconds + 1:
            why = f"the sound lasts {1000 * part.seconds:.0f} ms, not {event.audio_end_ms}"
            raise Problem(400, "invalid_request_error", "invalid_value", why, "audio_end_ms")
        part.cut(event.audio_end_ms / 1000)
        place = {"item_id": item.id, "content_index": 0, "audio_end_ms": event.audio_end_ms}
        self._host.send({"type": "conversation.item.truncated", **place})

    def _create_response(self, event: ResponseCreate) -> None:
        if self.response is not None:
            why = f"{self.response.id} is under way; wait for response.done or send response.cancel"
            raise Problem(400, "invalid_request_error", "conversation_already_has_active_response", why)
        self._respond(event.response or ResponseConfig())

    def _respond(self, config: ResponseConfig) -> None:
        response = Response(self._host.send, self.conversation, self.config, config, self._rate)
        if config.input is None:
            history = self.conversation.history()
            response.question = replace(self.conversation.question(), history=history)
        else:
            response.question = question(self.conversation.resolve(config.input, self.config.audio.input.format))
        self._newest = response
        self.ears.hush()
        self.ears.answering = True
        if self._watch is not None:
            self._watch.reset()
        response.begin()
        self._host.answer(response)

    def _cancel_response(self, event: ResponseCancel) -> None:
        if self.response is None or event.response_id not in (None, self.response.id):
            why = "no such response is under way"
            raise Problem(400, "invalid_request_error", "response_cancel_not_active", why)
        self._stop("client_cancelled")

    def _stop(self, reason: Reason, item: Item | None = None) -> None:
        """Cancel the response under way, if it is the one that makes `item` where one is given."""
        response = self.response
        if response is not None and (item is None or response.item is item):
            self._host.stop(response)
            response.end("cancelled", reason)
            self.ears.answering = False
            self.ears.hush()

    def _as_json(self) -> Json:
        return {"id": self.id, "object": "realtime.session", "model": self._name, **self.config.model_dump()}
