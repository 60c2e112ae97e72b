"""The first stage: a model answers the samples of a task, in batches of similar length, and each reply is recorded.

A run that was killed goes on where it stopped. The batches are the same in every run, whatever has been done already
and however many processes share them, so that the replies are, too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import soundfile

from ...atomic_files import atomic_write, check_folder
from ..concepts import Reply, Sample, SpeechModel, Task
from ..folder import SCHEMA_VERSION, TaskFolder, task_content
from ..processes import Processes
from ..results import package_versions
from ..store import Row, RowFile, digest, latest_rows, merge_parts, write_json
from ..task_samples import Samples, load_samples
from ..task_tables import content_id
from ..tasks import fingerprint


Item = TypeVar("Item")


def answer_task(
    task: Task,
    model: SpeechModel,
    folder: TaskFolder,
    *,
    loaded_from: str = "",
    overrides: Mapping[str, Any] | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    processes: Processes | None = None,
) -> None:
    """Asks a model what it has not been asked yet. Replies that failed are asked for once more.

    Args:
        task: The task.
        model: The model.
        folder: Where replies are recorded; made if it is not there.
        loaded_from: Name or file that `load_task` loads the task by, so that it can be loaded again for scoring.
        overrides: Keyword arguments of `load_task` that it was loaded with.
        limit: Takes the first so many samples; then there is no headline number.
        batch_size: Samples that the model gets together.
        processes: This process among those of the run; alone by default.

    Raises:
        ValueError: If the folder holds replies to another version of the task, or the data are wrong.
        OSError: If the data are missing, or nothing can be written.
    """
    processes = processes or Processes()
    if batch_size < 1:
        raise ValueError(f"The batch size must be at least 1, not {batch_size}.")
    check_version(folder, task)
    check_folder(folder.path)
    samples = load_samples(task, limit)
    settings = run_settings(task, model, samples, limit)
    folder.path.mkdir(parents=True, exist_ok=True)
    if processes.is_first:
        kept = folder.read_settings() if folder.settings.is_file() else {}
        write_json(
            folder.settings,
            {
                **settings,
                "loaded_from": loaded_from or task.name,
                "overrides": dict(overrides or {}),
                "batch_size": batch_size,
                "processes": processes.count,
                # What later stages wrote is still right: their rows know what they were made from.
                "transcriber": kept.get("transcriber"),
                "judge": kept.get("judge"),
                "judge_price": kept.get("judge_price"),
            },
        )
    known = latest_rows(folder.predictions, settings["fingerprint"])
    done = {key for key, row in known.items() if row["finish_reason"] != "error"}
    # All have read what is there before one writes.
    processes.wait()
    mine = processes.shard(batches_by_length(samples, batch_size))
    todo = [batch for batch in mine if any(samples.ids[index] not in done for index in batch)]
    with RowFile(folder.predictions, processes.rank) as file:
        for batch in progress(todo, task.name, "batch", processes):
            wanted = [index for index in batch if samples.ids[index] not in done]
            rows = answer_batch(task, model, [samples[index] for index in wanted])
            file.append(record_reply(folder, settings["fingerprint"], *row) for row in rows)
    processes.wait()
    if processes.is_first:
        merge_parts(folder.predictions)
    processes.wait()


def run_settings(task: Task, model: SpeechModel, samples: Samples, limit: int | None) -> dict[str, Any]:
    """What decides the replies of a run.

    Args:
        task: The task.
        model: The model.
        samples: What is asked.
        limit: How many samples were wanted at most.

    Returns:
        What `settings.json` says about it.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "task": task_content(task),
        "model": model.description,
        "fingerprint": digest({"task": fingerprint(task, content_id(task.source)), "language": task.language, "model": model.description}),
        "versions": package_versions(),
        "samples": list(samples.ids),
        "n_expected": samples.total,
        "limit": limit,
        "limited": len(samples) < samples.total,
    }


def check_version(folder: TaskFolder, task: Task) -> None:
    """Checks that a folder does not hold another version of a task.

    Args:
        folder: Where a run is, or will be.
        task: The task as it is now.

    Raises:
        ValueError: If it does.
    """
    if not folder.settings.is_file():
        return
    recorded = folder.read_settings()["task"]
    if (recorded["name"], recorded["version"]) != (task.name, task.version):
        raise ValueError(
            f"{folder.path} holds replies to version {recorded['version']} of task {recorded['name']}, and this is "
            f"version {task.version} of {task.name}: their numbers cannot be compared. Run it into another folder "
            "(--out); what is there stays."
        )


