"""The last stage: scores are computed from the records. It needs no model, no transcriber and no judge."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...atomic_files import atomic_write
from ..concepts import Task
from ..folder import TaskFolder, task_from
from ..results import make_results
from ..scoring.scorers import SCORERS, bind_scorer
from ..store import write_json
from ..tasks import load_task


# Keys of a task that may be changed after the model was asked.
SCORING_KEYS = ("scorer", "scorer_options")


def task_to_score(folder: TaskFolder, overrides: Mapping[str, Any] | None = None) -> Task:
    """Loads the task of a run again, so that a changed scorer counts.

    Args:
        overrides: Another `scorer` or other `scorer_options`.

    Returns:
        The task; if its file is gone, as it was when the model was asked.

    Raises:
        ValueError: If the task has another version now, or anything but the scoring is overridden.
        FileNotFoundError: If the task's file is gone and there are overrides.
    """
    settings = folder.read_settings()
    overrides = dict(overrides or {})
    for key in overrides:
        if key.split(".", 1)[0] not in SCORING_KEYS:
            raise ValueError(
                f"{key} cannot be changed after the model was asked, only {' and '.join(SCORING_KEYS)} can: run "
                "`ttt-hf eval run` with it into another folder."
            )
    # Loaded again with the overrides of the run, such as a path; those of this call take precedence.
    try:
        task = load_task(settings["loaded_from"], **{**settings["overrides"], **overrides})
    except FileNotFoundError:
        # Overrides are changes to the file: the recorded task is used only as it is.
        if overrides:
            raise
        task = task_from(settings["task"])
    # The file may have changed since the run: another version may have other samples or references.
    folder.check_version(task)
    return task


def score_task(folder: TaskFolder, task: Task) -> dict[str, Any]:
    """Scores the records of a run, and writes `scores.jsonl` and `results.json`.

    Args:
        task: As `task_to_score` loads it.

    Returns:
        Content of `results.json`.

    Raises:
        ValueError: If replies have not been transcribed or judged, or the scorer does not fit the task.
    """
    # Wrong options fail here, before any record is read.
    scorer = bind_scorer(task.scorer, task.scorer_options)
    settings = folder.read_settings()
    if SCORERS[task.scorer].needs_judge and settings["judge"] is None:
        raise ValueError(
            f"The replies in {folder.path} have not been judged, which the scorer {task.scorer} needs: run `ttt-hf "
            f"eval judge {folder.path} --judge-url URL --judge-model NAME`; the replies are kept."
        )
    replies, records = folder.replies(), folder.records(task)
    if not records:
        raise ValueError(f"{folder.path} has no replies yet: run `ttt-hf eval run` again.")
    # All is computed before the first file is written: an error leaves the former scores as they are.
    scores = [scorer(record) for record in records]
    results = make_results(settings, task, replies, records, scores)
    with atomic_write(folder.scores) as partial, partial.open("w", encoding="utf-8") as file:
        for record, score in zip(records, scores):
            line = {"id": record.id, "values": dict(score.values), "counts": dict(score.counts)}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    # Last, so that results always have their per-sample scores.
    write_json(folder.results, results)
    return results
