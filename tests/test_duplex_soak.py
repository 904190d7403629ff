"""Two hours of conversation on a virtual clock leave everything as it was."""

import gc
import threading

import numpy as np
import pytest
from duplex import CAPITAL, ORDER, RATE, WEEK, Known, silence
from toys import ABILITIES, tiny_model, tone

from omni2.bench import resident
from omni2.duplex import ear
from omni2.duplex.events import Interrupted, TurnStarted
from omni2.eval.rooms import Log, Room

HOURS = 2


class Loudness:
    """Takes all that is loud for speech: the network would hear two hours for minutes."""

    def push(self, window: np.ndarray) -> float:
        return float(np.abs(window).max() > 0.02)


class Deaf:
    """A room without echo needs no filter."""

    def push(self, heard: np.ndarray, played: np.ndarray) -> tuple[np.ndarray, float]:
        return heard, 0.0


def held() -> tuple[int, float]:
    """Objects alive, and megabytes of this process; tracemalloc would make the hours of it eight times as long."""
    gc.collect()
    return len(gc.get_objects()), resident()


@pytest.mark.slow
def test_two_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ear, "SpeechMeter", Loudness)
    monkeypatch.setattr(ear, "EchoCanceller", Deaf)
    rng = np.random.default_rng(0)
    model = Known(4.0)
    sessions = turns = stops = 0
    passed, objects, megabytes = 0.0, 0, 0.0
    threads = threading.active_count()
    while passed < HOURS * 3600:
        session = model.session(str(rng.choice(["command", "barge-in"])), remembers=True, room=60)
        room = Room(session, RATE)
        for _ in range(int(rng.integers(5, 15))):
            parts = [silence(rng.uniform(0.5, 20.0)), CAPITAL, silence(rng.uniform(0.5, 6.0))]
            if rng.random() < 0.5:
                parts += [(ORDER, WEEK)[int(rng.integers(2))], silence(rng.uniform(0.2, 8.0))]
            room.run(np.concatenate(parts))
            turns += len(room.log.of(TurnStarted))
            stops += len(room.log.of(Interrupted))
            room.log = Log(made=[np.zeros(0, np.float32)], rate=RATE)
            room._played.clear()
        assert len(session.history) <= 6
        passed, sessions = passed + room.now, sessions + 1
        session.close()  # wherever it stands: as after a disconnect
        del session, room
        model.asked.clear()
        if sessions == 5:
            objects, megabytes = held()
    more_objects, more_megabytes = (after - before for after, before in zip(held(), (objects, megabytes), strict=True))
    assert turns > 300
    assert stops > 60
    assert more_objects < 2_000  # a session has hundreds
    assert more_megabytes < 50
    assert threading.active_count() == threads


def test_a_closed_session_frees_its_rows() -> None:
    model = tiny_model(abilities=ABILITIES, block_size=400)
    for policy in ("command", "barge-in", "off"):
        session = model.session(policy, history=True)
        events = session.events()
        session.ask("what is there")
        next(events)
        assert model.engine.live == 1
        session.ask("and now")
        assert next(event for event in events if isinstance(event, TurnStarted)).question == "and now"
        session.listen(np.tile(tone(), 5))
        session.close()
        assert model.engine.live == 0
        assert list(session.events()) == []
    assert len(model.engine._free) == 8
