"""The evaluation of conversations in both directions: scenes, what is right in them, the table."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from duplex import CAPITAL, ORDER, WEEK, Known

from omni2.answer import Chunk
from omni2.duplex.events import Ducked, Interrupted, TurnStarted
from omni2.duplex.turns import LONG
from omni2.eval import duplex
from omni2.eval.duplex import KEYS, TURNS, Result, Scene, play, scenes, table
from omni2.eval.rooms import Log
from omni2.train.data.interruption import PHRASES

ITEMS = [SimpleNamespace(test=("How many days are in a week?", "Tell me how many days a week has."))]


@pytest.fixture(autouse=True)
def voices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders sound as `ORDER`, questions as `WEEK`, answers as `CAPITAL`."""
    monkeypatch.setattr(
        duplex, "spoken", lambda voice, text: ORDER if text in PHRASES else CAPITAL if voice == "hibari" else WEEK
    )
    duplex.monologue.cache_clear()
    yield
    duplex.monologue.cache_clear()


def test_there_are_scenes_of_every_kind() -> None:
    made = scenes(2, ITEMS)
    counts = Counter(scene.kind for scene in made)
    assert list(counts) == list(KEYS)
    turns = {kind: counts.pop(kind) for kind in ("question", "pause within a question")}
    assert set(turns.values()) == {2 * TURNS}
    assert set(counts.values()) == {2}
    assert {scene.policy for scene in made} == {"command", "barge-in"}
    for scene in made:
        assert 0 <= scene.start < scene.end <= len(scene.track) / 16_000
        if scene.pause:
            assert scene.start < scene.pause[0] < scene.pause[1] < scene.end
    again = scenes(2, ITEMS)
    assert all(np.array_equal(one.track, other.track) for one, other in zip(made, again, strict=True))


def test_a_model_that_hears_orders_is_right() -> None:
    made = {scene.kind: scene for scene in scenes(1, ITEMS)}
    results = [play(Known(), made[kind]) for kind in ("order, clean", "near miss", "question", "speaking up")]
    assert [one.is_right for one in results] == [True] * 4
    order, near, question, up = results
    assert order.silence < 0.5
    assert near.is_whole
    assert 0 < question.answered < 1.0  # the recording ends in silence
    assert 0.1 < up.silence < 0.8
    figures = {one.key: one.value for one in table(results).figures}
    assert figures["duplex.order"] == figures["duplex.turn"] == figures["duplex.up"] == figures["duplex.whole"] == 100
    assert figures["duplex.near"] == figures["duplex.false"] == 0


def test_what_went_wrong_is_told() -> None:
    deaf = Known(abilities=("answer",))
    made = {scene.kind: scene for scene in scenes(1, ITEMS)}
    result = play(deaf, made["order, clean"])
    assert not result.is_right
    told = table([result])
    assert [one.value for one in told.figures if one.key == "duplex.order"] == [0]
    assert "went on" in next(iter(told.wrong))


def test_taking_over_in_a_pause_and_losing_samples_are_noticed() -> None:
    scene = Scene("pause within a question", np.zeros(16_000, np.float32), 0.0, 1.0, pause=(0.3, 0.6))
    hasty = Result(scene, Log([(0.5, TurnStarted(None, 0))]))
    assert hasty.took_over
    assert not hasty.is_right
    sound = np.ones(100, np.float32)
    assert not Result(scene, Log(made=[sound], speaker=np.concatenate([sound[:50], 2 * sound[:50]]))).is_whole
    stop = Scene("order, clean", scene.track, 1.0, 2.0, stops=True)
    held = Result(stop, Log([(2.1, Ducked(5)), (2.4, Interrupted(5, "", "command"))]))
    assert held.silence == pytest.approx(0.1)


def test_an_answer_is_due_after_the_longest_wait_for_more() -> None:
    asked = Scene("question", np.zeros(48_000, np.float32), 0.0, 1.0)
    sound = Chunk(np.ones(100, np.float32), "")
    late, missed = (Result(asked, Log([(1.0 + LONG + wait, sound)])) for wait in (0.2, 0.7))
    assert late.is_right
    assert not missed.is_right
    assert {one.key: one.value for one in table([late, missed]).figures}["duplex.turn"] == 50
