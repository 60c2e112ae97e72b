"""Replies of the model, decoded: text, speech, and why they ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from .tokenization import tokenizer_errors


REPLACEMENT_CHARACTER = "\ufffd"


@dataclass
class Reply:
    """A decoded reply of the model.

    Args:
        text: All text of the reply, stripped.
        audio: All speech of the reply, float32 of shape `(samples,)`; empty if there is none.
        sampling_rate: Rate of `audio` in Hz; 0 if the processor has no codec.
        segments: Text and audio in order, as content items of an assistant message: `{"type": "text", "text"}` or
            `{"type": "audio", "codes", "seconds", "complete"}`. `{"role": "assistant", "content": reply.segments}`
            continues the conversation.
        finish_reason: Why it ended: `"stop"` by itself, `"length"` at a limit, so that its end is missing,
            `"repetition"` because its text repeated itself, or `"interrupted"`; `None` if the output of `generate`
            does not say.
    """

    text: str
    audio: np.ndarray
    sampling_rate: int
    segments: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None


def rows_of(out: Any) -> list[tuple[list[Any], str | None]]:
    """The segments and the finish reason of every row of the output of `generate`.

    Raises:
        TypeError: If it is not that of `generate(..., return_dict_in_generate=True)`.
    """
    # Pipelines of transformers rebuild the output as a mapping.
    fields = out if isinstance(out, Mapping) else vars(out) if hasattr(out, "__dict__") else {}
    segments = fields.get("segments")
    if segments is None:
        raise TypeError("Replies are decoded from the output of generate(..., return_dict_in_generate=True).")
    return list(zip(segments, fields.get("finish_reason") or [None] * len(segments)))


def reply_segments(
    pieces: Sequence[Any], tokenizer: PreTrainedTokenizerBase, frame_rate: float | None
) -> list[dict[str, Any]]:
    """The content items of a reply, see `Reply.segments`.

    Args:
        pieces: Its text and audio segments.
        tokenizer: The tokenizer.
        frame_rate: Codes a second; `None` gives the `seconds` 0.
    """
    # Not by class: a model loaded as remote code has segment classes of its own.
    texts = iter(_decode_texts([piece.token_ids for piece in pieces if hasattr(piece, "token_ids")], tokenizer))
    items: list[dict[str, Any]] = []
    for piece in pieces:
        if hasattr(piece, "token_ids"):
            items.append({"type": "text", "text": next(texts)})
        else:
            codes = torch.as_tensor(piece.codes).long().cpu()
            seconds = len(codes) / frame_rate if frame_rate else 0.0
            items.append({"type": "audio", "codes": codes, "seconds": seconds, "complete": bool(piece.complete)})
    return items


def _decode_texts(pieces: list[Any], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Texts of consecutive segments; a character split over two segments belongs to the later one."""
    # Decoding all ids so far keeps the spaces between segments, which tokenizers drop at the start of a text.
    texts: list[str] = []
    ids: list[int] = []
    done = 0
    for number, piece in enumerate(pieces, start=1):
        ids += torch.as_tensor(piece).tolist()
        with tokenizer_errors():
            text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if number < len(pieces):
            text = text.rstrip(REPLACEMENT_CHARACTER)
        texts.append(text[done:])
        done = len(text)
    return texts


def as_codes(codes: Any) -> torch.Tensor:
    """The codes of an audio item as a tensor of shape `(frames,)`; raises a `ValueError` if they are none."""
    try:
        tensor = torch.as_tensor(codes)
    except (TypeError, ValueError, RuntimeError):
        tensor = torch.zeros(0, 0)
    if tensor.ndim != 1:
        raise ValueError("The codes of an audio item are a list of integers or a tensor of shape (frames,).")
    return tensor
