"""Speech recognisers of transformers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import pipeline

from ...processing.audio import resample
from ..identity import content_hash
from .base import Recording, Transcriber


# Length of Whisper's window; longer recordings are transcribed window by window, along the predicted timestamps.
WHISPER_WINDOW_SECONDS = 30.0
# Beam size of Whisper's published results.
DEFAULT_BEAMS = 5


class TransformersTranscriber(Transcriber):
    """A speech recogniser of transformers, through its `automatic-speech-recognition` pipeline.

    Whisper transcribes recordings of up to 30 s in batches, which all have the same shape. Everything else is
    transcribed one by one, because padding changes the transcripts of other models.

    Args:
        model: Hub id or folder.
        language: Spoken language. Models of a single language (CTC) cannot be set to one.
        revision: Branch, tag or commit on the Hub.
        device: Device; the GPU if there is one.
        batch_size: Recordings in a batch of Whisper.
        **generation: Keyword arguments of `generate`, such as `num_beams`, for models that generate.

    Raises:
        ValueError: If there is no such speech recogniser, or it does not know the language.
    """

    def __init__(
        self,
        model: str,
        language: str = "en",
        revision: str | None = None,
        device: str | None = None,
        batch_size: int = 8,
        **generation: Any,
    ) -> None:
        self.batch_size = batch_size
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        folder = Path(model).expanduser()
        is_local = folder.is_dir()
        try:
            self._pipeline = pipeline(
                "automatic-speech-recognition",
                model=str(folder) if is_local else model,
                revision=None if is_local else revision,
                device=device,
                # Half precision is slow on CPUs.
                dtype=torch.float32 if device == "cpu" else "auto",
                # Pickled weights could run code when they are loaded, and without the argument transformers asks.
                model_kwargs={"use_safetensors": True},
                trust_remote_code=False,
            )
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"{model} cannot be loaded as a speech recogniser of transformers: check the name of the folder or on "
                f"the Hub ({str(error).splitlines()[0]})."
            ) from error
        # The commit and not the name of the branch, which moves.
        commit = getattr(self._pipeline.model.config, "_commit_hash", None)
        self.revision = content_hash(folder) if is_local else commit
        # The default of the pipeline, given explicitly so that it is recorded and does not change with its version.
        beams = {} if self._pipeline.type.startswith("ctc") else {"num_beams": DEFAULT_BEAMS}
        self.generation = {**beams, **generation}
        super().__init__(folder.resolve().name if is_local else model, language)
        if generation:
            # One second of silence: a wrong setting fails here, and not for every recording.
            if self._pipeline.type.startswith("ctc"):
                raise ValueError(f"{self.name} does not generate, so it has no {', '.join(generation)}: leave it out.")
            self._transcribe_batch([np.zeros(self._pipeline.feature_extractor.sampling_rate, dtype=np.float32)])

    @classmethod
    def check_packages(cls, model: str | None) -> None:
        """Needs no optional package."""

    @property
    def description(self) -> dict[str, Any]:
        """All that the transcripts depend on; `language` is none if the model cannot be set to one."""
        model = self._pipeline.model
        return {
            "model": self.name,
            "revision": self.revision,
            "architecture": type(model).__name__,
            "language": self.language if self._is_whisper else None,
            "generation": self.generation,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "transformers": version("transformers"),
            "torch": torch.__version__,
        }

    @property
    def _is_whisper(self) -> bool:
        return self._pipeline.type == "seq2seq_whisper"

    def check_language(self) -> None:
        """Raises a `ValueError` if Whisper does not know the language."""
        if not self._is_whisper:
            return
        config = self._pipeline.model.generation_config
        if not getattr(config, "is_multilingual", True):
            known = {"en"}
        else:
            # Languages are tokens of its vocabulary, such as `<|en|>`.
            known = {token.strip("<|>") for token in getattr(config, "lang_to_id", None) or {}}
        if self.language not in known:
            raise ValueError(
                f"{self.name} does not know {self.language!r}, but {', '.join(sorted(known)) or 'no language'}: name "
                "another model, such as hf-asr:openai/whisper-large-v3."
            )

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        """Transcribes one recording, see [`Transcriber`]."""
        return next(self.transcribe_all([(waveform, sampling_rate)]))

    def transcribe_all(self, recordings: Iterable[Recording]) -> Iterator[str]:
        """Transcribes many recordings, `batch_size` at a time where that changes nothing.

        Args:
            recordings: Waveform and sampling rate of each.

        Yields:
            The transcripts, in order.
        """
        # Taken batch by batch, so that an iterable may read its recordings as they are needed.
        rest = iter(recordings)
        rate = self._pipeline.feature_extractor.sampling_rate
        while batch := list(islice(rest, self.batch_size)):
            waveforms = [resample(np.ascontiguousarray(wave, dtype=np.float32), own, rate) for wave, own in batch]
            texts = [""] * len(batch)
            # Whisper pads everything up to 30 s to the same window, so that a batch changes nothing.
            together, alone = [], []
            for index, waveform in enumerate(waveforms):
                if self._is_whisper and 0 < len(waveform) <= WHISPER_WINDOW_SECONDS * rate:
                    together.append(index)
                elif len(waveform):
                    alone.append([index])
            # Empty recordings are in neither and keep the empty transcript.
            for indices in [together, *alone] if together else alone:
                transcripts = self._transcribe_batch([waveforms[index] for index in indices])
                for index, text in zip(indices, transcripts, strict=True):
                    texts[index] = text
            yield from texts

    def _transcribe_batch(self, waveforms: list[np.ndarray]) -> list[str]:
        rate = self._pipeline.feature_extractor.sampling_rate
        arguments: dict[str, Any] = {"batch_size": len(waveforms)}
        if self._is_whisper:
            # English-only models raise an error if a language is given.
            is_multilingual = getattr(self._pipeline.model.generation_config, "is_multilingual", True)
            language = {"language": self.language, "task": "transcribe"} if is_multilingual else {}
            arguments["generate_kwargs"] = {**language, **self.generation}
            # Longer recordings need timestamps, to know where the next window starts.
            arguments["return_timestamps"] = len(waveforms[0]) > WHISPER_WINDOW_SECONDS * rate
        elif self._pipeline.type == "seq2seq":
            arguments["generate_kwargs"] = self.generation
        # New dictionaries for every call: the pipeline removes their keys.
        inputs = [{"raw": waveform, "sampling_rate": rate} for waveform in waveforms]
        return [output["text"].strip() for output in self._pipeline(inputs, **arguments)]
