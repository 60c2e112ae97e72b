"""Following a generation while it runs: typed stream events, an iterator over them for another thread, and a stopping
criterion that another thread can trigger.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Queue
from typing import Any, Literal

import torch
from transformers.generation.stopping_criteria import StoppingCriteria
from transformers.generation.streamers import BaseStreamer


class TtTStreamer(BaseStreamer):
    """Base class of streamers that tell text, provisional audio and committed audio apart; its methods do nothing.

    Events come in this order, repeatedly: `put_text` for text; for a span, `put_draft` after each denoising step but a
    block's last, `put_block` when a block is finished, `end_span` behind the last block. `end` comes once, at the very
    end. A streamer follows a single row.
    """

    def put(self, value: torch.Tensor) -> None:
        """Receives the raw ids in sequence order, markers included: the prompt, then every committed token once.

        Args:
            value: `torch.long` of shape `(1, prompt_length)` for the prompt, then `(tokens,)`.
        """

    def put_text(self, token_ids: list[int]) -> None:
        """Receives new text tokens; markers and the end-of-sequence token are left out.

        Args:
            token_ids: ids below the first audio id.
        """

    def put_draft(self, token_ids: list[int]) -> None:
        """Receives the block that is being denoised; the next draft or block replaces it.

        Args:
            token_ids: one id a position, the mask token's where nothing is committed yet.
        """

    def put_block(self, token_ids: list[int]) -> None:
        """Receives a finished block, which will not change any more.

        Args:
            token_ids: the ids that enter the sequence; the end marker, where the span ends, is the last one.
        """

    def end_span(self, complete: bool) -> None:
        """Receives the end of a span.

        Args:
            complete: whether it ended with an end marker; otherwise a limit or a stopping criterion cut it.
        """

    def end(self) -> None:
        """Receives the end of the generation."""


class RawStreamer(TtTStreamer):
    """Passes the raw ids on to a streamer of transformers, which knows `put` and `end` only.

    Args:
        streamer: the streamer to feed.
    """

    def __init__(self, streamer: BaseStreamer):
        self.streamer = streamer

    def put(self, value: torch.Tensor) -> None:
        self.streamer.put(value)

    def end(self) -> None:
        self.streamer.end()


@dataclass(frozen=True)
class StreamEvent:
    """One event of a `TtTIteratorStreamer`.

    Attributes:
        kind: `"text"`, `"draft"`, `"block"` or `"span_end"`, see the methods of `TtTStreamer`.
        token_ids: the ids that came with it; empty for `"span_end"`.
        complete: only for `"span_end"`: whether the span ended with an end marker.
    """

    kind: Literal["text", "draft", "block", "span_end"]
    token_ids: tuple[int, ...] = ()
    complete: bool | None = None


class TtTIteratorStreamer(TtTStreamer):
    """A streamer to be iterated over in one thread while `generate()` runs in another.

    Args:
        drafts: whether to yield `"draft"` events.
        timeout: seconds to wait for the next event before `queue.Empty` is raised; `None` waits for ever.

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

    def __init__(self, drafts: bool = True, timeout: float | None = None):
        self.drafts = drafts
        self.timeout = timeout
        self._queue: Queue[StreamEvent | BaseException | None] = Queue()

    def put_text(self, token_ids: list[int]) -> None:
        self._queue.put(StreamEvent("text", tuple(token_ids)))

    def put_draft(self, token_ids: list[int]) -> None:
        if self.drafts:
            self._queue.put(StreamEvent("draft", tuple(token_ids)))

    def put_block(self, token_ids: list[int]) -> None:
        self._queue.put(StreamEvent("block", tuple(token_ids)))

    def end_span(self, complete: bool) -> None:
        self._queue.put(StreamEvent("span_end", complete=complete))

    def end(self) -> None:
        self._queue.put(None)

    def fail(self, error: BaseException) -> None:
        """Ends the iteration by raising an error in the iterating thread.

        Args:
            error: what went wrong in the generating thread.
        """
        self._queue.put(error)

    def __iter__(self) -> Iterator[StreamEvent]:
        """Yields events until the generation ends.

        Raises:
            queue.Empty: no event came within the timeout.
        """
        while (event := self._queue.get(timeout=self.timeout)) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event


class InterruptCriteria(StoppingCriteria):
    """A stopping criterion that any thread can trigger; the generation then ends after the forward that is running.

    Args:
        event: the event that stops the generation; a new one by default. It stays set until somebody clears it.

    Example:
        ```python
        interrupt = InterruptCriteria()
        threading.Timer(2.0, interrupt.event.set).start()
        model.generate(**inputs, stopping_criteria=StoppingCriteriaList([interrupt]))
        ```
    """

    def __init__(self, event: threading.Event | None = None):
        self.event = threading.Event() if event is None else event

    def __call__(
        self, input_ids: torch.Tensor, scores: tuple[torch.Tensor, ...] | None, **kwargs: Any
    ) -> torch.Tensor:
        """Tells for every row whether to stop.

        Args:
            input_ids: the ids so far, shape `(batch, length)`.
            scores: not used.

        Returns:
            Boolean tensor of shape `(batch,)`.
        """
        return torch.full((input_ids.shape[0],), self.event.is_set(), dtype=torch.bool, device=input_ids.device)


__all__ = ["InterruptCriteria", "StreamEvent", "TtTIteratorStreamer", "TtTStreamer"]
