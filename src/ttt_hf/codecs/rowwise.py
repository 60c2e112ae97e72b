"""Base class of codecs that process the rows of a batch one by one, and their streaming decode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedAudioTokenizerBase
from transformers.utils import ModelOutput

from .validation import check_codes, check_waveform, code_rows


@dataclass
class CodecOutput(ModelOutput):
    """Output of a codec's `forward`: encoded and decoded audio.

    Args:
        audio_codes: `torch.long` of shape `(batch, frames)`, -1 after the end of a row.
        audio_values: Float of shape `(batch, samples)` at the codec's output sampling rate.
    """

    audio_codes: Tensor | None = None
    audio_values: Tensor | None = None


class RowwiseCodec(PreTrainedAudioTokenizerBase):
    """A codec with a single codebook that processes the rows of a batch one by one.

    The codes and samples of a row are therefore the same in every batch, however encoder and decoder treat padding. A
    subclass implements `_encode_row` and `_decode_row` for one row. Its configuration has `sampling_rate` (Hz, of the
    encoder's input), `frame_rate` (codes per second), `codebook_size`, `samples_per_code` (of the decoder's output)
    and, if it differs from `sampling_rate`, `output_sampling_rate`.
    """

    @property
    def look_behind(self) -> int:
        """Number of past codes that the samples of a code depend on, and that a stream keeps."""
        raise NotImplementedError

    @property
    def look_ahead(self) -> int:
        """Number of future codes that the samples of a code depend on, and that a stream waits for."""
        raise NotImplementedError

    def _encode_row(self, waveform: Tensor) -> Tensor:
        """Encodes float32 `(samples,)` on the codec's device to `torch.long` `(frames,)`, at least one frame."""
        raise NotImplementedError

    def _decode_row(self, codes: Tensor) -> Tensor:
        """Decodes checked codes `(frames,)`, at least one, to float32 `(frames * samples_per_code,)`."""
        raise NotImplementedError

    def _decode_rows(self, codes: Tensor) -> Tensor:
        """Decodes checked codes `(rows, frames)`, at least one each, to float32 `(rows, frames * samples_per_code)`.

        One by one, unless a subclass can decode rows of the same length together.
        """
        return torch.stack([self._decode_row(row) for row in codes])

    @torch.no_grad()
    def encode(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Encodes waveforms to codes.

        Args:
            waveform: Float of shape `(batch, samples)` at `config.sampling_rate`.
            lengths: `torch.long` of shape `(batch,)`, samples of each row; by default all samples count.

        Returns:
            `torch.long` of shape `(batch, frames)` with the frames of the longest row; -1 after the end of a row.

        Raises:
            ValueError: If the waveform has the wrong shape or dtype, is empty or holds values that are not finite, or
                if the lengths do not fit it.
        """
        row_lengths = check_waveform(waveform, lengths)
        rows = [
            self._encode_row(row[:length].to(device=self.device, dtype=torch.float32))
            for row, length in zip(waveform, row_lengths, strict=True)
        ]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)

    @torch.no_grad()
    def decode(self, codes: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Decodes codes to waveforms.

        Args:
            codes: `torch.long` of shape `(batch, frames)` in [0, config.codebook_size); -1 is allowed after the end
                of a row only.
            lengths: `torch.long` of shape `(batch,)`, codes of each row; by default a row ends before its trailing -1.

        Returns:
            Float32 of shape `(batch, frames * config.samples_per_code)` in [-1, 1]; zero after the end of a row.

        Raises:
            ValueError: If the codes have the wrong shape or dtype or are out of range, or the lengths do not fit.
        """
        rows = code_rows(codes, lengths, self.config.codebook_size)
        samples_per_code = self.config.samples_per_code
        # The zeros remain after the end of shorter rows.
        waveform = torch.zeros(codes.shape[0], codes.shape[1] * samples_per_code, device=self.device)
        for row, row_codes in enumerate(rows):
            waveform[row, : len(row_codes) * samples_per_code] = self._decode_checked(row_codes[None])[0]
        return waveform

    def decode_stream(self) -> CodecStream:
        """Opens a stream that decodes codes as they arrive, see [`CodecStream`]."""
        return CodecStream(self)

    @torch.no_grad()
    def decode_streams(
        self, streams: Sequence[CodecStream], codes: Sequence[Tensor], are_last: Sequence[bool]
    ) -> list[Tensor]:
        """Adds the next codes of several streams; those that decode the same number of codes share a forward.

        If it raises, all streams are as they were before.

        Args:
            streams: Different streams of this codec.
            codes: Those of each stream, `torch.long` of shape `(n,)` in [0, config.codebook_size), n may be zero.
            are_last: Whether each stream ends with them.

        Returns:
            For each stream float32 of shape `(samples,)`: all samples that can be computed now and were not returned
            before.

        Raises:
            ValueError: If codes have the wrong shape or dtype or are out of range.
            RuntimeError: If a stream is finished.
        """
        kept = [stream._with(new) for stream, new in zip(streams, codes, strict=True)]
        # The last codes of a stream wait for the codes after them, unless nothing follows, as at the end of `decode`.
        ends = [len(row) - (0 if is_last else self.look_ahead) for row, is_last in zip(kept, are_last, strict=True)]
        groups: dict[int, list[int]] = {}
        for index, (stream, row, end) in enumerate(zip(streams, kept, ends)):
            if end > stream._emitted:
                groups.setdefault(len(row), []).append(index)
        decoded = [torch.zeros(0, device=self.device)] * len(kept)
        for group in groups.values():
            # All kept codes are decoded again, since earlier ones are context of the new ones.
            for index, samples in zip(group, self._decode_checked(torch.stack([kept[index] for index in group]))):
                decoded[index] = samples
        return [
            stream._advance(*state) for stream, state in zip(streams, zip(kept, decoded, ends, are_last), strict=True)
        ]

    def forward(self, waveform: Tensor, lengths: Tensor | None = None) -> CodecOutput:
        """Encodes and decodes; arguments as for `encode`."""
        codes = self.encode(waveform, lengths)
        return CodecOutput(audio_codes=codes, audio_values=self.decode(codes))

    def _decode_checked(self, codes: Tensor) -> Tensor:
        """Decodes checked codes `(rows, frames)` to float32 `(rows, frames * samples_per_code)` in [-1, 1]."""
        # A row may be empty, but `_decode_rows` takes at least one code.
        if codes.numel() == 0:
            return torch.zeros(len(codes), 0, device=self.device)
        # Decoded samples may exceed full scale a little.
        return self._decode_rows(codes.to(self.device).long()).float().clamp(-1.0, 1.0)


class CodecStream:
    """Decodes codes chunk by chunk.

    The samples of a code are returned once the `look_ahead` codes after it are known, and only `look_behind` past
    codes are kept. For a decoder with this receptive field the chunks together equal `decode` of all codes; for one
    that sees all codes they approximate it.
    """

    def __init__(self, codec: RowwiseCodec) -> None:
        self._codec = codec
        self._codes = torch.zeros(0, dtype=torch.long, device=codec.device)
        # Number of kept codes whose samples have been returned.
        self._emitted = 0
        self._finished = False

    def push(self, codes: Tensor) -> Tensor:
        """Adds the next codes.

        Args:
            codes: `torch.long` of shape `(n,)` in [0, codebook_size), n may be zero.

        Returns:
            Float32 of shape `(samples,)`: all samples that can be computed now and were not returned before.

        Raises:
            ValueError: If the codes have the wrong shape or dtype or are out of range.
            RuntimeError: If the stream is finished.
        """
        return self._codec.decode_streams([self], [codes], [False])[0]

    def finish(self) -> Tensor:
        """Ends the stream and returns the remaining samples, float32 of shape `(samples,)`."""
        return self._codec.decode_streams([self], [self._codes[:0]], [True])[0]

    def _with(self, codes: Tensor) -> Tensor:
        """The kept codes and the next ones, which are checked."""
        if self._finished:
            raise RuntimeError("This stream is finished; open a new one with codec.decode_stream().")
        if codes.ndim != 1:
            raise ValueError(f"A stream takes codes of the shape (n,), not {tuple(codes.shape)}.")
        check_codes(codes, self._codec.config.codebook_size)
        return torch.cat([self._codes, codes.to(self._codes)])

    def _advance(self, kept: Tensor, decoded: Tensor, end: int, is_last: bool) -> Tensor:
        """Moves on to the code `end` of the kept ones; returns its new samples among the decoded ones."""
        self._finished = is_last
        self._codes = kept
        if end <= self._emitted:
            return decoded[:0]
        samples_per_code = self._codec.config.samples_per_code
        samples = decoded[self._emitted * samples_per_code : end * samples_per_code]
        # Codes that no later sample depends on are dropped, so that a chunk costs the same throughout the stream.
        surplus = max(0, end - self._codec.look_behind)
        self._codes = kept[surplus:]
        self._emitted = end - surplus
        return samples
