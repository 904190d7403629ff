"""Conversations in both directions, with recorded microphones on a virtual clock."""

from itertools import pairwise

import numpy as np
import pytest
from duplex import ANSWER, CAPITAL, NAME, ORDER, RATE, WEEK, Known, silence, track

from omni2 import Chunk
from omni2.duplex.events import (
    Ducked,
    Interrupted,
    Resumed,
    SpeechStarted,
    TurnEnded,
    TurnFailed,
    TurnStarted,
)
from omni2.duplex.overheard import Overheard
from omni2.duplex.turns import LONG
from omni2.errors import BusyError, InputError
from omni2.eval.rooms import Log, Room


def talk(model: Known, wave: np.ndarray, policy: str = "command", echo: float | None = None, **given: object) -> Log:
    with model.session(policy, **given) as session:
        return Room(session, RATE, echo).run(wave)


def kinds(log: Log) -> list[str]:
    return [type(event).__name__ for _, event in log.events if not isinstance(event, Chunk)]


def test_a_spoken_question_is_answered_and_heard_to_its_end() -> None:
    log = talk(Known(2.0), track(0.5, CAPITAL, 4.0))
    assert kinds(log) == ["SpeechStarted", "TurnStarted", "TurnEnded"]
    (started,) = log.of(TurnStarted)
    end = 0.5 + len(CAPITAL) / 16_000
    assert started.position / 16_000 == pytest.approx(end, abs=0.25)
    assert 0.2 < log.times(TurnStarted)[0] - started.position / 16_000 < 0.45
    assert log.of(TurnEnded) == [TurnEnded("", ANSWER, False)]
    played = log.speaker[np.flatnonzero(log.speaker)[0] :][: len(log.made[0]) - 1]
    assert np.array_equal(played, log.made[0][1:])  # a sine begins with zero


def test_how_long_it_waits_depends_on_what_was_said() -> None:
    waits = []
    for sure in (1.0, 0.65, None, 0.0):
        log = talk(Known(1.0, sure=sure), track(0.5, CAPITAL, 3.0))
        waits.append(log.times(TurnStarted)[0] - log.of(TurnStarted)[0].position / 16_000)
    assert waits[0] < waits[2] < waits[1] < waits[3]
    assert waits[3] == pytest.approx(LONG, abs=0.1)


def test_who_goes_on_after_a_pause_is_not_interrupted_and_early_work_is_thrown_away() -> None:
    model = Known(1.0, sure=0.0)
    half = len(CAPITAL) // 2
    log = talk(model, track(0.5, CAPITAL[:half], 0.8, CAPITAL[half:], 4.0))
    assert kinds(log) == ["SpeechStarted", "TurnStarted", "TurnEnded"]
    assert len(model.asked) == 2  # once in each pause
    assert model.open == 1  # the second, which came to its end
    (question,) = [one.question for one in log.of(TurnStarted)]
    assert len(question) > len(CAPITAL) + 0.7 * 16_000


def test_an_order_stops_the_answer_and_only_heard_words_are_remembered() -> None:
    model = Known(6.0)
    lead = [0.5, CAPITAL, 2.0]
    wave = track(*lead, ORDER, 3.0)
    over = sum(part if isinstance(part, float) else len(part) / 16_000 for part in [*lead, ORDER])
    log = talk(model, wave, remembers=True)
    assert kinds(log)[:2] == ["SpeechStarted", "TurnStarted"]
    (stop,) = log.of(Interrupted)
    assert stop.why == "command"
    assert -0.3 < log.times(Interrupted)[0] - over < 0.5
    assert not log.sounds(log.times(Interrupted)[0], 99)
    assert np.count_nonzero(log.speaker) <= stop.position < np.count_nonzero(log.speaker) + 200
    words = ANSWER.split()
    assert stop.heard.split() == words[: round(stop.position / RATE / 6 * 8)]
    assert log.of(TurnEnded) == [TurnEnded("What is the capital of France?", stop.heard, True)]
    assert len(model.asked) == 1  # the order was no question
    assert model.open == 0


def test_the_next_question_follows_on_an_order() -> None:
    model = Known(6.0)
    log = talk(model, track(0.5, CAPITAL, 2.0, ORDER, 0.4, WEEK, 2.0))
    assert kinds(log).count("TurnStarted") == 2
    assert log.times(TurnStarted)[1] > log.times(Interrupted)[0]


