"""The engine: many requests, of any kind and at any stage, in the same forwards.

Two threads share the work, so that a long recording does not hold up the decoding:

    submit ──► reader ───────────► decoder ────────────────► events, in the caller's asyncio loop
               messages to ids,    a DecodingSession:
               arguments checked   admit, tick, cancel;
                                   ids to text and waveform

The decoder alone computes all the time. OpenMP keeps a team of threads for each thread that has computed, and once
teams have more threads than there are cores, it lets all of them sleep between operations, which makes a step of a
small model almost twice as long. So recordings are encoded in threads that end (`in_own_thread`), and a model for an
engine is best loaded in one, too.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from ..codecs import output_sampling_rate
from ..memory import is_out_of_memory
from ..modeling.session_ttt import DecodingSession, prepare_row
from ..modeling.streamers_ttt import EventStreamer, StreamEvent
from ..processing.fetching import CONTENT, Access
from ..processing.reply_streams import ReplyStream, shares_forwards
from .generation import Generation, tell
from .limits import EngineClosedError, Limits, OverloadedError, QueueFullError
from .monitor import Monitor
from .prompts import encode_prompt, read_recording
from .threads import in_own_thread


if TYPE_CHECKING:
    from ..modeling.modeling_ttt import TtTForConditionalGeneration
    from ..processing.processing_ttt import TtTProcessor

# How much the last reply counts in the average duration of replies.
NEWEST_SHARE = 0.2
# Seconds of a reply, before there is one.
FIRST_GUESS = 2.0


class Engine:
    """Answers many requests with one model.

    A request joins at the next step, whatever the others do, and leaves without copying theirs. Its ids are those that
    `generate()` gives it alone. One that fails leaves the others alone, and where memory runs out, the newest requests
    are refused rather than all lost.

    Args:
        model: The model, in evaluation mode; nothing else may use it meanwhile.
        processor: Its processor; without a codec requests and replies are in writing.
        limits: What is taken on at most.
        monitor: Is told what happens.

    Attributes:
        capacity: Tokens of a prompt and its reply at most.

    Raises:
        ValueError: If the codec cannot decode piece by piece.

    Example:
        ```python
        with Engine(model, processor) as engine:

            async def answer(question):
                async with engine.submit([{"role": "user", "content": question}], seed=0) as generation:
                    async for event in generation:
                        match event:
                            case Text(text=text):
                                print(text, end="")
                            case Audio(samples=samples):
                                play(samples, engine.sampling_rate)
                            case End(reply=reply):
                                print(reply.finish_reason)
        ```
    """

    def __init__(
        self,
        model: TtTForConditionalGeneration,
        processor: TtTProcessor,
        limits: Limits | None = None,
        monitor: Monitor | None = None,
    ) -> None:
        # Not every codec can decode piece by piece, which the first request is not to find out.
        ReplyStream(processor)
        self.model = model
        self.processor = processor
        self.limits = limits or Limits()
        self.monitor = monitor or Monitor()
        longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.capacity = min(self.limits.context, longest or self.limits.context)
        # Guards all below, and says that some of it has changed.
        self._changed = threading.Condition()
        self._waiting: deque[Generation] = deque()
        self._running: dict[int, Generation] = {}
        self._is_closing = False
        self._is_stopped = False
        self._seconds = FIRST_GUESS
        # Of these threads' own: how many rows fit into memory, the rows, and what has come of them.
        self._room = self.limits.slots
        self._session = self._new_session()
        self._news: list[tuple[Generation, StreamEvent | None]] = []
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="ttt-reader")
        self._decoder = threading.Thread(target=self._decode, name="ttt-decoder", daemon=True)
        self._decoder.start()

    @property
    def sampling_rate(self) -> int:
        """Rate in Hz of replies' waveforms; 0 without a codec."""
        codec = self.processor.codec
        return output_sampling_rate(codec.config) if codec is not None else 0

    @property
    def is_open(self) -> bool:
        """Whether it takes requests."""
        return not self._is_closing and self._decoder.is_alive()

    @property
    def num_running(self) -> int:
        """Number of requests that are being decoded."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Number of requests that wait for a slot."""
        return len(self._waiting)

    def submit(
        self,
        messages: Sequence[Mapping[str, Any]],
        task: str | None = None,
        speech: bool = True,
        drafts: bool = False,
        access: Access = CONTENT,
        **generation: Any,
    ) -> Generation:
        """Takes a request; to be called in a running asyncio loop.

        Args:
            messages: As for `TtTProcessor.apply_chat_template`.
            task: Selects the system prompt: `chat` (default), `asr`, `tts`, `audio` or `text`.
            speech: Whether speech in the reply is decoded. If not, its text alone is received.
            drafts: Whether to receive the blocks while they are denoised.
            access: What audio items may name: by default nothing, so that they hold their audio themselves.
            **generation: Arguments of `generate()`.

        Returns:
            The request, to be iterated over. Errors of what it asks for are raised there.

        Raises:
            QueueFullError: If as many requests wait as may.
            EngineClosedError: If the engine is shutting down.
        """
        request = Generation(self.processor, speech, drafts, self.monitor)
        with self._changed:
            if not self.is_open:
                raise EngineClosedError("The server is shutting down.")
            if len(self._waiting) >= self.limits.queue:
                raise QueueFullError(f"{len(self._waiting)} requests are waiting already.", self._retry_after())
            self._waiting.append(request)
            self.monitor.waiting(len(self._waiting))
            self._reader.submit(in_own_thread, self._read, request, messages, task, access, generation)
        return request

    async def encode(self, source: Any, sampling_rate: int | None = None) -> list[int]:
        """Codes of a recording, for messages that are sent more than once.

        Args:
            source: As for `read_audio`, but nothing that names a file or an address.
            sampling_rate: Rate in Hz of samples.

        Raises:
            ValueError: If it cannot be used or is too long.
        """
        return await asyncio.wrap_future(self._reader.submit(in_own_thread, self._encode, source, sampling_rate))

    def _encode(self, source: Any, sampling_rate: int | None) -> list[int]:
        if self.processor.codec is None:
            raise ValueError("This model has no codec, so that it hears nothing.")
        samples, rate = read_recording(source, sampling_rate, CONTENT, self.limits.audio_seconds)
        return self.processor.encode_audio([self.processor.load_recording(samples, rate, CONTENT)])[0].tolist()

    def close(self, seconds: float = 30.0) -> None:
        """Refuses new requests, finishes those that it has, and ends.

        Args:
            seconds: How long they may take; what is left then fails.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._waiting and not self._running, timeout=seconds)
            self._is_stopped = True
            self._changed.notify_all()
        self._reader.shutdown(cancel_futures=True)
        self._decoder.join()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(seconds=0.0 if error is not None else 30.0)

    def _new_session(self) -> DecodingSession:
        return DecodingSession(self.model, self.limits.slots, self.capacity)

    def _retry_after(self) -> int:
        """Seconds until those that wait now may have been answered."""
        rounds = (len(self._waiting) + len(self._running)) / self.limits.slots
        return max(1, math.ceil(self._seconds * rounds))

    # -- the reader: messages to prompts ------------------------------------------------------------------------------

    def _read(
        self,
        request: Generation,
        messages: Sequence[Mapping[str, Any]],
        task: str | None,
        access: Access,
        generation: Mapping[str, Any],
    ) -> None:
        try:
            if not request.is_over:
                prompt = encode_prompt(self.processor, messages, task, access, self.limits.audio_seconds)
                streamer = EventStreamer(partial(self._receive, request))
                arguments = self._arguments(generation)
                request.prepare(prepare_row(self.model, prompt, self.capacity, streamer, **arguments))
        # Whatever a request can cause must not end the thread.
        except Exception as error:
            request.fail(error)
        with self._changed:
            self._changed.notify_all()

    def _arguments(self, generation: Mapping[str, Any]) -> dict[str, Any]:
        wanted = generation.get("max_new_tokens")
        if wanted is None:
            wanted = self.model.generation_config.max_new_tokens or self.limits.new_tokens
        # What is no number is left to the checks of `generate()`.
        if isinstance(wanted, int):
            wanted = min(wanted, self.limits.new_tokens)
        arguments = {**generation, "max_new_tokens": wanted}
        if arguments.get("stop_strings"):
            arguments["tokenizer"] = self.processor.tokenizer
        return arguments

    def _receive(self, request: Generation, event: StreamEvent) -> None:
        if event.kind != "draft" or request.drafts:
            self._news.append((request, event))

    # -- the decoder: the rows ----------------------------------------------------------------------------------------

    def _decode(self) -> None:
        try:
            while self._step():
                pass
        finally:
            with self._changed:
                self._is_closing = True
                left = [*self._running.values(), *self._waiting]
                self._running.clear()
                self._waiting.clear()
                self._changed.notify_all()
            for request in left:
                request.fail(EngineClosedError("The server has shut down before the reply was complete."))

    def _step(self) -> bool:
        """Waits for work and does some of it; whether there may be more."""
        with self._changed:
            self._changed.wait_for(self._has_work, timeout=self._until_late())
            if self._is_stopped:
                return False
            self._drop()
            self._admit()
        if self._running:
            self._tick()
        return True

    def _has_work(self) -> bool:
        head = self._waiting[0] if self._waiting else None
        return self._is_stopped or bool(self._running) or (head is not None and (head.is_over or head.row is not None))

    def _until_late(self) -> float | None:
        """Seconds until the first request has waited too long."""
        if not self._waiting:
            return None
        return max(0.0, self._waiting[0].submitted + self.limits.wait_seconds - time.monotonic())

    def _drop(self) -> None:
        """Frees the slots of requests that are over, and refuses those that have waited too long."""
        for slot, request in list(self._running.items()):
            if request.is_over:
                self._session.cancel(slot)
                del self._running[slot]
        # Their ends, or they would be taken for those of the next rows in these slots.
        self._session.events()
        oldest = time.monotonic() - self.limits.wait_seconds
        for request in self._waiting:
            if request.submitted < oldest:
                request.fail(
                    OverloadedError(
                        f"There was no room for the request within {self.limits.wait_seconds:g} s.",
                        self._retry_after(),
                    )
                )
        if any(request.is_over for request in self._waiting):
            self._waiting = deque(request for request in self._waiting if not request.is_over)
            self.monitor.waiting(len(self._waiting))
        self._changed.notify_all()

    def _admit(self) -> None:
        """Gives free slots to the first requests that wait, in their order."""
        while self._waiting and len(self._running) < self._room:
            row = self._waiting[0].row
            # The reader reads one after the other: none of those behind it is ready either.
            if row is None:
                break
            self._running[self._session.add(row)] = self._waiting.popleft()
            self.monitor.waiting(len(self._waiting))

    def _tick(self) -> None:
        """Makes a step of all rows; an error that is not of a row ends the newest, or all of them."""
        started = time.monotonic()
        try:
            self._session.tick()
        except Exception as error:
            self._recover(error)
            return
        self.monitor.ticked(len(self._running), time.monotonic() - started)
        for event in self._session.events():
            if event.kind != "end" or event.slot not in self._running:
                continue
            self._session.release(event.slot)
            with self._changed:
                request = self._running.pop(event.slot)
                self._changed.notify_all()
            if event.error is not None:
                request.fail(event.error)
                continue
            self._news.append((request, None))
            self._seconds += NEWEST_SHARE * (time.monotonic() - request.submitted - self._seconds)
            # Memory that was short may have been freed, so that one more is tried.
            self._room = min(self._room + 1, self.limits.slots)
        self._tell()

    def _recover(self, error: Exception) -> None:
        """Out of memory, the newer half of the requests is refused; any other error is that of all of them."""
        newest = sorted(self._running.values(), key=lambda request: request.submitted)
        if is_out_of_memory(error):
            torch.cuda.empty_cache()
            kept = len(newest) // 2
            self._room = max(1, kept)
            error = OverloadedError("There is not enough memory for the request now.", self._retry_after())
            newest = newest[kept:]
        for request in newest:
            request.fail(error)
        with self._changed:
            if len(newest) == len(self._running):
                # What a failed step leaves behind is unknown.
                self._running.clear()
                self._session = self._new_session()
            self._drop()

    def _tell(self) -> None:
        """Tells callers what the step has brought, first all text."""
        news, self._news = self._news, []
        for request, event in news:
            try:
                if not request.is_over:
                    request.take(event)
            except Exception as error:
                request.fail(error)
        due = [request for request in dict.fromkeys(request for request, _ in news) if request.is_due]
        for requests in [due] if shares_forwards(self.processor.codec) else [[request] for request in due]:
            self._say(requests)

    def _say(self, requests: Sequence[Generation]) -> None:
        try:
            tell(requests)
        # Such as a codec that runs out of memory; the next step sees that the request is over.
        except Exception as error:
            if len(requests) == 1:
                requests[0].fail(error)
                return
            # Nothing has been decoded: each tries alone, so that those that can go on do so.
            for request in requests:
                self._say([request])
