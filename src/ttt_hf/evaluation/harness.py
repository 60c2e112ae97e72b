"""All stages of an evaluation in one call, and each stage over the tasks of a run."""

from __future__ import annotations

import contextlib
import gc
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..processes import Processes, launched_processes
from .concepts import SpeechModel, Task
from .folder import TaskFolder
from .llm_judge import JudgeServer, load_judge
from .recognizers import check_transcriber, load_transcriber
from .scoring.metrics import require_jiwer
from .scoring.scorers import SCORERS, bind_scorer
from .stages.answer import answer_task
from .stages.judge import judge_task
from .stages.score import score_task, task_to_score
from .stages.transcribe import transcribe_task
from .task_samples import check_packages
from .tasks import find_tasks


# Metrics that align words or characters; for spoken replies one is always computed, `wer_speech_vs_text`.
ERROR_RATES = ("wer", "cer", "mer")


def evaluate(
    model: Any,
    tasks: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    processor: Any = None,
    revision: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    transcriber: str | None = None,
    judge: JudgeServer | None = None,
    **generation: Any,
) -> dict[str, dict[str, Any]]:
    """Scores a model on tasks: it answers, spoken replies are transcribed, judged where a scorer needs it, and scored.

    With `out`, every stage appends to files there. The same call continues an interrupted run, and a finished one is
    scored again without asking the model anything. Under `torchrun` the processes share the samples.

    Args:
        model: A name as [`load_model`] takes it (`"ttt-tiny"`, a folder, a Hub id, an adapter, `"hf-asr:ID"`,
            `"openai:URL#MODEL"`), a loaded [`TtTForConditionalGeneration`] (PEFT models, too) together with its
            `processor`, or any object with the interface of [`SpeechModel`]. A loaded model is identified by a hash of
            its weights, so that a run is never continued with other weights.
        tasks: Names of tasks or presets (`ttt-hf eval tasks` lists them) or paths of YAML files.
        out: Folder of the run, with one folder per task, `report.md` and `report.html`. Without it, the records are
            written to a temporary folder and removed at the end.
        processor: Processor of a loaded model.
        revision: Branch, tag or commit of a model on the Hub.
        overrides: Keys of the task files with other values, such as `{"path": "recordings", "scorer": "wer"}`.
        limit: Takes the first `limit` samples of each task; the results then have no headline.
        batch_size: Samples that the model answers together.
        transcriber: Speech recogniser for spoken replies, as [`load_transcriber`] takes it; the bundled Whisper
            tiny.en by default.
        judge: Where the judge of tasks that need one can be reached.
        **generation: Generation settings that differ from the checkpoint's, such as `audio_steps_per_block=8`; for a
            model given by name also its other settings (`dtype`, `device`, `codec`).

    Returns:
        Name of each task -> content of its `results.json`. Empty in all but the first of several processes.

    Raises:
        FileNotFoundError: If a task, its data or the model cannot be found.
        ModuleNotFoundError: If an optional package is missing; raised before the model or any data are loaded.
        ValueError: If an argument, a task or the data are wrong, or replies need a judge and there is none. What has
            been recorded in `out` stays, and the reports there cover the tasks that are scored.

    Example:

    ```python
    results = ttt_hf.evaluate("ttt-tiny", "tiny_asr", out="scores", limit=8)
    print(results["tiny_asr"]["metrics"]["wer"]["value"])
    ```
    """
    overrides = dict(overrides or {})
    # 1. Check all tasks first: a wrong option of the last one must not show after hours.
    chosen = find_tasks(tasks, overrides)
    check_requirements(list(chosen.values()), transcriber)
    if out is None:
        _check_temporary(list(chosen.values()), judge)
    with _run_folder(out) as run_folder:
        folders = [TaskFolder(run_folder / task.name) for task in chosen.values()]
        for folder, task in zip(folders, chosen.values()):
            folder.check_version(task)
        # 2. Answer. All tasks share one loaded model.
        with Processes.of_this_run() as processes:
            with _prepared(model, processor, revision, generation) as speech_model:
                for folder, (name, task) in zip(folders, chosen.items()):
                    answer_task(
                        task,
                        speech_model,
                        folder,
                        loaded_from=name,
                        overrides=overrides,
                        limit=limit,
                        batch_size=batch_size,
                        processes=processes,
                    )
            # 3. Transcribe. The name outlives its with-block: deleted, so that the weights can be freed first.
            del speech_model
            _free_memory()
            transcribe_folders(folders, transcriber, processes)
        # 4. Judge and score, in one process: both work on the complete, merged records.
        if not processes.is_first:
            return {}
        if judge is not None:
            judge_folders(folders, judge)
        try:
            results = score_folders(folders)
        finally:
            # Also where a task has no judge yet: the reports cover those that are scored.
            if out is not None and any(folder.results.is_file() for folder in folders):
                _write_reports(run_folder)
    return {result["task"]["name"]: result for result in results}