@pytest.mark.parametrize("policy", ["command", "off"])
def test_other_talk_does_not_stop_it(policy: str) -> None:
    model = Known(6.0)
    log = talk(model, track(0.5, CAPITAL, 1.5, WEEK, 5.0), policy)
    assert kinds(log) == ["SpeechStarted", "TurnStarted", "TurnEnded"]
    assert len(model.asked) == 1


def test_nothing_stops_it_with_the_policy_off() -> None:
    model = Known(6.0)
    log = talk(model, track(0.5, CAPITAL, 1.5, ORDER, 5.0), "off")
    assert not log.of(Interrupted)
    assert model.listened == 1  # of the question, which might have been an order


def test_speaking_up_stops_it_and_is_the_next_question() -> None:
    model = Known(6.0)
    log = talk(model, track(0.5, CAPITAL, 2.0, WEEK, 2.0), "barge-in")
    assert kinds(log)[:6] == [
        "SpeechStarted", "TurnStarted", "Ducked", "Interrupted", "SpeechStarted", "TurnEnded",
    ]  # fmt: skip
    began = 0.5 + len(CAPITAL) / 16_000 + 2.0
    assert 0.1 < log.times(Ducked)[0] - began < 0.6
    assert 0.5 < log.times(Interrupted)[0] - began < 1.2
    assert not log.sounds(log.times(Ducked)[0], log.times(TurnStarted)[1])
    second = log.of(TurnStarted)[1].question
    assert len(second) > 0.95 * len(WEEK)  # from its first sound on


