"""What is counted and timed, for Prometheus; every app has its own registry, so several can live in one process."""

import time
from collections.abc import Awaitable, Iterable
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from omni2.engine import Engine
from omni2.omni import Chunk

R = TypeVar("R")

FIRST_AUDIO = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)  # seconds
RTF = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 5.0)  # seconds of work a second of sound


class Metrics:
    """The server's figures.  Labels are routes, statuses and error codes: never anything that a client wrote."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        on = self.registry = CollectorRegistry()
        self.sessions = Gauge("omni2_sessions", "Seats taken", registry=on)
        self.queue = Gauge("omni2_queue_length", "Requests that wait for a seat", registry=on)
        self.connections = Gauge("omni2_realtime_connections", "Open realtime connections", registry=on)
        self.requests = Counter("omni2_requests", "Requests", ["route", "status"], registry=on)
        self.errors = Counter("omni2_errors", "Errors told to clients", ["code"], registry=on)
        self.first_audio = Histogram(
            "omni2_first_audio_seconds", "From the seat to the first sound", buckets=FIRST_AUDIO, registry=on
        )
        self.rtf = Histogram(
            "omni2_real_time_factor", "Seconds of work a second of sound, of whole answers", buckets=RTF, registry=on
        )

    def page(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self.registry)


class Steps(Collector):
    """Counts what the engine has done, asked for when the page is."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        """One counter."""
        yield CounterMetricFamily("omni2_steps", "Decoding steps, each for all answers at once", self._engine.steps)


class Stopwatch:
    """The times of one answer; only the work is timed, not the pauses of a client that reads slowly."""

    def __init__(self, metrics: Metrics, sample_rate: int) -> None:
        self._metrics, self._rate = metrics, sample_rate
        self._worked, self._samples = 0.0, 0

    async def time(self, work: Awaitable[R]) -> R:
        """The result of `work`, whose duration is added."""
        began = time.perf_counter()
        result = await work
        self._worked += time.perf_counter() - began
        return result

    def note(self, chunk: Chunk) -> None:
        """Take down what `chunk` tells."""
        if chunk.audio.size:
            if not self._samples:
                self._metrics.first_audio.observe(self._worked)
            self._samples += chunk.audio.size
        if chunk.finish_reason and self._samples:
            self._metrics.rtf.observe(self._worked * self._rate / self._samples)
