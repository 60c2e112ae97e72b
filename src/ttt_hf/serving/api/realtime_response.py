"""One response of a realtime session, told event by event."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import WebSocketDisconnect

from ..events import Audio, Codes, Draft, End, Text
from ..generation import Generation
from .api_errors import ApiError, as_api_error
from .audio_formats import AudioEncoder
from .chat import base64_text
from .realtime_items import Item, new_id
from .service import Service


class Response:
    """A response that is being made.

    Args:
        service: What the endpoints share.
        generation: The request to the engine.
        speaks: Whether it is spoken.
        send: Sends an event.
    """

    def __init__(
        self, service: Service, generation: Generation, speaks: bool, send: Callable[..., Awaitable[None]]
    ) -> None:
        self.id = new_id("resp")
        self.item = Item("assistant", [], "in_progress")
        self.speaks = speaks
        self._service = service
        self._generation = generation
        self._send_event = send
        self._encoder = AudioEncoder("pcm16", service.engine.sampling_rate) if speaks else None
        self._reason = "client_cancelled"

    def cancel(self, reason: str) -> None:
        """Ends it early: `client_cancelled` or `turn_detected`."""
        self._reason = reason
        self._generation.cancel()

    async def run(self) -> None:
        """Tells it from its beginning to its end; the item then holds what was said."""
        await self._send("response.created", response=self._describe("in_progress"))
        await self._send("response.output_item.added", output_index=0, item=self.item.describe())
        await self._send("conversation.item.added", item=self.item.describe(), previous_item_id=None)
        await self._content("response.content_part.added", part=self._part(""))
        end, error = None, None
        try:
            async with self._generation as events:
                async for event in events:
                    await self._tell(event)
                    end = event if isinstance(event, End) else end
        except WebSocketDisconnect:  # nobody to tell
            raise
        except Exception as failure:
            error = as_api_error(failure, was_read=self._generation.row is not None)
        await self._finish(end, error)

    async def _tell(self, event: Any) -> None:
        if isinstance(event, Text) and event.text:
            self._keep("text", event.text)
            await self._content(f"response.{self._text_kind}.delta", delta=event.text)
        elif isinstance(event, Codes):
            self._keep("codes", list(event.codes))
            if self._generation.drafts:
                await self._content("response.block", codes=len(event.codes))
        elif isinstance(event, Draft):
            await self._content("response.draft", **self._draft(event))
        elif isinstance(event, Audio) and self._encoder is not None:
            await self._say(await asyncio.to_thread(self._encoder.push, event.samples))
        elif isinstance(event, End) and self._encoder is not None:
            await self._say(await asyncio.to_thread(self._encoder.finish))

    async def _say(self, samples: bytes) -> None:
        if samples:
            await self._content("response.output_audio.delta", delta=base64_text(samples))

    def _draft(self, draft: Draft) -> dict[str, Any]:
        """Our own event: whether each position of the block is committed, and the confidences."""
        mask = self._service.engine.model.config.mask_token_id
        return {
            "committed": [token != mask for token in draft.token_ids],
            "confidences": [round(confidence, 3) for confidence in draft.confidences],
        }

    def _keep(self, key: str, value: Any) -> None:
        """Adds to the item, in the order in which the model says it."""
        last = self.item.content[-1] if self.item.content else {}
        if key in last:
            last[key] = last[key] + value
        else:
            self.item.content.append({"type": "text" if key == "text" else "audio", key: value})

    async def _finish(self, end: End | None, error: ApiError | None) -> None:
        status, details = "completed", None
        if error is not None:
            status = "failed"
            details = {"type": status, "error": {"type": error.kind, "code": error.code, "message": str(error)}}
        elif end is None:
            status, details = "cancelled", {"type": "cancelled", "reason": self._reason}
        elif end.reply.finish_reason in ("length", "repetition"):
            status, details = "incomplete", {"type": "incomplete", "reason": "max_output_tokens"}
        self.item.status = "completed" if status == "completed" else "incomplete"
        if self.speaks:
            await self._content("response.output_audio.done")
        key = "transcript" if self.speaks else "text"
        await self._content(f"response.{self._text_kind}.done", **{key: self.item.text})
        await self._content("response.content_part.done", part=self._part(self.item.text))
        await self._send("response.output_item.done", output_index=0, item=self.item.describe())
        await self._send("conversation.item.done", item=self.item.describe(), previous_item_id=None)
        await self._send("response.done", response=self._describe(status, details, end))

    @property
    def _text_kind(self) -> str:
        return "output_audio_transcript" if self.speaks else "output_text"

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": "audio", "transcript": text} if self.speaks else {"type": "text", "text": text}

    async def _content(self, kind: str, **content: Any) -> None:
        await self._send(kind, item_id=self.item.id, output_index=0, content_index=0, **content)

    async def _send(self, kind: str, **content: Any) -> None:
        if not kind.startswith("conversation.") and "response" not in content:
            content["response_id"] = self.id
        await self._send_event(kind, **content)

    def _describe(self, status: str, details: dict[str, Any] | None = None, end: End | None = None) -> dict[str, Any]:
        usage = None
        if end is not None:
            counts = self._service.usage(end)
            spoken, said = (counts[f"{part}_tokens_details"]["audio_tokens"] for part in ("prompt", "completion"))
            usage = {
                "input_tokens": counts["prompt_tokens"],
                "output_tokens": counts["completion_tokens"],
                "total_tokens": counts["total_tokens"],
                "input_token_details": {"audio_tokens": spoken, "text_tokens": counts["prompt_tokens"] - spoken},
                "output_token_details": {"audio_tokens": said, "text_tokens": counts["completion_tokens"] - said},
            }
        return {
            "id": self.id,
            "object": "realtime.response",
            "status": status,
            "status_details": details,
            "output": [] if status == "in_progress" else [self.item.describe()],
            "output_modalities": ["audio" if self.speaks else "text"],
            "usage": usage,
        }
