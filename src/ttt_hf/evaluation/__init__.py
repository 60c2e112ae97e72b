"""Evaluation: a model answers the samples of a task, each reply is recorded, scores are a function of the records."""

from .concepts import Judgement, Record, Reply, Sample, SampleScore, SpeechModel, Task
from .folder import TaskFolder
from .models import load_model
from .recognizers import load_transcriber
from .recognizers.whisper import WhisperTranscriber, bundled_whisper_tiny_en
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


__all__ = [
    "Judgement",
    "Record",
    "Reply",
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
    "is_same_answer",
    "judge_task",
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
]
