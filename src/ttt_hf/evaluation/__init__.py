"""Evaluation: a model answers the samples of a task, each reply is recorded, scores are a function of the records.

Names are loaded on first use, so that listing tasks or showing results does not wait for torch and transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .concepts import Judgement, Record, Response, Sample, SampleScore, SpeechModel, Task
    from .folder import TaskFolder
    from .harness import evaluate
    from .llm_judge import JudgeServer
    from .models import load_model
    from .recognizers import load_transcriber
    from .recognizers.whisper import WhisperTranscriber, bundled_whisper_tiny_en
    from .scoring.metric_modules import load_metric, write_metric_space
    from .scoring.metrics import (
        WordErrors,
        bootstrap_interval,
        is_same_answer,
        normalize_english,
        total_word_errors,
        word_errors,
    )
    from .stages.answer import answer_task
    from .stages.judge import judge_task
    from .stages.score import score_task, task_to_score
    from .stages.transcribe import transcribe_task
    from .task_samples import load_samples
    from .tasks import load_task, preset, task_names

_MODULES = {
    "concepts": ("Judgement", "Record", "Response", "Sample", "SampleScore", "SpeechModel", "Task"),
    "folder": ("TaskFolder",),
    "harness": ("evaluate",),
    "llm_judge": ("JudgeServer",),
    "models": ("load_model",),
    "recognizers": ("load_transcriber",),
    "recognizers.whisper": ("WhisperTranscriber", "bundled_whisper_tiny_en"),
    "scoring.metrics": (
        "WordErrors",
        "bootstrap_interval",
        "is_same_answer",
        "normalize_english",
        "total_word_errors",
        "word_errors",
    ),
    "scoring.metric_modules": ("load_metric", "write_metric_space"),
    "stages.answer": ("answer_task",),
    "stages.judge": ("judge_task",),
    "stages.score": ("score_task", "task_to_score"),
    "stages.transcribe": ("transcribe_task",),
    "task_samples": ("load_samples",),
    "tasks": ("load_task", "preset", "task_names"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "JudgeServer",
    "Judgement",
    "Record",
    "Response",
    "Sample",
    "SampleScore",
    "SpeechModel",
    "Task",
    "TaskFolder",
    "WhisperTranscriber",
    "WordErrors",
    "answer_task",
    "bootstrap_interval",
    "bundled_whisper_tiny_en",
    "evaluate",
    "is_same_answer",
    "judge_task",
    "load_metric",
    "load_model",
    "load_samples",
    "load_task",
    "load_transcriber",
    "normalize_english",
    "preset",
    "score_task",
    "task_names",
    "task_to_score",
    "total_word_errors",
    "transcribe_task",
    "word_errors",
    "write_metric_space",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
