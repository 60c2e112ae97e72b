"""The stages of `ttt-hf eval`, put together: which tasks, which model, who transcribes, who judges."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluation.concepts import SpeechModel, Task
from ..evaluation.folder import TaskFolder
from ..evaluation.processes import Processes
from ..evaluation.scoring.scorers import SCORERS, bind_scorer
from ..evaluation.stages.answer import answer_task, check_version
from ..evaluation.stages.judge import judge_task
from ..evaluation.stages.score import score_task, task_to_score
from ..evaluation.stages.transcribe import transcribe_task
from ..evaluation.tasks import is_task_key, load_task, preset, preset_names
from .errors import UsageError


def run_tasks(args: argparse.Namespace, names: Sequence[str], overrides: Mapping[str, Any]) -> Any:
    """All stages of some tasks.

    Args:
        args: As `eval run` declares them.
        names: Tasks, presets and files.
        overrides: Keys of tasks, and settings of the model.

    Returns:
        The results; none in any but the first of several processes.

    Raises:
        UsageError: If there is no such task, or a key of it is wrong.
        OSError, ValueError, ImportError: If data, model, transcriber or judge cannot be used. What was recorded stays.
    """
    if (args.judge_url is None) != (args.judge_model is None):
        raise UsageError("A judge needs both --judge-url and --judge-model.")
    of_task = {key: value for key, value in overrides.items() if is_task_key(key)}
    settings = {key: value for key, value in overrides.items() if not is_task_key(key)}
    if args.model_revision is not None:
        settings["revision"] = args.model_revision
    tasks = find_tasks(names, of_task)
    folders = [TaskFolder(args.out / task.name) for _, task in tasks]
    for folder, (_, task) in zip(folders, tasks):
        bind_scorer(task.scorer, task.scorer_options)
        check_version(folder, task)
        if SCORERS[task.scorer].needs_judge and args.judge_url is None:
            note(f"{task.name} needs a judge (--judge-url): its replies are kept for `ttt-hf eval judge {args.out}`")
    processes = Processes.of_this_run()
    try:
        model = load_speech_model(args.model, settings)
        for folder, (spec, task) in zip(folders, tasks):
            answer_task(
                task,
                model,
                folder,
                spec=spec,
                overrides=of_task,
                limit=args.limit,
                batch_size=args.batch_size,
                processes=processes,
            )
        del model
        free_memory()
        transcribe_folders(args, folders, processes)
    finally:
        processes.leave()
    if not processes.is_first:
        return None
    if args.judge_url is not None:
        judge_folders(args, folders)
    results = score_folders(folders, {})
    write_reports(args.out)
    return results


def find_tasks(names: Sequence[str], overrides: Mapping[str, Any]) -> list[tuple[str, Task]]:
    """Loads tasks by what a user calls them.

    Args:
        names: Tasks, presets and files.
        overrides: Keys of their files with other values.

    Returns:
        Name or absolute path of the file, and the task; each once.

    Raises:
        UsageError: If there is no such task, or a key of it is wrong, or two tasks have one name.
    """
    if not names:
        raise UsageError("Name a task or a preset: `ttt-hf eval tasks` lists them.")
    specs = [task for name in names for task in (preset(name) if name in preset_names() else [name])]
    found: dict[str, tuple[str, Task]] = {}
    for spec in dict.fromkeys(specs):
        try:
            task = load_task(spec, **overrides)
        except (FileNotFoundError, ValueError) as error:
            raise UsageError(str(error)) from error
        if task.name in found:
            raise UsageError(f"Two tasks are called {task.name}: rename one, or run them into two folders.")
        found[task.name] = (str(Path(spec).resolve()) if spec.endswith((".yaml", ".yml")) else spec, task)
    return list(found.values())


def load_speech_model(name: str, settings: Mapping[str, Any]) -> SpeechModel:
    """Loads the model to score.

    Args:
        name: As [`load_model`] takes it.
        settings: Its settings.

    Returns:
        The model.

    Raises:
        OSError, ValueError, ImportError: If it cannot be used.
    """
    from ..evaluation.models import load_model
    from .quiet import silence_transformers

    silence_transformers()
    return load_model(name, **settings)


def transcribe_folders(
    args: argparse.Namespace, folders: Sequence[TaskFolder], processes: Processes | None = None
) -> None:
    """Has spoken replies written down, where a task wants them.

    Args:
        args: With `transcriber`.
        folders: The tasks.
        processes: This process among those of the run; alone by default.

    Raises:
        ModuleNotFoundError: If the transcriber is not installed.
        OSError, ValueError: If it cannot be used.
    """
    from ..evaluation.recognizers import load_transcriber

    transcriber = None
    for folder in folders:
        task = task_to_score(folder)
        if task.output != "speech":
            continue
        if transcriber is None:
            settings = {"workers": os.cpu_count() or 1} if args.transcriber in (None, "faster-whisper") else {}
            transcriber = load_transcriber(args.transcriber, task.language, **settings)
        transcriber = transcriber.for_language(task.language)
        transcribe_task(folder, transcriber, processes)


def judge_folders(args: argparse.Namespace, folders: Sequence[TaskFolder]) -> int:
    """Has replies judged, where the scorer of a task needs it.

    Args:
        args: With `judge_url`, `judge_model` and `judge_price`.
        folders: The tasks.

    Returns:
        How many tasks were judged.

    Raises:
        OSError: If the judge cannot be reached.
        ValueError: If replies have not been transcribed, or the task's settings of the judge are wrong.
    """
    from ..evaluation.llm_judge import load_judge

    judged = 0
    for folder in folders:
        task = task_to_score(folder)
        if SCORERS[task.scorer].needs_judge:
            judge_task(folder, load_judge(task, args.judge_url, args.judge_model), args.judge_price)
            judged += 1
    return judged


def score_folders(folders: Sequence[TaskFolder], overrides: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Scores all that can be scored.

    Args:
        folders: The tasks.
        overrides: Another scorer, or other options of it.

    Returns:
        The results.

    Raises:
        ValueError: If some task could not be scored, after the others were.
    """
    results, errors = [], []
    for folder in folders:
        try:
            results.append(score_task(folder, task_to_score(folder, overrides)))
        except ValueError as error:
            errors.append(str(error))
    if errors:
        raise ValueError(" ".join(errors))
    return results


def write_reports(folder: Path) -> None:
    """Writes `report.md` and `report.html`.

    Args:
        folder: The folder of a run.
    """
    from ..evaluation.report import write_html, write_markdown

    write_markdown(folder)
    note(f"{write_html(folder)} shows plots and examples")


def free_memory() -> None:
    """Gives back what a model that is no longer needed has held."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def note(sentence: str) -> None:
    """Tells the user something that is no result."""
    print(f"ttt-hf: {sentence}", file=sys.stderr)
