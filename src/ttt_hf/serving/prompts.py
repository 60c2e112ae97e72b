"""From the messages of a request to the ids of its prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..processing.audio import audio_seconds, read_audio
from ..processing.conversation import AUDIO_KEYS, plain_item
from ..processing.fetching import Access, short_name
from ..processing.processing_ttt import TtTProcessor


def encode_prompt(
    processor: TtTProcessor,
    messages: Sequence[Mapping[str, Any]],
    task: str | None,
    access: Access,
    max_seconds: float,
) -> list[int]:
    """Ids of a conversation with the assistant's turn opened.

    Args:
        processor: Encodes text and audio.
        messages: As for `TtTProcessor.apply_chat_template`.
        task: Selects the system prompt.
        access: What audio items may name.
        max_seconds: Length of one recording at most.

    Raises:
        ValueError: If a message is malformed, or an audio cannot be used or is too long.
        OSError: If an audio cannot be opened; `PermissionError` if `access` does not allow it.
    """
    read = [_with_samples(message, access, max_seconds) for message in messages]
    return processor.apply_chat_template(
        read, task=task, add_generation_prompt=True, return_tensors=None, access=access
    )["input_ids"][0]


def _with_samples(message: Any, access: Access, max_seconds: float) -> Any:
    """The message with its recordings read, so that those that are too long are refused before they are encoded."""
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, (list, tuple)):
        return message
    return {**message, "content": [_read(item, access, max_seconds) for item in content]}


def _read(item: Any, access: Access, max_seconds: float) -> Any:
    item = plain_item(item) if isinstance(item, Mapping) else item
    if not isinstance(item, Mapping) or item.get("type") != "audio":
        return item
    key = next((key for key in AUDIO_KEYS if item.get(key) is not None), None)
    # Codes are checked with the prompt, and what is malformed is refused by the processor.
    if key in (None, "codes"):
        return item
    samples, rate = read_recording(item[key], item.get("sampling_rate"), access, max_seconds)
    return {"type": "audio", "audio": samples, "sampling_rate": rate}


def read_recording(
    source: Any, sampling_rate: int | None, access: Access, max_seconds: float
) -> tuple[np.ndarray, int]:
    """Reads a recording.

    Args:
        source: As for `read_audio`.
        sampling_rate: Rate in Hz of samples.
        access: What the source may name.
        max_seconds: Its length at most.

    Returns:
        Float32 of shape `(samples,)`, and its rate in Hz.

    Raises:
        ValueError: If it cannot be used or is too long.
        OSError: If it cannot be opened.
    """
    if isinstance(source, bytes):
        # By the header, before all of it is decoded.
        _check_seconds(audio_seconds(source), max_seconds)
    samples, rate = read_audio(source, sampling_rate, access)
    _check_seconds(len(samples) / rate, max_seconds, short_name(source) if isinstance(source, str) else "The audio")
    return samples, rate


def _check_seconds(seconds: float, max_seconds: float, name: str = "The audio") -> None:
    if seconds > max_seconds:
        raise ValueError(f"{name} is {seconds:.0f} s long, and {max_seconds:g} s are allowed: cut it.")
