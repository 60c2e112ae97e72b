"""Speech to text for scoring spoken replies: recognisers by name."""

from __future__ import annotations

from typing import Any

from .base import Transcriber


RECOGNIZER_KINDS = ("faster-whisper", "hf-asr", "funasr")


def load_transcriber(spec: str | None = None, language: str = "en", **settings: Any) -> Transcriber:
    """Loads a recogniser by its name.

    Args:
        spec: `faster-whisper` (the bundled tiny.en, the default), `faster-whisper:FOLDER_OR_NAME`, `hf-asr:ID` for any
            speech recogniser of transformers, or `funasr:ID` (`funasr:paraformer-zh`).
        language: Language that is spoken, ISO 639-1.
        settings: Keyword arguments of the recogniser.

    Returns:
        The recogniser.

    Raises:
        ValueError: There is no such kind, a setting is unknown, or the model does not know the language.
        ModuleNotFoundError: What it needs is not installed; says how to get it.
        OSError: The model cannot be found.
    """
    kind, _, name = (spec or "faster-whisper").partition(":")
    if kind not in RECOGNIZER_KINDS:
        raise ValueError(
            f"There is no transcriber {spec!r}: name faster-whisper, faster-whisper:FOLDER, hf-asr:ID or funasr:ID."
        )
    if not name and kind != "faster-whisper":
        raise ValueError(f"{kind} needs the name of a model: {kind}:ID.")
    try:
        return _recognizer_class(kind)(name or None, language, **settings)
    except TypeError as error:
        if "keyword argument" not in str(error):
            raise
        raise ValueError(f"{kind} has no such setting ({error}).") from error


def _recognizer_class(kind: str) -> Any:
    if kind == "hf-asr":
        from .transformers import TransformersTranscriber

        return TransformersTranscriber
    if kind == "funasr":
        from .funasr import FunAsrTranscriber

        return FunAsrTranscriber
    from .whisper import WhisperTranscriber

    return WhisperTranscriber
