"""One request to an engine: what is asked, how far it is, and the events that its caller reads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from ..modeling.decoding_ttt import DecodingRow
from ..modeling.streamers_ttt import StreamEvent
from ..processing.reply_streams import ReplyStream
from .events import Audio, Codes, Draft, End, Event, Text
from .monitor import Monitor


if TYPE_CHECKING:
    from ..processing.processing_ttt import TtTProcessor


class Generation(AsyncIterator[Event]):
    """A request that was submitted to an engine, to be iterated over in the loop that submitted it.

    Events come as in `ttt_hf.serving.events`: `Text`, `Draft` (if asked for), `Codes` and `Audio` in their order, at
    last one `End`. What fails raises its error from the iteration: `ValueError` or `OSError` for input that cannot be
    used, `OverloadedError`, `EngineClosedError`, or what decoding raised. As a context manager it is cancelled when
    the block is left early.

    Args:
        processor: Decodes the reply.
        speech: Whether codes and waveform are wanted.
        drafts: Whether drafts are wanted.
        monitor: Is told how the request goes.

    Attributes:
        row: Its decoding state, once the prompt has been read.
        is_over: Whether it has ended, failed or was cancelled.
        submitted: When it was submitted, by `time.monotonic()`.
    """

    def __init__(self, processor: TtTProcessor, speech: bool, drafts: bool, monitor: Monitor) -> None:
        self.speech = speech and processor.codec is not None
        self.drafts = drafts
        self.submitted = time.monotonic()
        self.row: DecodingRow | None = None
        self.is_over = False
        self._monitor = monitor
        self._stream = ReplyStream(processor, speech)
        self._has_audio = False
        self._prompt_ids: tuple[int, ...] = ()
        self._lock = threading.Lock()
        self._is_read = False
        self._loop = asyncio.get_running_loop()
        # Unbounded, as a slow reader must not hold up the others; a reply has a limit.
        self._events: asyncio.Queue[Event | BaseException] = asyncio.Queue()

    # -- for the caller -----------------------------------------------------------------------------------------------

    async def __anext__(self) -> Event:
        if self._is_read:
            raise StopAsyncIteration
        event = await self._events.get()
        self._is_read = isinstance(event, (End, BaseException))
        if isinstance(event, asyncio.CancelledError):
            raise StopAsyncIteration
        if isinstance(event, BaseException):
            raise event
        return event

    async def reply(self) -> End:
        """Reads all events that are left and returns the last one.

        Raises:
            asyncio.CancelledError: If the request was cancelled.
        """
        async for event in self:
            if isinstance(event, End):
                return event
        raise asyncio.CancelledError

    def cancel(self) -> None:
        """Ends the request, from any thread; its slot is free at the next step. Iterations over it end."""
        self.fail(asyncio.CancelledError())

    async def __aenter__(self) -> Generation:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()

    # -- for the engine's threads -------------------------------------------------------------------------------------

    def prepare(self, row: DecodingRow) -> None:
        """Takes the decoding state."""
        self._prompt_ids = tuple(row.ids)
        self.row = row

    def decode(self, event: StreamEvent | None) -> None:
        """Turns an event of the row into those of the caller; `None` is its end."""
        for made in self._end() if event is None else self._decode(event):
            self._put(made)

    def fail(self, error: BaseException) -> None:
        """Ends the request with an error, unless it is over."""
        if self._finish():
            self._monitor.failed(error)
            self._put(error)

    def _decode(self, event: StreamEvent) -> Iterator[Event]:
        if event.kind == "text":
            yield Text(self._stream.text(event.token_ids), event.token_ids)
        elif event.kind == "draft":
            yield Draft(event.token_ids, event.confidences)
        elif event.kind == "block" and self.speech:
            codes = self._stream.codes(event.token_ids)
            yield Codes(tuple(codes))
            yield from self._audio(self._stream.speech(codes))

    def _end(self) -> Iterator[Event]:
        row = self.row
        if row is None:
            return
        text, samples = self._stream.finish()
        if text:
            yield Text(text)
        yield from self._audio(samples)
        reply = self._stream.reply(row.segments, row.finish_reason)
        end = End(reply, self._prompt_ids, tuple(row.ids[len(self._prompt_ids) :]), row.num_forward_passes)
        if self._finish():
            self._monitor.ended(end, time.monotonic() - self.submitted)
            yield end

    def _audio(self, samples: np.ndarray) -> Iterator[Audio]:
        # A codec that looks ahead holds samples back until later codes arrive.
        if not len(samples):
            return
        if not self._has_audio:
            self._has_audio = True
            self._monitor.first_audio(time.monotonic() - self.submitted)
        yield Audio(samples)

    def _finish(self) -> bool:
        """Marks the request as over; whether it was not."""
        with self._lock:
            was_over, self.is_over = self.is_over, True
        return not was_over

    def _put(self, event: Event | BaseException) -> None:
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:
            # The loop is closed: nobody reads any more.
            self._finish()
