"""Models under evaluation: TtT, speech recognisers for reference scores, audio chat models behind an API."""

from __future__ import annotations

from typing import Any

from ..concepts import SpeechModel
from ..recognizers import RECOGNIZER_KINDS, load_transcriber


def load_model(name: str, **settings: Any) -> SpeechModel:
    """Loads a model by its name.

    Args:
        name: One of
            - `ttt-tiny`, a folder or a Hub id: a TtT model or an adapter for one;
            - `hf-asr:ID`: a speech recogniser of transformers;
            - `faster-whisper:FOLDER_OR_NAME`, or `faster-whisper` for the bundled Whisper tiny.en;
            - `funasr:ID`: a speech recogniser of FunASR;
            - `openai:URL#MODEL`: an audio chat model behind an OpenAI-compatible API.
        **settings: Settings that differ from the model's own: for TtT those of `load_ttt` including generation keys;
            for recognisers those of their classes; for APIs those of `load_openai`.

    Raises:
        ValueError: If the name or a setting is wrong, or it is another kind of model.
        OSError: If the model cannot be found or reached.
        ModuleNotFoundError: If what it needs is not installed.

    Example:

    ```python
    model = load_model("ttt-tiny", audio_steps_per_block=8)
    replies = model.respond(samples, task)
    ```
    """
    kind, colon, rest = name.partition(":")
    if kind in RECOGNIZER_KINDS:
        from .transcriber import TranscriberModel

        return TranscriberModel(load_transcriber(name, **settings))
    if kind == "openai" and colon:
        from .openai_audio import load_openai

        return load_openai(rest, **settings)
    from .ttt import load_ttt

    return load_ttt(name, **settings)


__all__ = ["load_model"]
