"""Numbers about the engine, for Prometheus."""

from __future__ import annotations

import asyncio
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..events import End
from ..monitor import Monitor


SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
FACTORS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0)


class Metrics(Monitor):
    """Counts what an engine does."""

    def __init__(self) -> None:
        # A registry of its own: several servers may run in a process.
        self.registry = CollectorRegistry()
        settings: dict[str, Any] = {"registry": self.registry, "namespace": "ttt"}
        self._queue = Gauge("queue_requests", "Requests that wait for a slot", **settings)
        self._rows = Histogram("step_rows", "Rows of a step of the engine", buckets=ROWS, **settings)
        self._step = Histogram("step_seconds", "Duration of a step of the engine", buckets=SECONDS, **settings)
        self._first = Histogram(
            "first_audio_seconds", "From a request to its first samples", buckets=SECONDS, **settings
        )
        self._seconds = Histogram("request_seconds", "From a request to its end", buckets=SECONDS, **settings)
        self._factor = Histogram(
            "real_time_factor", "Seconds of a request per second of its speech", buckets=FACTORS, **settings
        )
        self._requests = Counter("requests", "Requests by how they ended", ["outcome"], **settings)
        self._tokens = Counter("tokens", "Tokens of prompts and replies", ["kind"], **settings)

    def waiting(self, requests: int) -> None:
        self._queue.set(requests)

    def ticked(self, rows: int, seconds: float) -> None:
        self._rows.observe(rows)
        self._step.observe(seconds)

    def first_audio(self, seconds: float) -> None:
        self._first.observe(seconds)

    def ended(self, end: End, seconds: float) -> None:
        self._requests.labels(end.reply.finish_reason).inc()
        self._seconds.observe(seconds)
        self._tokens.labels("prompt").inc(len(end.prompt_ids))
        self._tokens.labels("reply").inc(len(end.token_ids))
        if len(end.reply.audio):
            self._factor.observe(seconds * end.reply.sampling_rate / len(end.reply.audio))

    def failed(self, error: BaseException) -> None:
        self._requests.labels("cancelled" if isinstance(error, asyncio.CancelledError) else "error").inc()

    def text(self) -> bytes:
        """All numbers in Prometheus' text format."""
        return generate_latest(self.registry)
