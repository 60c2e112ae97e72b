"""The conversation of a realtime session: its items, and what of them the model reads."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


# Characters of a token, for an estimate that is rather too high.
LETTERS_PER_TOKEN = 2


@dataclass
class Item:
    """A message of a conversation.

    Attributes:
        role: `system`, `user` or `assistant`.
        content: As the processor takes it: texts, and codes of speech.
        status: `completed`, or `incomplete` where it was cut.
        id: Its id.
        transcript: What was said in a recording, if it is known.
    """

    role: str
    content: list[dict[str, Any]]
    status: str = "completed"
    id: str = field(default_factory=lambda: new_id("item"))
    transcript: str | None = None

    @property
    def text(self) -> str:
        """Its text."""
        return "".join(part.get("text", "") for part in self.content).strip()

    @property
    def tokens(self) -> int:
        """Estimate of its number of tokens."""
        return sum(
            len(part.get("codes", ())) + len(part.get("text", "")) // LETTERS_PER_TOKEN for part in self.content
        )

    def truncate(self, codes: int) -> None:
        """Keeps what comes before its codes reach a number."""
        kept = []
        for part in self.content:
            if part["type"] == "audio":
                part = {**part, "codes": part["codes"][:codes]}
                codes -= len(part["codes"])
            if part.get("text") or len(part.get("codes", ())):
                kept.append(part)
            if codes <= 0:
                break
        self.content, self.status = kept, "incomplete"

    def describe(self) -> dict[str, Any]:
        """The item in OpenAI's form."""
        return {
            "id": self.id,
            "object": "realtime.item",
            "type": "message",
            "status": self.status,
            "role": self.role,
            "content": self._parts(),
        }

    def _parts(self) -> list[dict[str, Any]]:
        if self.role != "assistant":
            return [
                {"type": "input_text", "text": part["text"]}
                if part["type"] == "text"
                else {"type": "input_audio", "transcript": self.transcript}
                for part in self.content
            ]
        if any(part["type"] == "audio" for part in self.content):
            return [{"type": "output_audio", "transcript": self.text}]
        return [{"type": "output_text", "text": self.text}]


def messages_of(items: Sequence[Item], instructions: str, max_tokens: int) -> list[dict[str, Any]]:
    """The conversation as the processor takes it: the newest items that fit.

    Args:
        items: All of them.
        instructions: The system prompt; that of the task if it is empty.
        max_tokens: Tokens of all messages, by estimate.
    """
    room = max_tokens - len(instructions) // LETTERS_PER_TOKEN
    kept: list[Item] = []
    for item in reversed(items):
        room -= item.tokens
        if room < 0 and kept:
            break
        if item.content:
            kept.insert(0, item)
    system = [{"role": "system", "content": instructions}] if instructions else []
    return system + [{"role": item.role, "content": item.content} for item in kept]


def new_id(kind: str) -> str:
    """A new id, such as `item_...`."""
    return f"{kind}_{uuid.uuid4().hex}"
