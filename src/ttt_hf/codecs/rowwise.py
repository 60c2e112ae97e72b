"""Codecs that handle one row after the other, and decoding piece by piece."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedAudioTokenizerBase
from transformers.utils import ModelOutput

from .validation import check_codes, check_waveform, code_rows


@dataclass
class CodecOutput(ModelOutput):
    """What a pass through encoder and decoder gives.

    Args:
        audio_codes: long (batch, frames), -1 behind the end of a row.
        audio_values: float (batch, samples) at the rate at which the codec speaks.
    """

    audio_codes: Tensor | None = None
    audio_values: Tensor | None = None


class RowwiseCodec(PreTrainedAudioTokenizerBase):
    """A codec with a single codebook that handles the rows of a batch one after the other.

    So a row's codes and sound are the same in every batch, whatever its encoder and decoder do about padding. A
    subclass says how one row is encoded (`_encode_row`) and decoded (`_decode_row`). Its configuration has
    `sampling_rate` (Hz, of what it encodes), `frame_rate` (codes a second), `codebook_size` and `samples_per_code` (of
    what it decodes), and `output_sampling_rate` where that differs from `sampling_rate`.
    """

    @property
    def look_behind(self) -> int:
        """Past codes on which the samples of a code depend; what a stream keeps."""
        raise NotImplementedError

    @property
    def look_ahead(self) -> int:
        """Future codes on which the samples of a code depend; what a stream waits for."""
        raise NotImplementedError

    def _encode_row(self, waveform: Tensor) -> Tensor:
        """float32 (samples,) on the codec's device -> long (frames,), at least one."""
        raise NotImplementedError

    def _decode_row(self, codes: Tensor) -> Tensor:
        """Checked long (frames,), at least one, on the codec's device -> float32 (frames * samples_per_code,)."""
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Turns waveforms into codes.

        Args:
            waveform: float (batch, samples) at `config.sampling_rate`.
            lengths: long (batch,), samples of each row; by default all samples count.

        Returns:
            long (batch, frames) with the frames of the longest row; -1 behind the end of a row.

        Raises:
            ValueError: if the waveform has a wrong shape or type, is empty or holds values that are not finite, or if
                the lengths do not fit it.
        """
        row_lengths = check_waveform(waveform, lengths)
        rows = [
            self._encode_row(row[:length].to(device=self.device, dtype=torch.float32))
            for row, length in zip(waveform, row_lengths, strict=True)
        ]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)

    @torch.no_grad()
    def decode(self, codes: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Turns codes into waveforms.

        Args:
            codes: long (batch, frames) in [0, config.codebook_size); -1 is allowed behind the end of a row only.
            lengths: long (batch,), codes of each row; by default a row ends before its trailing -1.

        Returns:
            float32 (batch, frames * config.samples_per_code) in [-1, 1]; zero behind the end of a row.

        Raises:
            ValueError: if the codes have a wrong shape or type or are out of range, or the lengths do not fit.
        """
        rows = code_rows(codes, lengths, self.config.codebook_size)
        samples_per_code = self.config.samples_per_code
        waveform = torch.zeros(codes.shape[0], codes.shape[1] * samples_per_code, device=self.device)
        for row, row_codes in enumerate(rows):
            waveform[row, : len(row_codes) * samples_per_code] = self._decode_checked(row_codes)
        return waveform

    def decode_stream(self) -> CodecStream:
        """Opens a stream that decodes codes as they arrive; see [`CodecStream`]."""
        return CodecStream(self)

    def forward(self, waveform: Tensor, lengths: Tensor | None = None) -> CodecOutput:
        """Encodes and decodes; arguments as for `encode`."""
        codes = self.encode(waveform, lengths)
        return CodecOutput(audio_codes=codes, audio_values=self.decode(codes))

    def _decode_checked(self, codes: Tensor) -> Tensor:
        """Checked codes (frames,) -> float32 (frames * samples_per_code,) in [-1, 1]."""
        if codes.numel() == 0:
            return torch.zeros(0, device=self.device)
        return self._decode_row(codes.to(self.device).long()).float().clamp(-1.0, 1.0)


class CodecStream:
    """Decodes codes piece by piece.

    The samples of a code are given out once the `look_ahead` codes behind it are known, and only `look_behind` past
    codes are kept. Where the decoder sees no more than these, the pieces together equal `decode` of all codes; where
    it sees everything, they come close to it.

    Args:
        codec: the codec that decodes.
    """

    def __init__(self, codec: RowwiseCodec):
        self._codec = codec
        self._codes = torch.zeros(0, dtype=torch.long, device=codec.device)
        self._emitted = 0
        self._finished = False

    def push(self, codes: Tensor) -> Tensor:
        """Takes the next codes.

        Args:
            codes: long (n,) in [0, codebook_size), n may be zero.

        Returns:
            float32 (samples,), all samples that can be computed by now and were not yet given out.

        Raises:
            ValueError: if the codes have a wrong shape or type or are out of range.
            RuntimeError: if the stream is finished.
        """
        if self._finished:
            raise RuntimeError("This stream is finished; open a new one with codec.decode_stream().")
        if codes.ndim != 1:
            raise ValueError(f"A stream takes codes of the shape (n,), not {tuple(codes.shape)}.")
        check_codes(codes, self._codec.config.codebook_size)
        self._codes = torch.cat([self._codes, codes.to(self._codes)])
        return self._advance(len(self._codes) - self._codec.look_ahead)

    def finish(self) -> Tensor:
        """Ends the stream and returns the samples that were held back, float32 (samples,)."""
        if self._finished:
            raise RuntimeError("This stream is finished; open a new one with codec.decode_stream().")
        self._finished = True
        return self._advance(len(self._codes))

    @torch.no_grad()
    def _advance(self, end: int) -> Tensor:
        """Samples of the kept codes from the first one not yet given out up to `end`."""
        if end <= self._emitted:
            return torch.zeros(0, device=self._codec.device)
        samples_per_code = self._codec.config.samples_per_code
        samples = self._codec._decode_checked(self._codes)[self._emitted * samples_per_code : end * samples_per_code]
        surplus = max(0, end - self._codec.look_behind)
        self._codes = self._codes[surplus:]
        self._emitted = end - surplus
        return samples
