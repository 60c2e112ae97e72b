"""Streams an answer: prints its text, decodes and writes its audio block by block."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import numpy as np

from ..modeling.streamers_ttt import EventStreamer, StreamEvent, TtTStreamer
from ..processing.processing_ttt import TtTProcessor
from ..processing.reply_streams import ReplyStream
from .audio_output import wav_writer
from .quiet import note


class AnswerWriter:
    """Prints the text of an answer and writes its audio, piece by piece.

    Args:
        files: Closes the audio file, which gets its final name if there was no error.
        path: WAV file for the audio, if any.
        rate: Its sampling rate in Hz.
        output: Stream for the text, if any.
        label: What stands before the text.
    """

    def __init__(self, files: ExitStack, path: Path | None, rate: int, output: TextIO | None, label: str = "") -> None:
        self.files = files
        self.path = path
        self.rate = rate
        self.output = output
        self.start = time.perf_counter()
        self._write: Callable[[np.ndarray], None] | None = None
        self._has_audio = False
        self.put_text(label)

    def put_text(self, text: str) -> None:
        """Prints text."""
        if self.output is not None:
            print(text, end="", file=self.output, flush=True)

    def put_audio(self, samples: np.ndarray) -> None:
        """Writes samples, float32 of shape `(samples,)`."""
        # A codec that looks ahead holds samples back until later codes arrive.
        if len(samples) == 0:
            return
        if not self._has_audio:
            self._has_audio = True
            note(f"first audio after {time.perf_counter() - self.start:.2f} s")
        if self.path is not None:
            # Opened with the first samples, so that an answer without speech leaves no file.
            if self._write is None:
                self._write = self.files.enter_context(wav_writer(self.path, self.rate))
            self._write(samples)


class AnswerStreamer(TtTStreamer):
    """Decodes what `generate` streams, and passes it on.

    Args:
        processor: Decodes text and speech.
        writer: Takes both.

    Raises:
        ValueError: If the codec cannot decode piece by piece.
    """

    def __init__(self, processor: TtTProcessor, writer: AnswerWriter) -> None:
        # Before the model generates for minutes: not every codec can decode piece by piece.
        self.stream = ReplyStream(processor)
        self.writer = writer

    def put_text(self, token_ids: list[int]) -> None:
        """Prints the text that is new."""
        self.writer.put_text(self.stream.text(token_ids))

    def put_block(self, token_ids: list[int]) -> None:
        """Decodes the codes of a finished block."""
        self.writer.put_audio(self.stream.speech(self.stream.codes(token_ids)))

    def end(self) -> None:
        """Prints and writes the rest."""
        text, samples = self.stream.finish()
        self.writer.put_text(f"{text}\n")
        self.writer.put_audio(samples)


class RecordingStreamer(EventStreamer):
    """Keeps all events of an answer, and passes on what the other streamer prints and writes.

    Args:
        other: The other streamer, if any.

    Attributes:
        events: What has happened.
    """

    def __init__(self, other: AnswerStreamer | None) -> None:
        self.events: list[StreamEvent] = []
        super().__init__(self.events.append)
        self.other = other or TtTStreamer()

    def put_text(self, token_ids: list[int]) -> None:
        """Passes on text."""
        super().put_text(token_ids)
        self.other.put_text(token_ids)

    def put_block(self, token_ids: list[int]) -> None:
        """Passes on a finished block."""
        super().put_block(token_ids)
        self.other.put_block(token_ids)

    def end(self) -> None:
        """Passes on the end."""
        self.other.end()
