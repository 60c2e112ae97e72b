"""OpenAI's messages as conversations of this package, and stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .api_errors import ApiError
from .service import Replies


ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
PARTS = ("text", "input_audio", "audio_url")
MAX_STOPS, MAX_STOP_LENGTH = 4, 64


def to_conversation(messages: Sequence[dict[str, Any]], replies: Replies) -> list[dict[str, Any]]:
    """Messages with `role` and `content` as the processor takes them.

    Args:
        messages: As in a request.
        replies: Earlier replies, for messages of the assistant that name their speech.

    Raises:
        ApiError: If a message is none.
    """
    return [_message(message, f"messages.{index}", replies) for index, message in enumerate(messages)]


def _message(message: dict[str, Any], place: str, replies: Replies) -> dict[str, Any]:
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise _invalid(f"{place}.role must be one of {', '.join(ROLES)}.", f"{place}.role")
    content, audio = message.get("content"), message.get("audio")
    if message.get("tool_calls"):
        raise _invalid(f"{place} has tool_calls, and this model calls no tools.", f"{place}.tool_calls")
    if role == "assistant" and audio is not None:
        return {"role": role, "content": replies.content(audio.get("id") if isinstance(audio, dict) else None)}
    if isinstance(content, str):
        return {"role": ROLES[role], "content": content}
    if not isinstance(content, list) or not content:
        raise _invalid(f"{place}.content must be a text, or a list of parts.", f"{place}.content")
    for number, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") not in PARTS:
            raise _invalid(
                f"{place}.content.{number} must have one of the types {', '.join(PARTS)}.", f"{place}.content.{number}"
            )
    return {"role": ROLES[role], "content": content}


def _invalid(message: str, param: str) -> ApiError:
    return ApiError(400, message, code="invalid_value", param=param)


def stop_strings(stop: str | list[str] | None) -> list[str]:
    """The stop strings of a request; raises an `ApiError` if they cannot be used."""
    strings = [stop] if isinstance(stop, str) else stop or []
    if len(strings) > MAX_STOPS or not all(0 < len(string) <= MAX_STOP_LENGTH for string in strings):
        raise _invalid(f"stop holds at most {MAX_STOPS} texts of 1 to {MAX_STOP_LENGTH} characters.", "stop")
    return strings


class StopFilter:
    """Cuts text before a stop string, also where it comes piece by piece.

    Args:
        strings: The stop strings.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = strings
        self._held = ""
        self._is_over = False

    def push(self, text: str, is_last: bool = False) -> str:
        """Takes the next text; returns what is certain to come before a stop string."""
        if self._is_over:
            return ""
        text = self._held + text
        ends = [index for string in self._strings if (index := text.find(string)) >= 0]
        self._is_over = bool(ends) or is_last
        # What may be the beginning of a stop string waits for what follows.
        held = 0 if self._is_over else max((_overlap(text, string) for string in self._strings), default=0)
        end = min(ends) if ends else len(text) - held
        self._held = text[end:]
        return text[:end]


def _overlap(text: str, string: str) -> int:
    """Length of the longest end of the text that a string begins with."""
    longest = min(len(text), len(string) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(string[:length])), 0)
