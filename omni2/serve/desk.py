"""Where requests meet the model: seats, a bounded queue, threads for the model's calls, a clean end."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

from omni2.omni import AnswerStream, Chunk, OmniModel
from omni2.serve.logs import log_failure
from omni2.serve.metrics import Metrics, Steps, Stopwatch
from omni2.serve.problems import Problem, as_problem, busy
from omni2.serve.settings import Settings

R = TypeVar("R")


class Desk:
    """One model and the seats in front of it; lives on one event loop, which no model call ever runs on.

    async with aclosing(desk.answer(lambda: desk.model.stream(audio))) as chunks:
        async for chunk in chunks:
            ...
    """

    def __init__(self, model: OmniModel, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self.draining = False
        self.seated = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._threads = ThreadPoolExecutor(settings.max_sessions + 4, "omni2")
        self.metrics = Metrics()
        self.metrics.sessions.set_function(lambda: self.seated)
        self.metrics.queue.set_function(lambda: self.waiting)
        self.metrics.registry.register(Steps(model.engine))

    @property
    def waiting(self) -> int:
        """Requests that wait for a seat."""
        return len(self._queue)

    @asynccontextmanager
    async def seat(self) -> AsyncIterator[None]:
        """Hold one of `max_sessions` seats, after a bounded wait in a bounded queue, first come first served.

        Fewer are given where more answers at once would fall behind real time.

        Raises Problem 503 when the queue is full, the wait too long or the server about to stop.
        """
        await self._sit()
        try:
            yield
        finally:
            self._rise()

    async def _sit(self) -> None:
        if self.draining:
            raise busy("the server is shutting down")
        if self._has_room and not self._queue:
            self.seated += 1
            return
        if self.waiting >= self.settings.max_queue:
            raise busy()
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await asyncio.wait({turn}, timeout=self.settings.queue_seconds)
        except asyncio.CancelledError:
            if turn.done() and turn.exception() is None:
                self._rise()
            raise
        finally:
            if not turn.done():
                self._queue.remove(turn)
        if not turn.done():
            raise busy(f"no seat became free within {self.settings.queue_seconds:g} s")
        turn.result()

    @property
    def _has_room(self) -> bool:
        """Whether there is a seat, and time for one more answer besides those that are seated, decoding yet or not."""
        joining = 1 + max(self.seated - self.model.engine.live, 0)
        in_time = not self.settings.realtime or not self.seated or self.model.engine.has_time(joining)
        return self.seated < self.settings.max_sessions and in_time

    def _call(self) -> None:
        """Seat those who wait longest, as long as there is room."""
        while self._queue and self._has_room:
            self.seated += 1
            self._queue.popleft().set_result(None)

    def _rise(self) -> None:
        """Leave the seat to whoever waits longest."""
        self.seated -= 1
        self._call()

    async def run(self, call: Callable[..., R], *args: object) -> R:
        """`call(*args)` on a thread of the desk's own."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *args)

    async def chunks(self, start: Callable[[], AnswerStream]) -> AsyncGenerator[Chunk, None]:
        """The chunks of the stream that `start` opens; leaving the iteration stops its decoding within a step.

        Errors of `start` (bad input, no rows) are raised at the first `anext`, before any chunk.  All that is measured
        of answers is measured here.
        """
        watch = Stopwatch(self.metrics, self.model.sample_rate)
        stream = await watch.time(self.run(start))  # cancelled meanwhile, the stream is dropped, which closes it
        try:
            while (chunk := await watch.time(self.run(next, stream, None))) is not None:
                watch.note(chunk)
                self._call()  # what is known of the time that answers take has grown
                yield chunk
        finally:
            stream.close()

    async def answer(self, start: Callable[[], AnswerStream]) -> AsyncGenerator[Chunk, None]:
        """`chunks` on a seat of its own, given back at the end or when the iteration is closed."""
        async with self.seat(), aclosing(self.chunks(start)) as chunks:
            async for chunk in chunks:
                yield chunk

    def report(self, error: BaseException) -> Problem:
        """What to tell the client of `error`: counted, and logged if it is the server's own fault."""
        problem = as_problem(error)
        self.metrics.errors.labels(problem.code).inc()
        if problem.status == 500:
            log_failure(error)
        return problem

    async def drain(self) -> None:
        """Let no one in any more; return when all seats are empty, at the latest after `drain_seconds`."""
        self.draining = True
        while self._queue:
            self._queue.popleft().set_exception(busy("the server is shutting down"))
        deadline = asyncio.get_running_loop().time() + self.settings.drain_seconds
        while self.seated and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)

    def close(self) -> None:
        """Give the threads back."""
        self._threads.shutdown(wait=False, cancel_futures=True)