def batches_by_length(samples: Samples, batch_size: int) -> list[list[int]]:
    """Groups samples so that little is padding, the longest first: what does not fit into memory shows at once.

    Args:
        samples: All samples of the run.
        batch_size: Samples of a batch.

    Returns:
        Indices of the samples of each batch.
    """
    order = sorted(range(len(samples)), key=lambda index: -samples.seconds[index])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def answer_batch(
    task: Task, model: SpeechModel, samples: Sequence[tuple[Sample, str | None]]
) -> list[tuple[Sample, Reply]]:
    """Asks a model; a sample whose recording cannot be read is a failed reply, and not the model's business.

    Args:
        task: The task.
        model: The model.
        samples: Samples, and what is wrong with their recordings.

    Returns:
        A reply to each sample, in order.
    """
    good = [sample for sample, error in samples if error is None]
    replies = iter(model.respond(good, task) if good else [])
    return [
        (sample, next(replies) if error is None else Reply("", finish_reason="error", error=error))
        for sample, error in samples
    ]


def record_reply(folder: TaskFolder, fingerprint: str, sample: Sample, reply: Reply) -> Row:
    """Writes the speech of a reply, and makes its row.

    Args:
        folder: Where `audio/` is.
        fingerprint: Fingerprint of the run.
        sample: What was asked.
        reply: What was answered.

    Returns:
        The row of `predictions.jsonl`.
    """
    has_audio = reply.audio is not None and len(reply.audio) > 0
    path, checksum = write_audio(folder, fingerprint, sample.id, reply) if has_audio else (None, None)
    return {
        "id": sample.id,
        "fingerprint": fingerprint,
        "question": sample.question,
        "references": list(sample.references),
        "question_seconds": round(len(sample.audio) / sample.sampling_rate, 4) if sample.audio is not None else 0.0,
        "text": reply.text,
        "audio": path,
        "audio_sha256": checksum,
        "sampling_rate": reply.sampling_rate,
        "audio_seconds": round(len(reply.audio) / reply.sampling_rate, 4) if reply.audio is not None else 0.0,
        "codes": list(reply.codes),
        "finish_reason": reply.finish_reason,
        "tokens": reply.tokens,
        "forward_passes": reply.forward_passes,
        "seconds": round(reply.seconds, 4),
        "error": reply.error,
    }


def write_audio(folder: TaskFolder, fingerprint: str, sample: str, reply: Reply) -> tuple[str, str]:
    """Writes the speech of a reply as FLAC, 16 bit.

    Args:
        folder: Where `audio/` is.
        fingerprint: Fingerprint of the run; another model's speech has another folder.
        sample: Id of the sample.
        reply: A reply with audio.

    Returns:
        Path below the folder, and a hash of the samples.
    """
    waveform = np.clip(np.asarray(reply.audio, dtype=np.float64), -1.0, 1.0)
    samples = np.round(waveform * 32767).astype(np.int16)
    path = folder.path / "audio" / fingerprint / f"{file_name(sample)}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        soundfile.write(partial, samples, reply.sampling_rate, format="FLAC", subtype="PCM_16")
    checksum = hashlib.sha256(f"{reply.sampling_rate} ".encode() + samples.tobytes()).hexdigest()
    return path.relative_to(folder.path).as_posix(), checksum


def file_name(sample: str) -> str:
    """A name of a file for an id, whatever characters that has.

    Args:
        sample: Id of a sample.

    Returns:
        The id itself if that can be a name, else what is left of it and a hash.
    """
    name = re.sub(r"[^\w.-]+", "_", sample, flags=re.ASCII).lstrip(".")[:80]
    return name if name == sample else f"{name}-{digest(sample)[:8]}"


def progress(
    items: Iterable[Item], name: str, unit: str, processes: Processes, total: int | None = None
) -> Iterator[Item]:
    """Shows on stderr how far a stage is; only the first process does.

    Args:
        items: What is to be done.
        name: Name of the stage.
        unit: What an item is called.
        processes: This process among those of the run.
        total: How many there are, where `items` does not know.

    Yields:
        The items.
    """
    from tqdm import tqdm

    total = len(items) if isinstance(items, Sequence) else total
    yield from tqdm(items, desc=name, unit=unit, total=total, disable=not processes.is_first or total == 0)
