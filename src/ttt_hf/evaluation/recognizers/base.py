"""What all recognisers have in common: speech to text in a forced language; nothing is detected or prompted."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np


# Whisper and Paraformer hear at this rate; `faster-whisper` takes arrays at it.
SPEECH_SAMPLING_RATE = 16000

Recording = tuple[np.ndarray, int]
AnyTranscriber = TypeVar("AnyTranscriber", bound="Transcriber")


class Transcriber(ABC):
    """What all recognisers have in common.

    Args:
        name: What the model is called in results.
        language: Language that is spoken; it is never guessed.
    """

    def __init__(self, name: str, language: str) -> None:
        self.name = name
        self.language = language
        self.check_language()

    @property
    @abstractmethod
    def description(self) -> dict[str, Any]:
        """What decides the transcripts: model, revision, language, decoding, versions."""

    @abstractmethod
    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        """Writes down one recording.

        Args:
            waveform: Mono samples in [-1, 1], shape `(samples,)`.
            sampling_rate: Its rate in Hz; other rates than the model's are resampled.

        Returns:
            The transcript without special tokens; empty where there is no sound.
        """

    def transcribe_all(self, recordings: Iterable[Recording]) -> Iterator[str]:
        """Writes down many recordings.

        Args:
            recordings: (waveform, sampling rate) of each.

        Yields:
            The transcripts, in order; each is the one that `transcribe` gives.
        """
        for recording in recordings:
            yield self.transcribe(*recording)

    @abstractmethod
    def check_language(self) -> None:
        """Raises a `ValueError` where the model cannot be made to hear `language`."""

    def for_language(self: AnyTranscriber, language: str) -> AnyTranscriber:
        """The same model, hearing another language.

        Args:
            language: Language, ISO 639-1.

        Returns:
            Shares the weights with this one.

        Raises:
            ValueError: The model does not know the language.
        """
        if language == self.language:
            return self
        other = copy.copy(self)
        other.language = language
        other.check_language()
        return other
