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
        # Codes that are not decoded yet.
        self._codes: list[int] = []
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
        self.take(codes)
        return decode_speech([self], [False])[0]

    def take(self, codes: Sequence[int]) -> None:
        """Takes codes, which are decoded with the next ones or by `decode_speech`."""
        self._codes += codes

    def finish(self) -> tuple[str, np.ndarray]:
        """Returns the rest of both."""
        return self.last_text(), decode_speech([self], [True])[0]

    def last_text(self) -> str:
        """Returns the rest of the text."""
        return self._new_text(is_last=True)

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


def decode_speech(streams: Sequence[ReplyStream], are_last: Sequence[bool]) -> list[np.ndarray]:
    """Decodes the codes that several replies have taken, in forwards that they share if the codec can do so.

    Args:
        streams: Replies of one processor.
        are_last: Whether each reply has no more codes.

    Returns:
        For each reply the samples that can be computed now, float32 of shape `(samples,)`.
    """
    speaking = [(index, stream) for index, stream in enumerate(streams) if stream._decoder is not None]
    decoded = [np.zeros(0, dtype=np.float32)] * len(streams)
    if not speaking:
        return decoded
    pieces = _decode(
        streams[0]._processor.codec,
        [stream._decoder for _, stream in speaking],
        [torch.tensor(stream._codes, dtype=torch.long) for _, stream in speaking],
        [are_last[index] for index, _ in speaking],
    )
    for (index, stream), samples in zip(speaking, pieces):
        stream._codes = []
        decoded[index] = samples.float().cpu().numpy()
        stream._samples.append(decoded[index])
    return decoded


def shares_forwards(codec: Any) -> bool:
    """Whether several streams of a codec are decoded in the same forwards, and all stay as they were if one fails."""
    return hasattr(codec, "decode_streams")


def _decode(codec: Any, decoders: list[Any], codes: list[torch.Tensor], are_last: list[bool]) -> list[torch.Tensor]:
    """Advances streams of a codec: together if it can do so, otherwise one after the other."""
    if shares_forwards(codec):
        return codec.decode_streams(decoders, codes, are_last)
    pieces = [decoder.push(new) for decoder, new in zip(decoders, codes)]
    return [
        torch.cat([piece, decoder.finish()]) if is_last else piece
        for piece, decoder, is_last in zip(pieces, decoders, are_last)
    ]
