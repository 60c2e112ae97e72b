"""Streams an answer: prints its text, decodes and writes its audio block by block."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import numpy as np

from ..codecs import output_sampling_rate
from ..modeling.streamers_ttt import TtTStreamer
from ..processing.processing_ttt import TtTProcessor
from ..processing.reply_streams import ReplyStream
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
        # Before the model generates for minutes: not every codec can decode piece by piece.
        self.stream = ReplyStream(processor)
        self.files = files
        self.path = path
        self.output = output
        self.start = time.perf_counter()
        self._rate = output_sampling_rate(processor.codec.config) if processor.codec is not None else 0
        self._write: Callable[[np.ndarray], None] | None = None
        self._has_audio = False

    def put_text(self, token_ids: list[int]) -> None:
        """Prints the text that is new."""
        self._print_text(self.stream.text(token_ids))

    def put_block(self, token_ids: list[int]) -> None:
        """Decodes the codes of a finished block."""
        self._write_audio(self.stream.speech(self.stream.codes(token_ids)))

    def end(self) -> None:
        """Prints and writes the rest."""
        text, samples = self.stream.finish()
        self._print_text(f"{text}\n")
        self._write_audio(samples)

    def _print_text(self, text: str) -> None:
        if self.output is not None:
            print(text, end="", file=self.output, flush=True)

    def _write_audio(self, samples: np.ndarray) -> None:
        # A codec that looks ahead holds samples back until later codes arrive.
        if len(samples) == 0:
            return
        if not self._has_audio:
            self._has_audio = True
            note(f"first audio after {time.perf_counter() - self.start:.2f} s")
        if self.path is not None:
            # Opened with the first samples, so that an answer without speech leaves no file.
            if self._write is None:
                self._write = self.files.enter_context(wav_writer(self.path, self._rate))
            self._write(samples)
