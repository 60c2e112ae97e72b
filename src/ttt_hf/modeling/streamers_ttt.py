"""Streaming: typed events of a running generation, an iterator over them, and a criterion that interrupts it."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Queue
from typing import Any, Literal

import torch
from transformers.generation.stopping_criteria import StoppingCriteria
from transformers.generation.streamers import BaseStreamer, TextStreamer


class TtTStreamer(BaseStreamer):
    """Base class of streamers with separate events for text, draft audio and committed audio; its methods do nothing.

    Events come in this order, repeatedly: `put_text` for text; for a span, `put_draft` after each denoising step,
    `put_block` for each finished block, `end_span` after the last block. `end` comes once, at the end of
    the generation. A streamer follows a single row.
    """

    def put(self, value: torch.Tensor) -> None:
        """Receives the raw ids in order, including markers: first the prompt, then every committed token once.

        Args:
            value: `torch.long` of shape `(1, prompt_length)` for the prompt, then `(tokens,)`.
        """

    def put_text(self, token_ids: list[int]) -> None:
        """Receives new text tokens, without markers and the end-of-sequence token.

        Args:
            token_ids: Ids below the first audio id.
        """

    def put_draft(self, token_ids: list[int], confidences: list[float]) -> None:
        """Receives the block being denoised, to be replaced by the next draft or block.

        Args:
            token_ids: One id per position, that of the mask token where nothing is committed yet.
            confidences: Per position the probability of the token that this denoising step has proposed there.
        """

    def put_block(self, token_ids: list[int]) -> None:
        """Receives a finished block, which will not change anymore.

        Args:
            token_ids: The ids that enter the sequence; the last one is the end marker if the span ends here.
        """

    def end_span(self, complete: bool) -> None:
        """Receives the end of a span.

        Args:
            complete: Whether it ended with an end marker, rather than at a limit or a stopping criterion.
        """

    def end(self) -> None:
        """Receives the end of the generation."""


class RawStreamer(TtTStreamer):
    """Passes the raw ids on to a streamer of transformers, which has `put` and `end` only."""

    def __init__(self, streamer: BaseStreamer) -> None:
        self.streamer = streamer

    def put(self, value: torch.Tensor) -> None:
        self.streamer.put(value)

    def end(self) -> None:
        self.streamer.end()


class TextOnlyStreamer(RawStreamer):
    """Passes text on to a `TextStreamer` of transformers, which would print audio tokens, but no audio.

    Args:
        streamer: The streamer that prints.
        audio_token_start_id: First audio id.
    """

    def __init__(self, streamer: TextStreamer, audio_token_start_id: int) -> None:
        super().__init__(streamer)
        self.audio_token_start_id = audio_token_start_id

    def put(self, value: torch.Tensor) -> None:
        is_prompt = value.ndim == 2
        # Of several rows the streamer says that it follows one.
        if len(value) == 1 or not is_prompt:
            value = value.flatten()[value.flatten() < self.audio_token_start_id]
        # A prompt counts, even without text: the streamer may skip the first value.
        if is_prompt or len(value):
            self.streamer.put(value)


@dataclass(frozen=True)
class StreamEvent:
    """One event of a generation.

    Attributes:
        kind: `"text"`, `"draft"`, `"block"` or `"span_end"`, see the methods of `TtTStreamer`.
        token_ids: Ids of the event; empty for `"span_end"`.
        complete: For `"span_end"` whether the span ended with an end marker, otherwise `None`.
        confidences: For `"draft"` the probability of the token proposed at every position.
    """

    kind: Literal["text", "draft", "block", "span_end"]
    token_ids: tuple[int, ...] = ()
    complete: bool | None = None
    confidences: tuple[float, ...] = ()


class EventStreamer(TtTStreamer):
    """Makes an event of each call.

    Args:
        receive: Is given the events.
    """

    def __init__(self, receive: Callable[[StreamEvent], None]) -> None:
        self._receive = receive

    def put_text(self, token_ids: list[int]) -> None:
        self._receive(StreamEvent("text", tuple(token_ids)))

    def put_draft(self, token_ids: list[int], confidences: list[float]) -> None:
        self._receive(StreamEvent("draft", tuple(token_ids), confidences=tuple(confidences)))

    def put_block(self, token_ids: list[int]) -> None:
        self._receive(StreamEvent("block", tuple(token_ids)))

    def end_span(self, complete: bool) -> None:
        self._receive(StreamEvent("span_end", complete=complete))


class TtTIteratorStreamer(EventStreamer):
    """A streamer that is iterated over in one thread while `generate()` runs in another.

    Args:
        drafts: Whether to yield `"draft"` events.
        timeout: Seconds to wait for the next event before `queue.Empty` is raised; `None` waits forever.

    Example:
        ```python
        streamer = TtTIteratorStreamer(drafts=False)

        def answer():
            try:
                model.generate(**inputs, streamer=streamer)
            except Exception as error:
                streamer.fail(error)

        threading.Thread(target=answer).start()
        for event in streamer:
            print(event.kind, event.token_ids)
        ```
    """

    def __init__(self, drafts: bool = True, timeout: float | None = None) -> None:
        self.drafts = drafts
        self.timeout = timeout
        # Unbounded: a slow reader does not hold up the generation. `None` ends the iteration, an error is raised.
        self._queue: Queue[StreamEvent | BaseException | None] = Queue()
        super().__init__(self._queue.put)

    def put_draft(self, token_ids: list[int], confidences: list[float]) -> None:
        if self.drafts:
            super().put_draft(token_ids, confidences)

    def end(self) -> None:
        self._queue.put(None)

    def fail(self, error: BaseException) -> None:
        """Ends the iteration: `error`, caught in the generating thread, is raised in the iterating one."""
        self._queue.put(error)

    def __iter__(self) -> Iterator[StreamEvent]:
        """Yields events until the generation ends.

        Raises:
            queue.Empty: If no event arrives within the timeout.
        """
        while (event := self._queue.get(timeout=self.timeout)) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event


class InterruptCriteria(StoppingCriteria):
    """A stopping criterion that any thread can trigger; the generation then ends after the current forward.

    Args:
        event: Stops the generation when set, until it is cleared; a new event by default.

    Example:
        ```python
        interrupt = InterruptCriteria()
        threading.Timer(2.0, interrupt.event.set).start()
        model.generate(**inputs, stopping_criteria=StoppingCriteriaList([interrupt]))
        ```
    """

    def __init__(self, event: threading.Event | None = None) -> None:
        self.event = threading.Event() if event is None else event

    def __call__(
        self, input_ids: torch.Tensor, scores: tuple[torch.Tensor, ...] | None, **kwargs: Any
    ) -> torch.Tensor:
        """Whether each row stops, `torch.bool` of shape `(batch,)`: all rows do once the event is set."""
        return torch.full((input_ids.shape[0],), self.event.is_set(), dtype=torch.bool, device=input_ids.device)


__all__ = ["InterruptCriteria", "StreamEvent", "TtTIteratorStreamer", "TtTStreamer"]
