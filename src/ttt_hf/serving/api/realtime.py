"""`WS /v1/realtime`: a spoken conversation over one connection, in OpenAI's events."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from fastapi import WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from ...overrides import merge
from . import realtime_schemas as schemas
from .api_errors import ApiError, as_api_error, validation_error
from .audio_formats import PCM_RATE
from .realtime_items import Item, messages_of, new_id
from .realtime_response import Response
from .service import Service
from .turns import InputBuffer, TurnDetector


MAX_ITEMS = 1000
LEAST_SECONDS = 0.1
# Kept beside the padding, since speech is noticed a little after it has begun.
NOTICE_SECONDS = 0.2
# Share of the context that the conversation may have; the rest is for the reply.
PROMPT_SHARE = 0.7


class Conversation:
    """One connection: its settings, its conversation, what it hears and what it says.

    Args:
        service: What the endpoints share.
        socket: The connection.
    """

    def __init__(self, service: Service, socket: WebSocket) -> None:
        self.service = service
        self.socket = socket
        self.settings = schemas.SessionSettings(model=service.name)
        self.items: dict[str, Item] = {}
        self.id = new_id("sess")
        self._buffer = InputBuffer(PCM_RATE)
        self._detector = self._new_detector()
        self._turn_item = ""
        self._turn_start = 0
        self._response: Response | None = None
        self._speaking: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._sending = asyncio.Lock()
        self._handlers: dict[str, tuple[type[schemas.Body], Callable[..., Awaitable[None]]]] = {
            "session.update": (schemas.SessionUpdate, self._update),
            "input_audio_buffer.append": (schemas.Append, self._append),
            "input_audio_buffer.commit": (schemas.Nothing, self._commit_all),
            "input_audio_buffer.clear": (schemas.Nothing, self._clear),
            "conversation.item.create": (schemas.ItemCreate, self._create_item),
            "conversation.item.delete": (schemas.ItemName, self._delete_item),
            "conversation.item.retrieve": (schemas.ItemName, self._retrieve_item),
            "conversation.item.truncate": (schemas.ItemTruncate, self._truncate_item),
            "response.create": (schemas.ResponseCreate, self._create_response),
            "response.cancel": (schemas.ResponseCancel, self._cancel_response),
        }

    async def run(self) -> None:
        """Answers events until the client leaves."""
        await self._send("session.created", session=self._describe())
        try:
            while True:
                message = await self.socket.receive()
                if message["type"] == "websocket.disconnect":
                    break
                await self._take(message.get("text"))
        except (WebSocketDisconnect, asyncio.TimeoutError):
            pass
        finally:
            if self._response is not None:
                self._response.cancel("client_cancelled")
            for task in self._tasks:
                task.cancel()

    async def _take(self, text: str | None) -> None:
        """Handles one message; what is wrong with it is told, and the conversation goes on."""
        name = None
        try:
            content = json.loads(text) if text is not None else None
            if not isinstance(content, dict):
                raise ApiError(400, "An event is a JSON object, sent as text.", code="invalid_json")
            event = schemas.ClientEvent(**content)
            name = event.event_id
            if event.type not in self._handlers:
                raise ApiError(400, f"There is no event {event.type[:100]!r}.", code="unknown_event", param="type")
            schema, handle = self._handlers[event.type]
            await handle(schema(**(event.model_extra or {})))
        except (json.JSONDecodeError, RecursionError):
            await self._fail(ApiError(400, "The event is not valid JSON.", code="invalid_json"), name)
        except ValidationError as error:
            await self._fail(validation_error(error.errors()), name)
        except TypeError:
            await self._fail(ApiError(400, "The event needs a type.", code="invalid_event"), name)
        except (ApiError, ValueError) as error:
            await self._fail(as_api_error(error, was_read=False), name)

    async def _fail(self, error: ApiError, name: str | None) -> None:
        await self._send("error", error={**error.body["error"], "event_id": name})

    async def _send(self, kind: str, **content: Any) -> None:
        event = {"type": kind, "event_id": new_id("event"), **content}
        async with self._sending:
            try:
                await self.socket.send_text(json.dumps(event))
            # What is sent to a client that has left raises one of these, by the version of the framework.
            except (RuntimeError, OSError):
                raise WebSocketDisconnect from None

    def _start(self, work: Awaitable[None]) -> asyncio.Task[None]:
        """Does something beside what comes next; it ends with the connection."""

        async def until_gone() -> None:
            with contextlib.suppress(WebSocketDisconnect, asyncio.TimeoutError):
                await work

        task = asyncio.create_task(until_gone())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- the session --------------------------------------------------------------------------------------------------

    async def _update(self, event: schemas.SessionUpdate) -> None:
        settings = schemas.SessionSettings(**merge(self.settings.model_dump(), event.session))
        if settings.model is not None:
            self.service.check_model(settings.model)
        is_same = settings.audio.input.turn_detection == self.settings.audio.input.turn_detection
        self.settings = settings
        if not is_same:
            self._detector = self._new_detector()
        await self._send("session.updated", session=self._describe())

    def _describe(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "realtime.session",
            **self.settings.model_dump(exclude={"generation", "drafts"}),
        }

    def _new_detector(self) -> TurnDetector | None:
        turn = self.settings.audio.input.turn_detection
        return TurnDetector(PCM_RATE, turn.threshold, turn.silence_duration_ms / 1000) if turn is not None else None

    # -- what it hears ------------------------------------------------------------------------------------------------

    async def _append(self, event: schemas.Append) -> None:
        samples = pcm_samples(event.audio)
        longest = self.service.engine.limits.audio_seconds
        if self._buffer.seconds + len(samples) / PCM_RATE > longest:
            raise ApiError(400, f"The buffer holds {longest:g} s at most: commit or clear it.", code="buffer_full")
        self._buffer.append(samples)
        turn = self.settings.audio.input.turn_detection
        if turn is None or self._detector is None:
            return
        for found in self._detector.push(samples):
            if found.kind == "started":
                self._turn_item = new_id("item")
                self._turn_start = max(0, found.sample - turn.prefix_padding_ms * PCM_RATE // 1000)
                milliseconds = self._turn_start * 1000 // PCM_RATE
                await self._send(
                    "input_audio_buffer.speech_started", audio_start_ms=milliseconds, item_id=self._turn_item
                )
                if turn.interrupt_response:
                    await self._interrupt("turn_detected")
            else:
                milliseconds = found.sample * 1000 // PCM_RATE
                await self._send(
                    "input_audio_buffer.speech_stopped", audio_end_ms=milliseconds, item_id=self._turn_item
                )
                await self._commit(self._buffer.take(self._turn_start), self._turn_item)
                if turn.create_response:
                    await self._respond(self.settings)
        if not self._detector.is_speech:
            kept = turn.prefix_padding_ms / 1000 + NOTICE_SECONDS
            self._buffer.drop(self._buffer.end - round(kept * PCM_RATE))

    async def _commit_all(self, _: schemas.Nothing) -> None:
        if self._buffer.seconds < LEAST_SECONDS:
            message = f"The buffer holds less than {LEAST_SECONDS * 1000:.0f} ms of sound."
            raise ApiError(400, message, code="input_audio_buffer_commit_empty")
        self._detector = self._new_detector()
        self._buffer, buffer = InputBuffer(PCM_RATE), self._buffer
        await self._commit(buffer.take(), new_id("item"))

    async def _commit(self, samples: np.ndarray, name: str) -> None:
        """Makes the user's message of a recording."""
        codes = await self._encode(samples, PCM_RATE)
        previous = next(reversed(self.items), None)
        await self._send("input_audio_buffer.committed", item_id=name, previous_item_id=previous)
        await self._add(Item("user", [{"type": "audio", "codes": codes}], id=name))
        if self.settings.audio.input.transcription is not None:
            self._start(self._transcribe(self.items[name]))

    async def _encode(self, source: Any, rate: int | None = None) -> list[int]:
        try:
            return await self.service.engine.encode(source, rate)
        except (ValueError, OSError, RuntimeError) as error:
            raise as_api_error(error, was_read=isinstance(error, RuntimeError)) from None

    async def _transcribe(self, item: Item) -> None:
        messages = [{"role": "user", "content": item.content}]
        try:
            async with self.service.submit(messages, task="asr", speech=False) as generation:
                item.transcript = (await generation.reply()).reply.text
        except WebSocketDisconnect:
            raise
        except Exception as error:
            failure = as_api_error(error).body["error"]
            kind = "conversation.item.input_audio_transcription.failed"
            await self._send(kind, item_id=item.id, content_index=0, error=failure)
            return
        kind = "conversation.item.input_audio_transcription.completed"
        seconds = len(item.content[0]["codes"]) / self.service.engine.processor.codec.config.frame_rate
        usage = {"type": "duration", "seconds": seconds}
        await self._send(kind, item_id=item.id, content_index=0, transcript=item.transcript, usage=usage)

    async def _clear(self, _: schemas.Nothing) -> None:
        self._buffer, self._detector = InputBuffer(PCM_RATE), self._new_detector()
        await self._send("input_audio_buffer.cleared")

    # -- the conversation ---------------------------------------------------------------------------------------------

    async def _add(self, item: Item) -> None:
        previous = next(reversed(self.items), None)
        self.items[item.id] = item
        while len(self.items) > MAX_ITEMS:
            del self.items[next(iter(self.items))]
        await self._send("conversation.item.added", item=item.describe(), previous_item_id=previous)
        await self._send("conversation.item.done", item=item.describe(), previous_item_id=previous)

    async def _create_item(self, event: schemas.ItemCreate) -> None:
        content: list[dict[str, Any]] = []
        for part in event.item.content:
            if part.type == "input_audio":
                samples = pcm_samples(part.audio or "")
                content.append({"type": "audio", "codes": await self._encode(samples, PCM_RATE)})
            elif part.text is not None:
                content.append({"type": "text", "text": part.text})
            else:
                raise ApiError(400, f"A part of the type {part.type} needs text.", code="invalid_value")
        name = event.item.id or new_id("item")
        if name in self.items:
            raise ApiError(400, "There is an item with this id already.", code="invalid_value", param="item.id")
        await self._add(Item(event.item.role, content, id=name))

    def _item(self, name: str) -> Item:
        if name not in self.items:
            raise ApiError(404, "There is no item with this id.", code="item_not_found", param="item_id")
        return self.items[name]

    async def _delete_item(self, event: schemas.ItemName) -> None:
        del self.items[self._item(event.item_id).id]
        await self._send("conversation.item.deleted", item_id=event.item_id)

    async def _retrieve_item(self, event: schemas.ItemName) -> None:
        await self._send("conversation.item.retrieved", item=self._item(event.item_id).describe())

    async def _truncate_item(self, event: schemas.ItemTruncate) -> None:
        item = self._item(event.item_id)
        if item.role != "assistant":
            raise ApiError(400, "Only what the assistant has said can be truncated.", code="invalid_value")
        codec = self.service.engine.processor.codec
        item.truncate(int(event.audio_end_ms / 1000 * codec.config.frame_rate))
        await self._send(
            "conversation.item.truncated", item_id=item.id, content_index=0, audio_end_ms=event.audio_end_ms
        )

    # -- what it says -------------------------------------------------------------------------------------------------

    async def _create_response(self, event: schemas.ResponseCreate) -> None:
        own = self.settings.model_dump(include=set(schemas.ResponseSettings.model_fields))
        await self._respond(schemas.ResponseSettings(**merge(own, event.response or {})))

    async def _respond(self, settings: schemas.ResponseSettings) -> None:
        if self._response is not None:
            raise ApiError(
                400, "A response is being made: cancel it first.", code="conversation_already_has_active_response"
            )
        if not any(item.role == "user" for item in self.items.values()):
            raise ApiError(400, "There is nothing to answer yet: create an item, or commit audio.", code="no_items")
        limit = settings.max_output_tokens
        arguments = settings.generation.generation(max_new_tokens=None if limit == "inf" else max(1, limit))
        engine, speaks = self.service.engine, settings.output_modalities == ["audio"]
        messages = messages_of(list(self.items.values()), settings.instructions, int(engine.capacity * PROMPT_SHARE))
        task = settings.generation.task or "chat"
        generation = self.service.submit(messages, task=task, speech=speaks, drafts=settings.drafts, **arguments)
        response = Response(self.service, generation, speaks, self._send)
        self.items[response.item.id] = response.item
        self._response, self._speaking = response, self._start(self._follow(response))

    async def _follow(self, response: Response) -> None:
        try:
            await response.run()
        finally:
            self._response = None

    async def _interrupt(self, reason: str) -> None:
        """Ends the response that is being made, if any, and waits until that was told."""
        if self._response is not None and self._speaking is not None:
            self._response.cancel(reason)
            await self._speaking

    async def _cancel_response(self, event: schemas.ResponseCancel) -> None:
        if self._response is None or event.response_id not in (None, self._response.id):
            raise ApiError(400, "No such response is being made.", code="response_cancel_not_active")
        await self._interrupt("client_cancelled")


def pcm_samples(audio: str) -> np.ndarray:
    """Float32 samples `(samples,)` of base64 text that holds 16 bit PCM; raises an `ApiError` if it does not."""
    try:
        content = base64.b64decode(audio.encode("ascii"), validate=True)
        return np.frombuffer(content, "<i2").astype(np.float32) / 32768
    except ValueError:
        raise ApiError(400, "audio is not base64 of 16 bit samples.", code="invalid_value", param="audio") from None


async def converse(service: Service, socket: WebSocket) -> None:
    """Serves a connection until its client leaves."""
    name = socket.query_params.get("model")
    if name is not None:
        service.check_model(name)
    service.check_speech()
    protocols = socket.headers.get("sec-websocket-protocol", "").split(",")
    # The one among those offered that is no key; browsers close a connection that answers with none.
    await socket.accept(subprotocol="realtime" if "realtime" in map(str.strip, protocols) else None)
    await Conversation(service, socket).run()
