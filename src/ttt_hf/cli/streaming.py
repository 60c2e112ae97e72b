"""Streams an answer: prints its text, decodes and writes its audio block by block."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import numpy as np
import torch

from ..codecs import output_sampling_rate
from ..modeling.streamers_ttt import TtTStreamer
from ..processing.processing_ttt import REPLACEMENT_CHARACTER, TtTProcessor
from .audio_output import wav_writer
from .quiet import note


class AnswerStreamer(TtTStreamer):
    """Prints text token by token and writes audio block by block.

    Args:
        processor: Decodes both.
        files: Closes the audio file, which gets its final name if there was no error.
        path: WAV file for the audio; without one it is decoded for the timing only.
        output: Stream for the text, if any.

    Raises:
        ValueError: If the codec cannot decode piece by piece.
    """

    def __init__(self, processor: TtTProcessor, files: ExitStack, path: Path | None, output: TextIO | None) -> None:
        # Checked before the model generates for minutes.
        if processor.codec is not None and not hasattr(processor.codec, "decode_stream"):
            raise ValueError(f"{type(processor.codec).__name__} cannot decode piece by piece: leave out --stream.")
        self.processor = processor
        self.files = files
        self.path = path
        self.output = output
        self.start = time.perf_counter()
        self._write: Callable[[np.ndarray], None] | None = None
        self._decoder = processor.codec.decode_stream() if processor.codec is not None else None
        self._has_audio = False
        self._text_ids: list[int] = []
        self._printed = 0

    def put_text(self, token_ids: list[int]) -> None:
        """Prints the text that is new."""
        self._text_ids += token_ids
        self._print_text(is_last=False)

    def put_block(self, token_ids: list[int]) -> None:
        """Decodes the codes of a finished block."""
        if self._decoder is not None:
            first = self.processor.token_ids.audio_code_offset
            codes = torch.tensor(token_ids, dtype=torch.long) - first
            # The last block of a span also holds the end marker, which is no code.
            codes = codes[(codes >= 0) & (codes < self.processor.token_ids.audio_vocab_size)]
            self._write_audio(self._decoder.push(codes))

    def end(self) -> None:
        """Prints and writes the rest."""
        self._print_text(is_last=True)
        if self.output is not None:
            print(file=self.output, flush=True)
        if self._decoder is not None:
            self._write_audio(self._decoder.finish())

    def _print_text(self, is_last: bool) -> None:
        if self.output is None:
            return
        # All ids again: what a token decodes to can depend on the ones before it.
        text = self.processor.tokenizer.decode(self._text_ids, skip_special_tokens=True)
        if not is_last:
            # The bytes of a character may be spread over several tokens: wait for the last one.
            text = text.rstrip(REPLACEMENT_CHARACTER)
        print(text[self._printed :], end="", file=self.output, flush=True)
        self._printed = max(self._printed, len(text))

    def _write_audio(self, samples: torch.Tensor) -> None:
        # A codec that looks ahead holds samples back until later codes arrive.
        if len(samples) == 0:
            return
        if not self._has_audio:
            self._has_audio = True
            note(f"first audio after {time.perf_counter() - self.start:.2f} s")
        if self.path is not None:
            # Opened with the first samples, so that an answer without speech leaves no file.
            if self._write is None:
                rate = output_sampling_rate(self.processor.codec.config)
                self._write = self.files.enter_context(wav_writer(self.path, rate))
            self._write(samples.float().cpu().numpy())
