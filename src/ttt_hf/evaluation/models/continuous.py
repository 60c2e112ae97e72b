"""Continuous batching: whenever a reply has ended, the next prompt takes its slot while the others go on."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from ...memory import is_out_of_memory
from ...modeling import DecodingSession
from ...modeling.decoding_ttt import DecodingRow
from ...modeling.session_ttt import prepare_row
from .failing import SAMPLE_ERRORS


Key = TypeVar("Key")


@dataclass
class Request(Generic[Key]):
    """A prompt to be answered.

    Attributes:
        key: What its answer belongs to; not used here.
        ids: Ids of the prompt, without padding.
        generation: Arguments of `generate()`.
        seconds: Its share so far of the time that forwards took.
    """

    key: Key
    ids: list[int]
    generation: dict[str, Any]
    seconds: float = 0.0


class ContinuousBatch(Generic[Key]):
    """Decodes requests in the slots of a session, in the order in which they come.

    What does not fit into memory is decoded in fewer slots; a request whose forward fails for another reason fails
    alone.

    Args:
        model: A [`TtTForConditionalGeneration`].
        requests: The requests; each is taken when a slot is free. The longest should come first, so that the cache
            need not grow.
        slots: Number of requests that are decoded together.
    """

    def __init__(self, model: Any, requests: Iterable[Request[Key]], slots: int) -> None:
        self.model = model
        self.slots = slots
        self._requests = iter(requests)
        # Those of a forward that failed, which are repeated one by one before any others.
        self._repeated: deque[Request[Key]] = deque()
        self._running: dict[int, Request[Key]] = {}
        self._session: DecodingSession | None = None

    def replies(self) -> Iterator[tuple[Request[Key], DecodingRow | Exception]]:
        """Yields each request with its row, or with the error that it failed with, as they end."""
        while True:
            yield from self._admit()
            if self._session is None or not self._running:
                return
            failure = self._tick(self._session)
            if failure is not None:
                yield from self._fail(failure)
                continue
            for event in self._session.events():
                if event.kind == "end":
                    yield self._running.pop(event.slot), event.error or self._session.row(event.slot)
                    self._session.release(event.slot)

    def _admit(self) -> Iterator[tuple[Request[Key], Exception]]:
        """Fills the free slots; yields requests that cannot be decoded at all."""
        while len(self._running) < (1 if self._repeated else self.slots):
            request = self._repeated.popleft() if self._repeated else next(self._requests, None)
            if request is None:
                return
            try:
                row = prepare_row(self.model, request.ids, **request.generation)
            except SAMPLE_ERRORS as error:
                yield request, error
                continue
            if self._session is None:
                self._session = DecodingSession(self.model, self.slots)
            self._running[self._session.add(row)] = request

    def _tick(self, session: DecodingSession) -> Exception | None:
        """Makes one step of all rows; returns the error if it fails."""
        started = time.perf_counter()
        failure = None
        try:
            session.tick()
        # A RuntimeError, too, so that it has to come before the errors of samples.
        except torch.AcceleratorError:
            raise
        except SAMPLE_ERRORS as error:
            # Without its traceback, which would keep the tensors of the failed forward alive.
            failure = error.with_traceback(None)
        for request in self._running.values():
            request.seconds += (time.perf_counter() - started) / len(self._running)
        return failure

    def _fail(self, failure: Exception) -> Iterator[tuple[Request[Key], Exception]]:
        """Begins anew after a forward that failed, with fewer rows; yields a request that failed alone."""
        requests = list(self._running.values())
        self._running, self._session = {}, None
        torch.cuda.empty_cache()
        if is_out_of_memory(failure):
            self.slots = max(1, len(requests) // 2)
        if len(requests) == 1:
            yield requests[0], failure
        else:
            self._repeated.extendleft(reversed(requests))
