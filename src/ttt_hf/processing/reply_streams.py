"""A reply decoded while it is generated: its text as it grows, its speech block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..codecs import output_sampling_rate
from .replies import REPLACEMENT_CHARACTER, Reply, reply_segments
from .tokenization import tokenizer_errors


if TYPE_CHECKING:
    from .processing_ttt import TtTProcessor


class ReplyStream:
    """Decodes the events of one reply, in their order.

    Args:
        processor: Decodes both.
        speech: Whether to decode speech, if the processor has a codec.

    Raises:
        ValueError: If the codec cannot decode piece by piece.
    """

    def __init__(self, processor: TtTProcessor, speech: bool = True) -> None:
        codec = processor.codec if speech else None
        if codec is not None and not hasattr(codec, "decode_stream"):
            raise ValueError(f"{type(codec).__name__} cannot decode piece by piece: decode the whole reply instead.")
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._ids = processor.token_ids
        self._samples: list[np.ndarray] = []
        self._decoder = codec.decode_stream() if codec is not None else None
        self._text_ids: list[int] = []
        self._written = 0

    def text(self, token_ids: Sequence[int]) -> str:
        """Takes text tokens; returns the text that is new, up to the last complete character."""
        self._text_ids += token_ids
        return self._new_text(is_last=False)

    def codes(self, token_ids: Sequence[int]) -> list[int]:
        """The codes of a finished block, whose last token may be an end marker, which is no code."""
        first, size = self._ids.audio_code_offset, self._ids.audio_vocab_size
        return [token - first for token in token_ids if 0 <= token - first < size]

    def speech(self, codes: Sequence[int]) -> np.ndarray:
        """Takes codes; returns the samples that can be computed now, float32 of shape `(samples,)`.

        A codec that looks ahead holds samples back until later codes arrive.
        """
        if self._decoder is None:
            return np.zeros(0, dtype=np.float32)
        return self._keep(self._decoder.push(torch.tensor(codes, dtype=torch.long)))

    def finish(self) -> tuple[str, np.ndarray]:
        """Returns the rest of both."""
        text = self._new_text(is_last=True)
        if self._decoder is None:
            return text, np.zeros(0, dtype=np.float32)
        return text, self._keep(self._decoder.finish())

    def reply(self, segments: Sequence[Any], finish_reason: str | None) -> Reply:
        """The whole reply, with the speech that has been decoded.

        Args:
            segments: Text and audio segments of the decoded row.
            finish_reason: Why it ended.
        """
        codec = self._processor.codec
        items = reply_segments(segments, self._tokenizer, codec.config.frame_rate if codec is not None else None)
        return Reply(
            text="".join(item.get("text", "") for item in items).strip(),
            audio=np.concatenate(self._samples) if self._samples else np.zeros(0, dtype=np.float32),
            sampling_rate=output_sampling_rate(codec.config) if codec is not None else 0,
            segments=items,
            finish_reason=finish_reason,
        )

    def _keep(self, samples: torch.Tensor) -> np.ndarray:
        self._samples.append(samples.float().cpu().numpy())
        return self._samples[-1]

    def _new_text(self, is_last: bool) -> str:
        # All ids again: what a token decodes to can depend on the ones before it.
        with tokenizer_errors():
            text = self._tokenizer.decode(self._text_ids, skip_special_tokens=True)
        if not is_last:
            # The bytes of a character may be spread over several tokens: wait for the last one.
            text = text.rstrip(REPLACEMENT_CHARACTER)
        new = text[self._written :]
        self._written = max(self._written, len(text))
        return new
