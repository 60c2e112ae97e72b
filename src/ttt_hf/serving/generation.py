"""One request to an engine: what is asked, how far it is, and the events that its caller reads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from ..modeling.decoding_ttt import DecodingRow
from ..modeling.streamers_ttt import StreamEvent
from ..processing.reply_streams import ReplyStream, decode_speech
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
        # Whether its pieces are not read, so that speech is decoded once, at the end.
        self._is_whole = False
        # Whether the row has ended, and whether there is speech to decode.
        self._has_ended = False
        self._has_codes = False
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

        Speech that is not decoded yet is decoded once, at the end.

        Raises:
            asyncio.CancelledError: If the request was cancelled.
        """
        self._is_whole = True
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

    def take(self, event: StreamEvent | None) -> None:
        """Turns an event of the row into those of the caller, but for speech; `None` is its end."""
        if event is None:
            self._has_ended = True
            if text := self._stream.last_text():
                self._put(Text(text))
        elif event.kind == "text":
            self._put(Text(self._stream.text(event.token_ids), event.token_ids))
        elif event.kind == "draft":
            self._put(Draft(event.token_ids, event.confidences))
        elif event.kind == "block" and self.speech:
            codes = self._stream.codes(event.token_ids)
            self._stream.take(codes)
            self._has_codes = True
            self._put(Codes(tuple(codes)))

    @property
    def is_due(self) -> bool:
        """Whether `tell` has something to tell."""
        return not self.is_over and (self._has_ended or (self._has_codes and not self._is_whole))

    def fail(self, error: BaseException) -> None:
        """Ends the request with an error, unless it is over."""
        if self._finish():
            self._monitor.failed(error)
            self._put(error)

    def _speak(self, samples: np.ndarray) -> None:
        self._has_codes = False
        # A codec that looks ahead holds samples back until later codes arrive.
        if len(samples):
            if not self._has_audio:
                self._has_audio = True
                self._monitor.first_audio(time.monotonic() - self.submitted)
            self._put(Audio(samples))
        if self._has_ended and self.row is not None:
            self._end(self.row)

    def _end(self, row: DecodingRow) -> None:
        reply = self._stream.reply(row.segments, row.finish_reason)
        end = End(reply, self._prompt_ids, tuple(row.ids[len(self._prompt_ids) :]), row.num_forward_passes)
        if self._finish():
            self._monitor.ended(end, time.monotonic() - self.submitted)
            self._put(end)

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


def tell(requests: Sequence[Generation]) -> None:
    """Decodes speech of requests that are due, in forwards that they share, and tells their callers."""
    if not requests:
        return
    samples = decode_speech([request._stream for request in requests], [request._has_ended for request in requests])
    for request, new in zip(requests, samples):
        try:
            request._speak(new)
        except Exception as error:
            request.fail(error)
