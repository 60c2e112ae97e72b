"""Speech recognisers of FunASR, such as Paraformer for Chinese."""

from __future__ import annotations

import importlib.util
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ...processing.audio import resample
from .base import SPEECH_SAMPLING_RATE, Transcriber


class FunAsrTranscriber(Transcriber):
    """A speech recogniser of FunASR, such as Paraformer for Chinese.

    Args:
        model: Name in FunASR's hub (`paraformer-zh`), or folder.
        language: Spoken language. It is recorded only: each Paraformer model has a language of its own.
        revision: Revision in FunASR's hub.
        device: `cpu` or `cuda`.

    Raises:
        ModuleNotFoundError: If FunASR is not installed.
    """

    def __init__(self, model: str, language: str = "zh", revision: str | None = None, device: str = "cpu") -> None:
        self.check_packages(model)
        from funasr import AutoModel

        self.revision = revision
        # `disable_update`: no search for a newer FunASR, which would need the network.
        self._model = AutoModel(
            model=model, model_revision=revision, device=device, disable_update=True, trust_remote_code=False
        )
        super().__init__(Path(model).name, language)

    @classmethod
    def check_packages(cls, model: str | None) -> None:
        """Raises a `ModuleNotFoundError` if FunASR is not installed."""
        if importlib.util.find_spec("funasr") is None:
            raise ModuleNotFoundError("FunASR is not installed: pip install 'ttt-hf[funasr]'.")

    @property
    def description(self) -> dict[str, Any]:
        """All that the transcripts depend on."""
        return {
            "model": self.name,
            "revision": self.revision,
            "language": self.language,
            "funasr": version("funasr"),
        }

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        """Transcribes one recording, see [`Transcriber`]."""
        waveform = np.ascontiguousarray(waveform, dtype=np.float32)
        if len(waveform) == 0:
            return ""
        outputs = self._model.generate(
            input=resample(waveform, sampling_rate, SPEECH_SAMPLING_RATE), fs=SPEECH_SAMPLING_RATE, disable_pbar=True
        )
        return " ".join(output["text"].strip() for output in outputs)

    def check_language(self) -> None:
        """Accepts any language: FunASR does not say which ones a model knows."""