def check_requirements(tasks: Sequence[Task], transcriber: str | None = None) -> None:
    """Checks what can be checked before a model or data are loaded: scorers with their options, optional packages.

    Args:
        transcriber: Name, as [`load_transcriber`] takes it; used for spoken replies only.
    """
    for task in tasks:
        bind_scorer(task.scorer, task.scorer_options)
        check_packages(task.source)
        if task.output == "speech" or SCORERS[task.scorer].headline in ERROR_RATES:
            require_jiwer()
        if task.output == "speech":
            check_transcriber(transcriber)


def transcribe_folders(
    folders: Sequence[TaskFolder], transcriber: str | None = None, processes: Processes | None = None
) -> None:
    """Transcribes the replies of all tasks with spoken replies. The transcriber is loaded once, and only if needed.

    Args:
        transcriber: Name, as [`load_transcriber`] takes it.
        processes: This process among those of the run; alone by default.
    """
    loaded = None
    for folder in folders:
        task = task_to_score(folder)
        if task.output != "speech":
            continue
        # Loaded for the first task that needs it; other languages share its weights.
        loaded = loaded or load_transcriber(transcriber, task.language)
        transcribe_task(folder, loaded.for_language(task.language), processes)


def judge_folders(folders: Sequence[TaskFolder], judge: JudgeServer) -> int:
    """Judges the replies of all tasks whose scorers need a judge.

    Returns:
        Number of tasks that were judged.
    """
    judged = 0
    for folder in folders:
        task = task_to_score(folder)
        if SCORERS[task.scorer].needs_judge:
            judge_task(folder, load_judge(task, judge.url, judge.model), judge.price)
            judged += 1
    return judged


def score_folders(folders: Sequence[TaskFolder], overrides: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Scores all tasks of a run. If one cannot be scored, the others still are.

    Args:
        overrides: Another scorer, or other options of it.

    Returns:
        Contents of the `results.json` files.
    """
    results, errors = [], []
    for folder in folders:
        try:
            results.append(score_task(folder, task_to_score(folder, overrides)))
        # Collected, so that one run without a judge does not hide the scores of the others.
        except ValueError as error:
            errors.append(str(error))
    if errors:
        raise ValueError(" ".join(errors))
    return results


def _check_temporary(tasks: Sequence[Task], judge: JudgeServer | None) -> None:
    """Refuses a run whose records would be removed before they could be used."""
    # Each process would make a temporary folder of its own, and see its own replies only.
    if launched_processes() > 1:
        raise ValueError("Several processes need one folder for their records: give out=FOLDER.")
    for task in tasks:
        if SCORERS[task.scorer].needs_judge and judge is None:
            raise ValueError(
                f"Task {task.name} needs a judge: give judge=JudgeServer(url, model), or keep the replies with "
                "out=FOLDER and judge them later."
            )


@contextlib.contextmanager
def _run_folder(out: str | Path | None) -> Iterator[Path]:
    if out is not None:
        yield Path(out)
        return
    with tempfile.TemporaryDirectory(prefix="ttt-hf-eval-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def _prepared(
    model: Any, processor: Any, revision: str | None, generation: Mapping[str, Any]
) -> Iterator[SpeechModel]:
    """The model with the interface of [`SpeechModel`]: loaded by name, wrapped, or as it is."""
    if isinstance(model, (str, Path)):
        if processor is not None:
            raise ValueError(f"{model} comes with its own processor: leave processor out, or give the loaded model.")
        from .models import load_model

        yield load_model(str(model), **({} if revision is None else {"revision": revision}), **generation)
        return
    if revision is not None:
        raise ValueError("A revision belongs to the name of a model on the Hub: leave it out for a loaded model.")
    # Anything with the interface of `SpeechModel` is used as it is, without being wrapped.
    if callable(getattr(model, "respond", None)):
        if processor is not None or generation:
            unused = [*(["processor"] if processor is not None else []), *generation]
            raise ValueError(f"This model answers samples by itself: leave out {', '.join(unused)}.")
        yield model
        return
    from .models.ttt import wrap_loaded

    # An evaluation in the middle of a training run must not leave the model in evaluation mode.
    was_training = getattr(model, "training", False)
    try:
        yield wrap_loaded(model, processor, generation)
    finally:
        if was_training:
            model.train()


def _free_memory() -> None:
    """Frees the memory of a model that is no longer needed, for the transcriber."""
    import torch

    # Models may hold references to themselves, which only the collector of cycles frees.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _write_reports(folder: Path) -> None:
    from .report import write_html, write_markdown

    write_markdown(folder)
    write_html(folder)
