"""Pipelines of transformers that TtT has no part in: they say which one to use instead."""

from __future__ import annotations

from typing import Any, NoReturn

from transformers import AutoModelForSpeechSeq2Seq, AutoModelForTextToWaveform

from ..modeling import TtTConfig


class _AnyToAny:
    """Stands for a model in the registry of a pipeline that cannot run it."""

    config_class = TtTConfig
    options: str

    @classmethod
    def from_pretrained(cls, name: Any, *arguments: Any, **options: Any) -> NoReturn:
        """Refuses to load."""
        # Errors of the kinds that loading a model raises would be collected into pages of tracebacks.
        raise LookupError(
            f"TtT takes conversations and answers in text and speech, so that this pipeline cannot run {name}: use "
            f'pipeline("any-to-any", model=...)(text=[{{"role": "user", "content": ...}}], {cls.options}).'
        )


class _Recognition(_AnyToAny):
    options = 'task="asr"'


class _Speech(_AnyToAny):
    options = 'task="tts", generation_mode="audio"'


def refuse_other_pipelines() -> None:
    """Registers what `pipeline("automatic-speech-recognition")` and `pipeline("text-to-speech")` answer."""
    AutoModelForSpeechSeq2Seq.register(TtTConfig, _Recognition, exist_ok=True)
    AutoModelForTextToWaveform.register(TtTConfig, _Speech, exist_ok=True)
