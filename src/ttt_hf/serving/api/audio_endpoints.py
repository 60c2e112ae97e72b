"""`POST /v1/audio/speech` and `POST /v1/audio/transcriptions`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import ValidationError

from ...processing.audio import audio_seconds
from ..events import Audio, End, Event, Text
from .api_errors import ApiError
from .audio_formats import FORMATS, AudioEncoder
from .schemas import SpeechRequest, TranscriptionForm
from .service import Service, chain, first_event, followed, whole_reply


MAX_FIELDS = 50


async def speak(service: Service, body: SpeechRequest, request: Request) -> Response:
    """Reads a text aloud, in chunks as they are generated.

    Raises:
        ApiError: If it cannot be read.
    """
    service.check_model(body.model)
    service.check_speech()
    messages = [{"role": "user", "content": body.input}]
    generation = service.submit(messages, task=body.task or "tts", **body.generation())
    event = await first_event(request, generation)
    # Errors have a status as long as no sample was sent.
    while not isinstance(event, Audio):
        if isinstance(event, End):
            raise ApiError(400, "The model has nothing to say for this input.", code="no_speech", param="input")
        event = await followed(request, generation, anext(generation))
    encoder = AudioEncoder(body.response_format, service.engine.sampling_rate)
    return StreamingResponse(
        _encoded(chain(event, generation), encoder), media_type=FORMATS[body.response_format].media_type
    )


async def _encoded(events: AsyncIterator[Event], encoder: AudioEncoder) -> AsyncIterator[bytes]:
    async for event in events:
        if isinstance(event, Audio) and (content := await asyncio.to_thread(encoder.push, event.samples)):
            yield content
    yield await asyncio.to_thread(encoder.finish)


async def transcribe(service: Service, request: Request) -> Response:
    """Writes down a recording.

    Raises:
        ApiError: If it cannot be read.
        RequestValidationError: If a field is missing or wrong.
    """
    async with request.form(max_files=1, max_fields=MAX_FIELDS) as form:
        fields = {name: value for name, value in form.multi_items() if name != "file"}
        file = form.get("file")
        if not hasattr(file, "read"):
            raise ApiError(400, "file must be a recording, sent as a file.", code="invalid_value", param="file")
        content = await file.read()
    try:
        body = TranscriptionForm(**{str(name): value for name, value in fields.items()})  # type: ignore[arg-type]
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None
    service.check_model(body.model)
    messages = [{"role": "user", "content": [{"type": "audio", "bytes": content}]}]
    generation = service.submit(messages, task=body.task or "asr", speech=False, **body.generation())
    if body.stream:
        events = chain(await first_event(request, generation), generation)
        return StreamingResponse(_transcript_events(service, events), media_type="text/event-stream")
    end = await whole_reply(request, generation)
    text = end.reply.text
    if body.response_format == "text":
        return PlainTextResponse(f"{text}\n")
    if body.response_format == "json":
        return JSONResponse({"text": text, "usage": _usage(service, end)})
    duration = await asyncio.to_thread(audio_seconds, content)
    return JSONResponse(
        {"task": "transcribe", "language": body.language or "", "duration": duration, "text": text, "segments": None}
    )


async def _transcript_events(service: Service, events: AsyncIterator[Event]) -> AsyncIterator[str]:
    try:
        async for event in events:
            if isinstance(event, Text) and event.text:
                yield _line({"type": "transcript.text.delta", "delta": event.text})
            elif isinstance(event, End):
                yield _line(
                    {"type": "transcript.text.done", "text": event.reply.text, "usage": _usage(service, event)}
                )
    except ApiError as error:
        yield _line(error.body)


def _usage(service: Service, end: End) -> dict[str, Any]:
    counts = service.usage(end)
    spoken = counts["prompt_tokens_details"]["audio_tokens"]
    return {
        "type": "tokens",
        "input_tokens": counts["prompt_tokens"],
        "input_token_details": {"audio_tokens": spoken, "text_tokens": counts["prompt_tokens"] - spoken},
        "output_tokens": counts["completion_tokens"],
        "total_tokens": counts["total_tokens"],
    }


def _line(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
