"""Folders of evaluated tasks for the tests of reports: every file as the harness leaves it, with real audio."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ttt_hf.evaluation.concepts import DatasetSource, Task
from ttt_hf.evaluation.folder import SCHEMA_VERSION, TaskFolder, task_content, transcript_fingerprint
from ttt_hf.evaluation.stages.score import score_task
from ttt_hf.evaluation.store import JsonLinesFile, write_json


FINGERPRINT = "0123456789abcdef"


@dataclass(frozen=True)
class Answer:
    """One reply; `speech` is what was heard where it is spoken."""

    id: str
    reference: str
    text: str
    question: str = ""
    speech: str = ""
    finish_reason: str = "stop"
    error: str | None = None


def write_tone(path: Path, seconds: float = 0.5, rate: int = 16000) -> None:
    """A tone that fades in and out, as FLAC or WAV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(int(seconds * rate)) / rate
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 330 * times) * np.sin(np.pi * times / seconds), rate)


def write_recognition(
    folder: Path, answers: Sequence[Answer], limited: bool = False, data: str = "some/recordings"
) -> dict[str, Any]:
    """Writes the folder of a recognition task and gives its results; `data` is a Hub id or a JSONL file."""
    source = DatasetSource(data, {"audio": "audio", "references": "text", "id": "id"})
    task = Task(folder.name, 1, source, "asr", "text", "wer", description="Recognition of read speech.")
    return _write(folder, task, answers, limited)


def write_questions(
    folder: Path, answers: Sequence[Answer], limited: bool = False, data: str = "some/questions"
) -> dict[str, Any]:
    """Writes the folder of a spoken question answering task, replies and all, and gives its results."""
    source = DatasetSource(data, {"audio": "audio", "references": "answer"}, revision="abc123")
    task = Task(folder.name, 2, source, "chat", "speech", "dpr_contains", description="Spoken questions.")
    return _write(folder, task, answers, limited)


def change_results(folder: Path, **changes: Any) -> None:
    """Writes other values into the results of a task."""
    path = folder / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def _write(folder: Path, task: Task, answers: Sequence[Answer], limited: bool) -> dict[str, Any]:
    folder.mkdir(parents=True)
    files = TaskFolder(folder)
    speaks = task.output == "speech"
    transcriber = {"name": "faster-whisper:tiny.en", "language": "en"} if speaks else None
    rows = [_prediction(folder, answer, speaks) for answer in answers]
    with JsonLinesFile(files.predictions) as file:
        file.append([{**rows[0], "fingerprint": "of-other-settings", "text": "of other settings"}, *rows])
    if transcriber:
        with JsonLinesFile(files.transcripts) as file:
            file.append(
                {"id": row["id"], "fingerprint": transcript_fingerprint(row, transcriber), "text": answer.speech}
                for row, answer in zip(rows, answers)
                if row["audio"]
            )
    settings = {
        "schema_version": SCHEMA_VERSION,
        "task": task_content(task),
        "loaded_from": task.name,
        "overrides": {},
        "model": {"name": "some/model", "revision": "main", "dtype": "float32"},
        "transcriber": transcriber,
        "judge": None,
        "versions": {"ttt-hf": "0.1.0"},
        "fingerprint": FINGERPRINT,
        "samples": [answer.id for answer in answers],
        "n_expected": 2 * len(answers) if limited else len(answers),
        "limited": limited,
    }
    write_json(files.settings, settings)
    return score_task(files, task)


def _prediction(folder: Path, answer: Answer, speaks: bool) -> dict[str, Any]:
    audio = f"audio/{answer.id}.flac" if speaks and answer.finish_reason != "error" else None
    if audio:
        write_tone(folder / audio)
    return {
        "id": answer.id,
        "fingerprint": FINGERPRINT,
        "question": answer.question,
        "references": [answer.reference],
        "question_seconds": 1.0,
        "text": answer.text,
        "audio": audio,
        "audio_sha256": answer.id if audio else None,
        "sampling_rate": 16000 if audio else None,
        "audio_seconds": 0.5 if audio else None,
        "codes": [],
        "finish_reason": answer.finish_reason,
        "tokens": 12,
        "forward_passes": 6,
        "seconds": 0.1,
        "error": answer.error,
    }
