"""Checks conversations and normalises them to the form that the chat template takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from .fetching import decode_base64


Message = dict[str, Any]
Conversation = Sequence[Message]

# Source: sample data of the official code (`ai4ed/TtT`).
SYSTEM_PROMPTS = {
    "asr": "You are an Automatic Speech Recognition (ASR) model.",
    "chat": "You are an audio-to-audio chat model.",
    "tts": "You are a Text-to-Speech (TTS) model.",
    "audio": "You are a helpful audio model.",
    "text": "You are a helpful model.",
}
DEFAULT_TASK = "chat"
ROLES = ("system", "user", "assistant")
AUDIO_KEYS = ("path", "url", "bytes", "audio", "codes")
# Other names of the same: what the documentation of other models writes.
_SYNONYMS = {"audio_url": "url", "array": "audio"}
CONTENT_RULE = 'Content must be a string or a list of {"type": "text", "text": ...} and {"type": "audio", ...} items.'


def plain_item(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """Writes audio items of other APIs as those of this package; other items are returned as they are.

    Args:
        item: A content item, such as OpenAI's `{"type": "input_audio", "input_audio": {"data": BASE64, "format"}}` and
            `{"type": "audio_url", "audio_url": {"url"}}`.

    Returns:
        `{"type": "audio", ...}` with one of `AUDIO_KEYS`.

    Raises:
        ValueError: If the item lacks its content, or it is not base64.
    """
    kind = item.get("type")
    if kind in ("input_audio", "audio_url"):
        content = item.get(kind)
        key = "data" if kind == "input_audio" else "url"
        value = content.get(key) if isinstance(content, Mapping) else content
        if not isinstance(value, str) or not value:
            raise ValueError(f'An item of type {kind} needs {{"{kind}": {{"{key}": ...}}}}.')
        if kind == "audio_url" or value[:5].casefold() == "data:":
            return {"type": "audio", "url": value}
        try:
            return {"type": "audio", "bytes": decode_base64(value)}
        except ValueError:
            raise ValueError("The data of an input_audio item is not base64.") from None
    # Rows of Parquet files have all keys of all items, most of them empty.
    named = {key: value for key, value in item.items() if value is not None}
    if kind == "audio" and not _SYNONYMS.keys().isdisjoint(named):
        return {_SYNONYMS.get(key, key): value for key, value in named.items()}
    return item


@contextmanager
def row_errors(row: int, rows: int) -> Iterator[None]:
    """Names the row, counted from 0, in the errors of a batch."""
    try:
        yield
    except (OSError, ValueError, TypeError) as error:
        if rows == 1:
            raise
        # An error about Unicode takes other arguments.
        kind = ValueError if isinstance(error, UnicodeError) else type(error)
        raise kind(f"Row {row} of the batch: {error}") from error


def normalise_conversation(
    messages: Conversation, task: str | None, guard: Callable[[str], str]
) -> tuple[list[Message], list[dict[str, Any]]]:
    """Checks a conversation, adds a system prompt if it has none, and separates its audio items.

    Args:
        messages: Messages with `role` and `content`, a string or a list of typed items.
        task: Selects the system prompt; a key of `SYSTEM_PROMPTS`.
        guard: Function applied to every text.

    Returns:
        Messages whose content is a list of `{"type": "text", "text"}` and `{"type": "audio"}`, and the original audio
        items in order, each with the `role` of its message.

    Raises:
        ValueError: If a message or an item is malformed.
    """
    audio_items: list[dict[str, Any]] = []
    normalised = [_normalise_message(message, guard, audio_items) for message in messages]
    if normalised[0]["role"] != "system":
        # Our own text, which needs no guard.
        prompt = {"type": "text", "text": SYSTEM_PROMPTS[task or DEFAULT_TASK]}
        normalised.insert(0, {"role": "system", "content": [prompt]})
    return normalised, audio_items


def _normalise_message(message: Any, guard: Callable[[str], str], audio_items: list[dict[str, Any]]) -> Message:
    if not isinstance(message, Mapping) or "content" not in message or message.get("role") not in ROLES:
        raise ValueError(f"A message needs 'content' and a 'role', one of {', '.join(ROLES)}.")
    content = message["content"]
    # One form for the template: a list of typed items.
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, (list, tuple)):
        raise ValueError(CONTENT_RULE)
    items = []
    for given in content:
        item = plain_item(given) if isinstance(given, Mapping) else {}
        kind = item.get("type")
        if kind == "text" and isinstance(item.get("text"), str):
            items.append({"type": "text", "text": guard(item["text"])})
        elif kind == "audio":
            if sum(item.get(key) is not None for key in AUDIO_KEYS) != 1:
                raise ValueError(f"An audio item needs exactly one of {', '.join(AUDIO_KEYS)}.")
            # The template sees a placeholder only; the items are matched to the placeholders by their order.
            audio_items.append({**item, "role": message["role"]})
            items.append({"type": "audio"})
        else:
            raise ValueError(CONTENT_RULE)
    return {"role": message["role"], "content": items}
