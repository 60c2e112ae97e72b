"""What the endpoints share: the engine and its model's name, earlier replies, and requests followed to their end."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request

from ...processing.fetching import CONTENT, Access
from ..engine import Engine
from ..events import End, Event
from ..generation import Generation
from ..limits import EngineClosedError
from .api_errors import ApiError, as_api_error
from .prometheus_metrics import Metrics


Result = TypeVar("Result")
REPLY_SECONDS = 3600
MAX_REPLIES = 1000


class Replies:
    """Earlier replies by the id of their speech, for conversations that go on; the oldest are forgotten."""

    def __init__(self) -> None:
        self._contents: OrderedDict[str, tuple[float, list[dict[str, Any]]]] = OrderedDict()

    def keep(self, name: str, segments: list[dict[str, Any]]) -> int:
        """Keeps the segments of a reply; returns the Unix time at which it is forgotten at the latest."""
        expires = time.time() + REPLY_SECONDS
        self._contents[name] = (expires, segments)
        while len(self._contents) > MAX_REPLIES or next(iter(self._contents.values()))[0] < time.time():
            self._contents.popitem(last=False)
        return int(expires)

    def content(self, name: Any) -> list[dict[str, Any]]:
        """The content of a message of the assistant.

        Raises:
            ApiError: If there is no such reply any more.
        """
        expires, segments = self._contents.get(name, (0.0, [])) if isinstance(name, str) else (0.0, [])
        if expires < time.time():
            raise ApiError(
                400, "There is no earlier reply with this audio id (any more): send its text.", code="audio_not_found"
            )
        return segments


@dataclass
class Service:
    """What the endpoints work with.

    Attributes:
        engine: Answers.
        name: Name of the model.
        metrics: Numbers about the engine, of which it is the monitor.
        access: What audio in requests may name.
        replies: Earlier replies.
        started: Unix time of the start.
    """

    engine: Engine
    name: str
    metrics: Metrics
    access: Access = CONTENT
    replies: Replies = field(default_factory=Replies)
    started: int = field(default_factory=lambda: int(time.time()))

    def check_model(self, name: str) -> None:
        """Raises an `ApiError` unless it is the model's name."""
        if name != self.name:
            raise ApiError(
                404, f"There is no model {name[:100]!r}: this server has {self.name!r}.", code="model_not_found",
                param="model",
            )  # fmt: skip

    def check_speech(self) -> None:
        """Raises an `ApiError` unless the model can speak."""
        if not self.engine.sampling_rate:
            raise ApiError(400, "This model has no codec, so that it reads and writes text alone.")

    def submit(self, messages: list[dict[str, Any]], **arguments: Any) -> Generation:
        """Submits a request to the engine; raises an `ApiError` if it takes none."""
        try:
            return self.engine.submit(messages, access=self.access, **arguments)
        except (EngineClosedError, RuntimeError) as error:
            raise as_api_error(error) from None

    def usage(self, end: End) -> dict[str, Any]:
        """Counts of tokens, in OpenAI's form."""
        first = self.engine.model.config.audio_token_start_id
        prompt, reply = len(end.prompt_ids), len(end.token_ids)
        spoken_prompt, spoken = (sum(token >= first for token in ids) for ids in (end.prompt_ids, end.token_ids))
        return {
            "prompt_tokens": prompt,
            "completion_tokens": reply,
            "total_tokens": prompt + reply,
            "prompt_tokens_details": {"audio_tokens": spoken_prompt, "cached_tokens": 0},
            "completion_tokens_details": {"audio_tokens": spoken, "reasoning_tokens": 0},
        }


async def warm_up(engine: Engine) -> None:
    """Answers a request that is nobody's: the first one allocates memory and chooses kernels."""
    await engine.submit([{"role": "user", "content": "Hello."}], max_new_tokens=32, seed=0).reply()


async def first_event(request: Request, generation: Generation) -> Event:
    """Waits for the first event, so that errors of a request have a status of their own.

    Raises:
        ApiError: If the request fails.
    """
    return await followed(request, generation, anext(generation))


async def whole_reply(request: Request, generation: Generation) -> End:
    """Waits for the whole reply.

    Raises:
        ApiError: If the request fails.
    """
    return await followed(request, generation, generation.reply())


async def followed(request: Request, generation: Generation, work: Awaitable[Result]) -> Result:
    """Waits for the result of a request, and cancels it when its client leaves.

    Raises:
        ApiError: If the request fails.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "The client has left.")
        return task.result()
    except Exception as error:
        raise error_of(generation, error) from None
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            generation.cancel()


def error_of(generation: Generation, error: BaseException) -> ApiError:
    """What the client of a request is told of its error: before the prompt is ready, it is the client's own."""
    return as_api_error(error, was_read=generation.row is not None)


async def chain(first: Event, generation: Generation) -> AsyncIterator[Event]:
    """The first event and those that follow; the request is cancelled if they are not read to the end.

    Raises:
        ApiError: If the request fails.
    """
    async with generation:
        yield first
        try:
            async for event in generation:
                yield event
        except Exception as error:
            raise error_of(generation, error) from None


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
