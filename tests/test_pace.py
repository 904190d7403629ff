"""Real time: what is learned of steps, who is let in, who has to wait."""

import asyncio
from contextlib import AsyncExitStack

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toys import tiny_model

from omni2.codec import Range
from omni2.codec.stream import SpeechStream
from omni2.errors import BusyError
from omni2.omni import OmniModel
from omni2.pace import Pace
from omni2.serve.desk import Desk
from omni2.serve.problems import Problem
from omni2.serve.settings import Settings

QUESTION = "what is it"


def learned(seconds_of: dict[int, float], frame: float = 0.1, times: int = 60) -> Pace:
    """A pace that saw so many steps of each number of rows, in turn."""
    pace = Pace(frame)
    for _ in range(times):
        for rows, seconds in seconds_of.items():
            pace.stepped(rows, seconds)
    return pace


def test_before_the_first_step_everything_seems_free() -> None:
    assert Pace(0.08).step_seconds(4) == 0
    assert Pace(0.08).allows(100, 50)


@given(st.floats(0.001, 0.05), st.floats(0.0001, 0.01))
def test_what_steps_of_several_sizes_took_tells_what_more_rows_take(rest: float, growth: float) -> None:
    pace = learned({rows: rest + growth * rows for rows in (2, 4, 6)})
    assert pace.step_seconds(12) == pytest.approx(rest + 12 * growth, rel=0.05)


@given(st.integers(1, 8), st.floats(0.001, 0.1))
def test_of_one_size_alone_each_row_is_taken_to_need_half_its_part(rows: int, seconds: float) -> None:
    pace = learned({rows: seconds})
    assert pace.step_seconds(rows) == pytest.approx(seconds)
    assert pace.step_seconds(2 * rows) == pytest.approx(1.5 * seconds, rel=0.01)


def test_more_rows_never_seem_to_take_less() -> None:
    pace = learned({2: 0.02, 8: 0.01})
    assert pace.step_seconds(16) >= pace.step_seconds(8) > 0


def test_old_steps_fade() -> None:
    pace = learned({2: 1.0})
    for _ in range(400):
        pace.stepped(2, 0.01)
    assert pace.step_seconds(2) == pytest.approx(0.01, rel=0.1)


def test_sound_takes_its_part_of_the_time() -> None:
    pace = learned({2: 0.03, 4: 0.04})
    assert pace.allows(4, 2)
    for _ in range(30):
        pace.sounded(work=0.3, sound=1.0)
    assert pace.load(4, 2) == pytest.approx(0.4 + 2 * 0.3, rel=0.05)
    assert not pace.allows(4, 2)


class Silent:
    """A codec of short frames."""

    sample_rate, frame_size, context = 24_000, 4, (1, 2)

    def decode(self, codes: Tensor, start: int = 0, seed: int | None = None, kept: Range | None = None) -> Tensor:
        first, last = kept or (0, len(codes))
        return torch.zeros(4 * (last - first))


@given(st.lists(st.floats(0, 1.2), min_size=1, max_size=20))
@settings(deadline=None)
def test_under_load_no_chunk_is_longer_than_what_is_made_meanwhile(loads: list[float]) -> None:
    told, asked = iter([*loads, *[loads[-1]] * 60]), [0.0]

    def load() -> float:
        asked.append(next(told))
        return asked[-1]

    stream = SpeechStream(Silent(), 1, 8, load=load)
    sizes = [n for frame in [[0] * 7] * 60 if (n := len(stream.push(frame)) // Silent.frame_size)]
    for i in range(1, len(sizes)):
        grown = sizes[i - 1] < sizes[i]
        assert sizes[i - 1] <= sizes[i] <= min(2 * sizes[i - 1], 8)
        if grown and asked[i] > 0.5:
            assert sizes[i] * asked[i] <= sum(sizes[:i])


def slow(model: OmniModel, seconds: float) -> None:
    """Let the model's engine believe that steps of two rows take so long."""
    assert model.engine.pace is not None
    for _ in range(200):
        model.engine.pace.stepped(2, seconds)


def test_an_engine_in_real_time_refuses_the_answer_that_makes_all_late() -> None:
    model = tiny_model()
    model.engine.realtime = True
    frame = model.bundle.codec.frame_size / model.sample_rate
    with model.stream(text=QUESTION):
        slow(model, 0.8 * frame)
        with pytest.raises(BusyError, match="real time"):
            model.stream(text=QUESTION)
        assert model.engine.live == 1
        with model.stream(text=QUESTION, reply="text"):  # what is read has no time to keep
            assert model.engine.live == 2
        slow(model, 0.2 * frame)
        with model.stream(text=QUESTION):
            assert model.engine.live == 2
    slow(model, 2 * frame)  # one alone is answered, however slow the machine
    with model.stream(text=QUESTION):
        assert model.engine.live == 1


def test_steps_and_sound_tell_the_pace() -> None:
    model = tiny_model()
    model.answer(text=QUESTION)
    assert model.engine.pace is not None
    assert model.engine.pace.step_seconds(1) > 0
    assert model.engine.pace.load(1, 1) > model.engine.pace.load(1, 0)


def test_a_server_seats_no_more_than_keep_real_time_and_lets_the_others_wait() -> None:
    model = tiny_model()
    frame = model.bundle.codec.frame_size / model.sample_rate

    async def scene() -> None:
        desk = Desk(model, Settings(max_sessions=4, max_queue=1, queue_seconds=30))
        async with AsyncExitStack() as first:
            await first.enter_async_context(desk.seat())
            stream = first.enter_context(model.stream(text=QUESTION))
            slow(model, 0.8 * frame)

            async def later() -> None:
                async with desk.seat():
                    pass

            waiting = asyncio.create_task(later())
            await asyncio.sleep(0.05)
            assert (desk.seated, desk.waiting) == (1, 1)
            with pytest.raises(Problem, match="taken") as refused:
                async with desk.seat():
                    pass
            assert refused.value.status == 503
            slow(model, 0.1 * frame)  # the others have left the machine
            async for _ in desk.chunks(lambda: model.stream(text=QUESTION, reply="text")):
                pass
            await asyncio.wait_for(waiting, 10)
            stream.close()
        assert (desk.seated, desk.waiting) == (0, 0)
        async with desk.seat():
            assert desk.seated == 1
        desk.close()

    asyncio.run(scene())


def test_without_it_a_server_fills_its_seats() -> None:
    model = tiny_model()

    async def scene() -> None:
        desk = Desk(model, Settings(max_sessions=2, realtime=0))
        with model.stream(text=QUESTION):
            slow(model, 100.0)
            async with desk.seat(), desk.seat():
                assert desk.seated == 2
        desk.close()

    asyncio.run(scene())
