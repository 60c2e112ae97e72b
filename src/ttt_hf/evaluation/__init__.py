"""Scoring: text metrics and the transcription of spoken replies."""

from ttt_hf.evaluation.text_metrics import (
    WordErrors,
    bootstrap_interval,
    is_same_answer,
    normalize_english,
    total_word_errors,
    word_errors,
)
from ttt_hf.evaluation.transcribe import WhisperTranscriber, bundled_whisper_tiny_en


__all__ = [
    "WhisperTranscriber",
    "WordErrors",
    "bootstrap_interval",
    "bundled_whisper_tiny_en",
    "is_same_answer",
    "normalize_english",
    "total_word_errors",
    "word_errors",
]
