"""Speech recognisers of transformers, as transcribers and as models under evaluation."""

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
from ..models.checkpoints import content_hash
from .base import Recording, Transcriber


# A window of Whisper's; what is longer is heard window by window, along the timestamps that it writes.
WHISPER_WINDOW_SECONDS = 30.0
# Width of the beam in Whisper's published results.
DEFAULT_BEAMS = 5


class TransformersTranscriber(Transcriber):
    """A speech recogniser of transformers, through its `automatic-speech-recognition` pipeline.

    Recordings of up to 30 s are heard by Whisper in batches, which all have the same shape; everything else one by
    one, because padding changes what other models hear.

    Args:
        model: Hub id or folder.
        language: Language that is spoken. Models that know one language only (CTC) cannot be told.
        revision: Branch, tag or commit on the Hub.
        device: Device; the GPU if there is one.
        batch_size: Recordings that Whisper hears together.
        generation: Keyword arguments of `generate`, such as `num_beams`, for models that generate.

    Raises:
        ValueError: There is no such speech recogniser, or it does not know the language.
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
                dtype=torch.float32 if device == "cpu" else "auto",
                model_kwargs={"use_safetensors": True},
            )
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"{model} cannot be loaded as a speech recogniser of transformers: check the name of the folder or on "
                f"the Hub ({str(error).splitlines()[0]})."
            ) from error
        commit = getattr(self._pipeline.model.config, "_commit_hash", None)
        self.revision = content_hash(folder) if is_local else commit
        # The pipeline's own default, which it keeps to itself; named, it is recorded and stays what it is.
        beams = {} if self._pipeline.type.startswith("ctc") else {"num_beams": DEFAULT_BEAMS}
        self.generation = {**beams, **generation}
        super().__init__(folder.resolve().name if is_local else model, language)
        if generation:
            # A wrong setting is an error of its own, not one of every recording.
            if self._pipeline.type.startswith("ctc"):
                raise ValueError(f"{self.name} does not generate, so it has no {', '.join(generation)}: leave it out.")
            self._hear([np.zeros(self._pipeline.feature_extractor.sampling_rate, dtype=np.float32)])

    @property
    def description(self) -> dict[str, Any]:
        """What decides the transcripts; `language` is none where the model cannot be told one."""
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
        """Raises a `ValueError` where Whisper does not know the language."""
        if not self._is_whisper:
            return
        config = self._pipeline.model.generation_config
        if not getattr(config, "is_multilingual", True):
            known = {"en"}
        else:
            known = {token.strip("<|>") for token in getattr(config, "lang_to_id", None) or {}}
        if self.language not in known:
            raise ValueError(
                f"{self.name} does not hear {self.language!r}, but {', '.join(sorted(known)) or 'no language'}: name "
                "another model, such as hf-asr:openai/whisper-large-v3."
            )

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        """Writes down one recording, as [`Transcriber`] says."""
        return next(self.transcribe_all([(waveform, sampling_rate)]))

    def transcribe_all(self, recordings: Iterable[Recording]) -> Iterator[str]:
        """Writes down many recordings, `batch_size` at a time where that changes nothing.

        Args:
            recordings: (waveform, sampling rate) of each.

        Yields:
            The transcripts, in order.
        """
        rest = iter(recordings)
        while batch := list(islice(rest, self.batch_size)):
            rate = self._pipeline.feature_extractor.sampling_rate
            sound = [resample(np.ascontiguousarray(wave, dtype=np.float32), own, rate) for wave, own in batch]
            texts = [""] * len(batch)
            together, alone = [], []
            for place, waveform in enumerate(sound):
                if self._is_whisper and 0 < len(waveform) <= WHISPER_WINDOW_SECONDS * rate:
                    together.append(place)
                elif len(waveform):
                    alone.append([place])
            for places in [together, *alone]:
                heard = self._hear([sound[place] for place in places]) if places else []
                for place, text in zip(places, heard):
                    texts[place] = text
            yield from texts

    def _hear(self, waveforms: list[np.ndarray]) -> list[str]:
        rate = self._pipeline.feature_extractor.sampling_rate
        arguments: dict[str, Any] = {"batch_size": len(waveforms)}
        if self._is_whisper:
            # English models refuse to be told what they know.
            is_multilingual = getattr(self._pipeline.model.generation_config, "is_multilingual", True)
            told = {"language": self.language, "task": "transcribe"} if is_multilingual else {}
            arguments["generate_kwargs"] = {**told, **self.generation}
            arguments["return_timestamps"] = len(waveforms[0]) > WHISPER_WINDOW_SECONDS * rate
        elif self._pipeline.type == "seq2seq":
            arguments["generate_kwargs"] = self.generation
        inputs = [{"raw": waveform, "sampling_rate": rate} for waveform in waveforms]
        return [output["text"].strip() for output in self._pipeline(inputs, **arguments)]