def cough(seconds: float = 0.35, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    size = round(seconds * 16_000)
    burst = rng.standard_normal(size) * np.exp(-np.linspace(0, 5, size))
    return (0.4 * burst / np.abs(burst).max()).astype(np.float32)


@pytest.mark.parametrize(("nod", "stops"), [(0.9, False), (0.1, True)])
def test_a_model_that_knows_nods_by_ear_writes_nothing_down(nod: float, stops: bool) -> None:
    model = Known(6.0)
    model.said = Overheard(0.0, nod)
    log = talk(model, track(0.5, CAPITAL, 2.0, WEEK[:14_000], 6.0), "barge-in")  # 0.9 s of voice: it might be either
    assert bool(log.of(Interrupted)) == stops
    assert not model.transcribed


@pytest.mark.parametrize(("order", "asked"), [(0.01, 0), (0.9, 1)])
def test_whether_a_question_is_an_order_is_asked_only_where_it_may_be(order: float, asked: int) -> None:
    model = Known(6.0)
    model.said = Overheard(order, 0.0)
    log = talk(model, track(0.5, CAPITAL, 1.5), "off")
    assert log.of(TurnStarted)
    assert model.listened == asked


@pytest.mark.parametrize("noise", ["cough", "nod", "hiss"])
def test_what_is_no_speaking_up_is_resumed_at_the_very_sample(noise: str) -> None:
    sound = {
        "cough": cough(),
        "nod": CAPITAL[8_000:14_000],  # 0.4 s of voice
        "hiss": 0.05 * np.random.default_rng(2).standard_normal(24_000).astype(np.float32),
    }[noise]
    log = talk(Known(6.0), track(0.5, CAPITAL, 2.0, sound, 6.0), "barge-in")
    assert not log.of(Interrupted)
    assert len(log.of(Ducked)) == len(log.of(Resumed))
    for ducked, resumed in zip(log.of(Ducked), log.of(Resumed), strict=True):
        assert ducked.position == resumed.position
    if noise == "nod":
        assert log.of(Ducked)
    heard = log.speaker[log.speaker != 0]
    assert np.array_equal(heard, log.made[0][log.made[0] != 0])


@pytest.mark.parametrize("seed", range(3))
def test_noise_alone_never_starts_a_turn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hiss = 0.1 * rng.standard_normal(80_000).astype(np.float32)
    hum = (0.3 * np.sin(2 * np.pi * 110 * np.arange(80_000) / 16_000)).astype(np.float32)
    clicks = np.zeros(80_000, np.float32)
    clicks[rng.integers(0, 80_000, 20)] = 0.9
    model = Known()
    log = talk(model, np.concatenate([hiss, hum, clicks, cough(seed=seed), silence(2.0)]))
    assert not log.of(TurnStarted)
    assert model.asked == []


@pytest.mark.parametrize("policy", ["command", "barge-in"])
@pytest.mark.parametrize("echo", [-20.0, -6.0, 0.0])
def test_its_own_voice_does_not_stop_it(policy: str, echo: float) -> None:
    model = Known(6.0)
    model.stream = lambda audio=None, **options: Said(model)
    log = talk(model, track(0.5, CAPITAL, 9.0), policy, echo)
    assert kinds(log)[:2] == ["SpeechStarted", "TurnStarted"]
    assert not log.of(Interrupted)
    assert len(log.of(TurnStarted)) == 1


class Said:
    """An answer that is speech: all recordings, in pieces."""

    def __init__(self, model: Known) -> None:
        import soxr

        wave = np.concatenate([WEEK, NAME, CAPITAL])
        self.pieces = iter(np.array_split(soxr.resample(0.8 * wave, 16_000, RATE).clip(-1, 1), 40))
        self.left = 40

    def __next__(self) -> Chunk:
        self.left -= 1
        return Chunk(next(self.pieces), "word ", "end" if self.left == 0 else None)

    def __iter__(self) -> "Said":
        return self

    def close(self) -> None: ...


def test_somebody_is_heard_over_the_echo() -> None:
    model = Known(6.0)
    model.stream = lambda audio=None, **options: Said(model)
    log = talk(model, track(0.5, CAPITAL, 4.0, 0.9 * WEEK, 2.0), "barge-in", -12.0)
    (stop, *_) = log.of(Interrupted)
    began = 0.5 + len(CAPITAL) / 16_000 + 4.0
    assert began < log.times(Interrupted)[0] < began + 1.6
    assert stop.why == "barge-in"


def test_phrases_of_ones_own_are_found_in_the_transcript() -> None:
    model = Known(6.0, abilities=("answer", "transcribe"))
    log = talk(model, track(0.5, CAPITAL, 2.0, WEEK, 2.0), phrases=["How many days are in the week"])
    assert [one.why for one in log.of(Interrupted)] == ["command"]


def test_asking_by_hand_and_forgetting() -> None:
    model = Known(3.0)
    session = model.session(remembers=True)
    room = Room(session, RATE)
    session.ask("hello")
    room.run(track(1.0))
    session.ask("and again", image="a picture")
    log = room.run(track(4.0))
    assert [one.why for one in log.of(Interrupted)] == ["asked"]
    assert [one["text"] for one in model.asked] == ["hello", "and again"]
    assert model.asked[1]["image"] == "a picture"
    assert [question for question, _ in session.history] == ["hello", "and again"]
    assert session.history[0][1] == log.of(Interrupted)[0].heard
    session.ask("third")
    room.run(track(0.5))
    assert model.asked[2]["history"] == tuple(session.history)
    session.reset()
    room.run(track(0.5))
    assert session.history == ()
    assert not session.answering


def test_a_failure_is_told_and_the_conversation_goes_on() -> None:
    model = Known(1.0)
    right = model.stream

    def stream(audio: object = None, **options: object) -> object:
        raise BusyError("full")

    model.stream = stream
    session = model.session()
    room = Room(session, RATE)
    session.ask("hello")
    assert isinstance(room.run(track(0.5)).of(TurnFailed)[0].error, BusyError)
    model.stream = right
    session.ask("hello")
    assert room.run(track(2.0)).of(TurnEnded)


def test_impossible_choices_are_refused() -> None:
    model = Known()
    for given in ({"policy": "sometimes"}, {"phrases": "Stop"}, {"phrases": []}, {"phrases": [" "]}):
        with pytest.raises(InputError):
            model.session(**given)
    session = model.session()
    for wrong in (np.zeros(3, np.int16), np.zeros((2, 3), np.float32), np.array([np.nan], np.float32)):
        with pytest.raises(InputError):
            session.listen(wrong)
    with pytest.raises(InputError):
        session.played(-1)
    with pytest.raises(InputError):
        session.ask()


def test_pieces_and_rates_of_the_microphone_do_not_matter() -> None:
    import soxr

    wave = track(0.5, CAPITAL, 2.0)
    heard = []
    for rate, size in ((16_000, 512), (16_000, 777), (48_000, 480)):
        model = Known(1.0)
        sound = soxr.resample(wave, 16_000, rate) if rate != 16_000 else wave
        with model.session() as session:
            events = []
            for begin in range(0, len(sound), size):
                session.listen(sound[begin : begin + size], rate)
                events += session.events()
        heard.append([event.position for event in events if isinstance(event, SpeechStarted | TurnStarted)])
    assert heard[0] == heard[1]
    assert all(abs(a - b) < 1_000 for a, b in zip(heard[0], heard[2], strict=True))
    assert all(a < b for a, b in pairwise(heard[0]))
