"""Speech to text for scoring spoken replies: speech recognisers by name."""

from __future__ import annotations

from typing import Any

from .base import Transcriber


RECOGNIZER_KINDS = ("faster-whisper", "hf-asr", "funasr")


def load_transcriber(name: str | None = None, language: str = "en", **settings: Any) -> Transcriber:
    """Loads a speech recogniser by its name.

    Args:
        name: `faster-whisper` (the bundled Whisper tiny.en, the default), `faster-whisper:FOLDER_OR_SIZE`, `hf-asr:ID`
            for any speech recogniser of transformers, or `funasr:ID` (`funasr:paraformer-zh`).
        language: Spoken language, ISO 639-1.
        **settings: Keyword arguments of its class.

    Raises:
        ValueError: If there is no such kind, a setting is unknown, or the model does not know the language.
        ModuleNotFoundError: If a package that it needs is not installed.
        OSError: If the model cannot be found.
    """
    kind, model = _split_name(name)
    try:
        return _transcriber_class(kind)(model, language, **settings)
    except TypeError as error:
        # Python's own error of an unknown argument; other TypeErrors are not the user's.
        if "keyword argument" not in str(error):
            raise
        raise ValueError(f"{kind} has no such setting ({error}).") from error


def check_transcriber(name: str | None = None) -> None:
    """Checks the name of a transcriber and that the packages it needs are installed, without loading it.

    Args:
        name: As [`load_transcriber`] takes it.
    """
    kind, model = _split_name(name)
    _transcriber_class(kind).check_packages(model)


def _split_name(name: str | None) -> tuple[str, str | None]:
    kind, _, model = (name or "faster-whisper").partition(":")
    if kind not in RECOGNIZER_KINDS:
        raise ValueError(
            f"There is no transcriber {name!r}: name faster-whisper, faster-whisper:FOLDER, hf-asr:ID or funasr:ID."
        )
    if not model and kind != "faster-whisper":
        raise ValueError(f"{kind} needs the name of a model: {kind}:ID.")
    return kind, model or None


def _transcriber_class(kind: str) -> Any:
    # Imported by kind: each needs other packages, of which only one may be installed.
    if kind == "hf-asr":
        from .transformers import TransformersTranscriber

        return TransformersTranscriber
    if kind == "funasr":
        from .funasr import FunAsrTranscriber

        return FunAsrTranscriber
    from .whisper import WhisperTranscriber

    return WhisperTranscriber
