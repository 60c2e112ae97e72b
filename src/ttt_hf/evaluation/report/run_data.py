"""The data of a report: the files of one or more evaluated tasks, read and joined sample by sample."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..concepts import Task
from ..folder import TaskFolder, scored_folders, task_from
from ..scoring.scorers import SCORERS
from ..store import read_lines


# Folders of an absolute path within a text. A slash that follows a letter or another slash is one of an address.
FOLDERS = re.compile(r"(?<![\w.:/-])/(?:[^\s/'\"]+/)+")


@dataclass(frozen=True)
class ReportedSample:
    """One sample with its reply and scores.

    Args:
        question: The question in writing, may be empty.
        references: Accepted answers, or the one transcript.
        text: The reply's text.
        transcript: Transcript of the reply's speech; none for replies in text.
        judgements: Answers of the judge, verbatim.
        finish_reason: How the reply ended: `stop`, `length`, `repetition`, `interrupted` or `error`.
        error: Why the reply failed.
        audio: File of the reply's speech.
        values: Metric -> (numerator, denominator).
    """

    id: str
    question: str
    references: tuple[str, ...]
    text: str
    transcript: str | None
    judgements: tuple[str, ...]
    finish_reason: str
    error: str | None
    audio: Path | None
    values: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class TaskRun:
    """One task of a run.

    Args:
        task: The task as it was when the model was asked.
        results: Content of `results.json`.
        samples: The scored samples, in the order of the data.
    """

    task: Task
    results: Mapping[str, Any]
    samples: tuple[ReportedSample, ...]

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    @property
    def main_metric(self) -> str | None:
        """The metric that samples are ranked by; none if no sample has a value of it."""
        name = main_metric(self.results)
        return name if name in self.results["metrics"] else None


def main_metric(results: Mapping[str, Any]) -> str:
    """The headline metric of a task, also where the task has no headline number."""
    # From the scorer, since `headline` is None in limited and unfinished runs.
    return SCORERS[results["task"]["scorer"]].headline_of(results["task"]["output"])


def read_results(folder: Path) -> list[Mapping[str, Any]]:
    """Reads the results of the scored tasks of a run, ordered by the names of their tasks.

    Args:
        folder: The folder of one task, or of a run with a folder for each task.

    Returns:
        Content of each `results.json`.
    """
    return [task.read_results() for task in scored_folders(folder)]


def read_runs(folder: Path) -> list[TaskRun]:
    """Reads the scored tasks of a run with all their samples, ordered by the names of the tasks.

    Args:
        folder: The folder of one task, or of a run with a folder for each task.
    """
    return [
        TaskRun(task_from(files.read_settings()["task"]), files.read_results(), _read_samples(files))
        for files in scored_folders(folder)
    ]


def without_paths(value: Any) -> Any:
    """Settings without paths of this machine: of absolute paths, also within a text, only the last part is kept.

    Args:
        value: Any JSON value.
    """
    if isinstance(value, Mapping):
        return {key: without_paths(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_paths(entry) for entry in value]
    # Results are shared, and paths would tell names of users and servers.
    if not isinstance(value, str):
        return value
    return Path(value).name if Path(value).is_absolute() else FOLDERS.sub("", value)


def _read_samples(task: TaskFolder) -> tuple[ReportedSample, ...]:
    # Scoring rewrites this file, so that its rows need no check of their fingerprints.
    scores = {row["id"]: row for row in read_lines(task.scores)}
    records = {record.id: record for record in task.records()}
    return tuple(
        ReportedSample(
            id=row["id"],
            question=row["question"],
            references=tuple(row["references"]),
            text=row["text"],
            transcript=records[row["id"]].transcript,
            judgements=tuple(answer.raw for answer in records[row["id"]].judgements),
            finish_reason=row["finish_reason"],
            error=row["error"],
            audio=_audio_file(task.path, row["audio"]),
            values={name: (pair[0], pair[1]) for name, pair in scores[row["id"]]["values"].items()},
        )
        for row in task.replies()
        # A run that goes on may have replies that are not scored yet.
        if row["id"] in scores
    )


def _audio_file(folder: Path, name: str | None) -> Path | None:
    if not name:
        return None
    path = (folder / name).resolve()
    # Results are shared: a path out of the folder would embed a file that somebody else chose into the page.
    return path if path.is_relative_to(folder.resolve()) and path.is_file() else None
