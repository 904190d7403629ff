"""The evaluation of the stop command: scenes, moments of decision, scores, false stops."""

import numpy as np
import pytest

from omni2.duplex.judge import EVERY, SOON
from omni2.eval import asking, interruption
from omni2.eval.interruption import LISTENING, Case, Result, decide, false_stops, scores
from omni2.omni import SAMPLE_RATE
from omni2.train.data.interruption import PHRASES
from omni2.train.data.reserved import NEAR

SECOND = np.ones(SAMPLE_RATE, np.float32)
EVERYDAY = ("The cat sat.", "Go home now.")


class Listener:
    """Stops once a loud positive sound is over for 20 ms; orders sound so, all else is negative."""

    def ordered(self, wave: np.ndarray) -> float:
        loud = wave > 0.3
        return float(loud[-round(LISTENING * SAMPLE_RATE) :].any() and not loud[-320:].any())


class Always:
    def ordered(self, wave: np.ndarray) -> float:
        return 1.0


class Never:
    def ordered(self, wave: np.ndarray) -> float:
        return 0.0


@pytest.fixture(autouse=True)
def signs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Voices that say orders as a second above zero and all else as one below."""
    monkeypatch.setattr(asking, "say", lambda voice, text: (0.5 if text in PHRASES else -0.5) * SECOND)
    monkeypatch.setattr(interruption, "everyday", lambda: EVERYDAY)
    monkeypatch.setattr(interruption, "TALK", len(EVERYDAY))
    asking.spoken.cache_clear()
    yield
    asking.spoken.cache_clear()


def figures(results: list[Result], stops: int = 0, minutes: float = 60.0) -> dict[str, float]:
    return {
        one.key.removeprefix("interruption."): one.value for one in interruption.table(results, stops, minutes).figures
    }


def test_scenes_are_orders_and_others_at_every_level() -> None:
    made = interruption.cases(4)
    assert len(made) == 4 * 8
    assert {case.level for case in made} == {None, 20.0, 10.0, 5.0}
    assert {case.text for case in made if case.order} <= {*PHRASES}
    others = {case.text for case in made if not case.order}
    assert others & {*NEAR}
    assert others & {*EVERYDAY}
    for case in made:
        assert case.start >= LISTENING * SAMPLE_RATE
        assert case.wave.size > case.end + interruption.LATE * SAMPLE_RATE
        assert np.abs(case.wave).max() == pytest.approx(10 ** (-3 / 20), abs=1e-3)


@pytest.mark.parametrize("level", [20.0, 5.0])
def test_babble_lies_as_far_below_the_phrase_as_said(level: float) -> None:
    case = interruption.scene(PHRASES[0], "flite-kal", True, level, np.random.default_rng(0))
    behind = case.wave[: case.start].astype(float)
    phrase = case.wave[case.start : case.end].astype(float) - behind.mean()
    assert 20 * np.log10(phrase.mean() / -behind.mean()) == pytest.approx(level, abs=0.5)


def test_a_model_that_waits_for_the_end_is_right_as_soon_as_asked_three_times() -> None:
    results = interruption.run(Listener(), [case for case in interruption.cases(6) if case.level is None])
    assert all(one.is_right for one in results)
    assert all(2 * SOON - 0.01 <= one.delay <= EVERY + 2 * SOON + 0.02 for one in results if one.case.order)
    got = figures(results)
    assert got["clean.f1"] == got["clean.precision"] == got["clean.recall"] == 1
    assert 2 * SOON - 0.01 <= got["median"] <= got["delay"] <= EVERY + 2 * SOON + 0.02


def test_stops_before_the_order_is_over_are_false() -> None:
    case = Case(np.tile(SECOND, 5), 48_000, 64_000, True, None, "Stop Omni.", "flite-kal")
    hasty = decide(Always(), case)
    assert 2 * SOON - 1.0 <= hasty.stopped < EVERY + 2 * SOON - 1.0
    assert (hasty.delay, hasty.is_right) == (None, False)
    assert Result(case, -0.1).delay == 0.0
    assert decide(Never(), case) == Result(case, None)


def test_scores() -> None:
    order = Case(SECOND, 0, 16_000, True, 5.0, "Stop Omni.", "flite-kal")
    other = Case(SECOND, 0, 16_000, False, 5.0, "Stop the car.", "flite-kal")
    results = [Result(order, 0.1), Result(order, 0.3), Result(order, None), Result(order, -0.9), Result(other, 0.2)]
    assert scores([*results, Result(other, None)]) == (0.5, 0.5, 0.5)
    assert scores([Result(order, None)]) == (0, 0, 0)
    table = interruption.table([*results, Result(other, None)], 3, 20.0)
    assert figures(results, 3, 20.0)["false"] == 9
    assert "3 in 20 min" in table.figures[-1].what
    assert list(table.wrong) == [
        "flite-kal, 5: Stop Omni. → did not stop",
        "flite-kal, 5: Stop Omni. → stopped -0.90 s from its end",
        "flite-kal, 5: Stop the car. → stopped +0.20 s from its end",
    ]


def test_other_speech_lasts_as_long_as_asked_and_stops_in_it_are_counted() -> None:
    pieces = interruption.other_speech(0.5)
    heard = sum(piece.size / SAMPLE_RATE - LISTENING for piece in pieces)
    assert heard == pytest.approx(30, abs=0.01)
    assert false_stops(Never(), pieces) == 0
    assert false_stops(Always(), pieces) == len(pieces) * round(10 / LISTENING)
