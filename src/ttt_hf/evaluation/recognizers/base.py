"""The interface of all speech recognisers: speech to text in a given language; nothing is detected or prompted."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np


# Rate in Hz of the audio that Whisper and Paraformer take.
SPEECH_SAMPLING_RATE = 16000

Recording = tuple[np.ndarray, int]
AnyTranscriber = TypeVar("AnyTranscriber", bound="Transcriber")


class Transcriber(ABC):
    """A speech recogniser that transcribes in one language.

    Args:
        name: Name of the model in results.
        language: Spoken language, ISO 639-1; it is never detected.
    """

    def __init__(self, name: str, language: str) -> None:
        self.name = name
        self.language = language
        self.check_language()

    @property
    @abstractmethod
    def description(self) -> dict[str, Any]:
        """All that the transcripts depend on: model, revision, language, decoding, versions."""

    @classmethod
    @abstractmethod
    def check_packages(cls, model: str | None) -> None:
        """Raises a `ModuleNotFoundError` if an optional package that this model needs is not installed."""

    @abstractmethod
    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        """Transcribes one recording.

        Args:
            waveform: Mono samples in [-1, 1], shape `(samples,)`.
            sampling_rate: Rate in Hz; resampled to the model's.

        Returns:
            The transcript without special tokens; empty for empty recordings.
        """

    def transcribe_all(self, recordings: Iterable[Recording]) -> Iterator[str]:
        """Transcribes many recordings.

        Args:
            recordings: Waveform and sampling rate of each.

        Yields:
            The transcripts, in order, each equal to that of `transcribe`.
        """
        for recording in recordings:
            yield self.transcribe(*recording)

    @abstractmethod
    def check_language(self) -> None:
        """Raises a `ValueError` if the model does not know `language`."""

    def for_language(self: AnyTranscriber, language: str) -> AnyTranscriber:
        """Returns a transcriber for another language that shares its weights with this one."""
        if language == self.language:
            return self
        # A shallow copy: the loaded model is shared, and the language of this one stays.
        other = copy.copy(self)
        other.language = language
        other.check_language()
        return other
