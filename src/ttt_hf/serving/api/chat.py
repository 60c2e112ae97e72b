"""`POST /v1/chat/completions`."""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from ..events import Audio, End, Event, Text
from .api_errors import ApiError
from .audio_formats import AudioEncoder, encode_audio
from .openai_messages import StopFilter, stop_strings, to_conversation
from .schemas import AudioOptions, ChatRequest
from .service import Service, chain, first_event, whole_reply


# OpenAI has no word for a reply that was ended because it repeated itself: it lacks its end, too.
FINISH_REASONS = {"stop": "stop", "length": "length", "repetition": "length", "interrupted": "stop"}


class Completion:
    """One completion: what it is asked, and the objects that it answers with.

    Args:
        service: What the endpoints share.
        body: The request.
    """

    def __init__(self, service: Service, body: ChatRequest) -> None:
        self.service = service
        self.body = body
        self.speaks = "audio" in (body.modalities or ())
        self.options = body.audio or AudioOptions()
        self.stops = stop_strings(body.stop)
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.audio_id = f"audio_{uuid.uuid4().hex}"
        self.created = int(time.time())

    def submit(self) -> Any:
        """Submits the request to the engine."""
        body = self.body
        messages = to_conversation(body.messages, self.service.replies)
        has_audio = any(part.get("type") != "text" for message in messages for part in _parts(message))
        # A model that was trained to speak while it writes does so for spoken questions, wanted or not.
        task = body.task or ("chat" if self.speaks or has_audio else "text")
        limits = [limit for limit in (body.max_tokens, body.max_completion_tokens) if limit is not None]
        arguments = body.generation(max_new_tokens=min(limits, default=None), stop_strings=self.stops or None)
        return self.service.submit(messages, task=task, speech=self.speaks, **arguments)

    def whole(self, end: End) -> dict[str, Any]:
        """The response."""
        text = StopFilter(self.stops).push(end.reply.text, is_last=True)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if self.speaks and len(end.reply.audio):
            content = encode_audio(end.reply.audio, end.reply.sampling_rate, self.options.format)
            message["content"] = None
            message["audio"] = {
                "id": self.audio_id,
                "data": base64_text(content),
                "transcript": text,
                "expires_at": self.service.replies.keep(self.audio_id, end.reply.segments),
            }
        choice = {"index": 0, "message": message, "logprobs": None, **self._finish(end)}
        return self._object("chat.completion", [choice], usage=self.service.usage(end))

    async def stream(self, events: AsyncIterator[Event]) -> AsyncIterator[str]:
        """The response as server-sent events."""
        stop = StopFilter(self.stops)
        encoder = AudioEncoder(self.options.format, self.service.engine.sampling_rate) if self.speaks else None
        yield self._chunk({"role": "assistant", **self._text("")})
        try:
            async for event in events:
                if isinstance(event, Text) and (text := stop.push(event.text)):
                    yield self._chunk(self._text(text))
                elif isinstance(event, Audio) and encoder is not None:
                    if content := await asyncio.to_thread(encoder.push, event.samples):
                        yield self._chunk({"audio": self._audio(data=base64_text(content))})
                elif isinstance(event, End):
                    if text := stop.push("", is_last=True):
                        yield self._chunk(self._text(text))
                    if encoder is not None and len(event.reply.audio):
                        data = base64_text(await asyncio.to_thread(encoder.finish))
                        expires = self.service.replies.keep(self.audio_id, event.reply.segments)
                        yield self._chunk({"audio": self._audio(data=data, expires_at=expires)})
                    yield self._chunk({}, **self._finish(event))
                    if self.body.stream_options is not None and self.body.stream_options.include_usage:
                        yield self._line(self._object("chat.completion.chunk", [], usage=self.service.usage(event)))
        except ApiError as error:
            yield self._line(error.body)
        yield "data: [DONE]\n\n"

    def _text(self, text: str) -> dict[str, Any]:
        return {"audio": self._audio(transcript=text)} if self.speaks else {"content": text}

    def _audio(self, **content: Any) -> dict[str, Any]:
        return {"id": self.audio_id, **content}

    def _finish(self, end: End) -> dict[str, Any]:
        finish: dict[str, Any] = {"finish_reason": FINISH_REASONS.get(end.reply.finish_reason or "stop", "stop")}
        return {**finish, "token_ids": list(end.token_ids)} if self.body.return_token_ids else finish

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason, **more}
        return self._line(self._object("chat.completion.chunk", [choice]))

    def _object(self, kind: str, choices: list[Any], **more: Any) -> dict[str, Any]:
        created, model = self.created, self.service.name
        return {"id": self.id, "object": kind, "created": created, "model": model, "choices": choices, **more}

    @staticmethod
    def _line(content: dict[str, Any]) -> str:
        return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def base64_text(content: bytes) -> str:
    """Bytes as base64."""
    return base64.b64encode(content).decode("ascii")


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return content if isinstance(content, list) else []


async def complete(service: Service, body: ChatRequest, request: Request) -> Response:
    """Answers a request.

    Raises:
        ApiError: If it cannot be answered.
    """
    service.check_model(body.model)
    completion = Completion(service, body)
    if completion.speaks:
        service.check_speech()
    generation = completion.submit()
    if body.stream:
        events = chain(await first_event(request, generation), generation)
        return StreamingResponse(completion.stream(events), media_type="text/event-stream")
    end = await whole_reply(request, generation)
    return JSONResponse(await asyncio.to_thread(completion.whole, end))
