"""The first stage: a model answers the samples of a task, the longest first, and each reply is recorded when it ends.

An interrupted run continues where it stopped. A reply depends on its own sample only, whatever runs beside it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import soundfile

from ...atomic_files import atomic_write, check_folder
from ...processes import Processes
from ..concepts import Response, Sample, SpeechModel, Task
from ..folder import SCHEMA_VERSION, TaskFolder, task_content
from ..redaction import encodable, without_secrets
from ..results import package_versions
from ..store import JsonLine, JsonLinesFile, digest, latest_lines, merge_parts, write_json
from ..task_samples import Samples, load_samples
from ..tasks import fingerprint


MAX_FLAC_RATE = 655_350


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
    """Has a model answer the samples that have no reply yet, or one that failed.

    Args:
        folder: Where replies are recorded; made if it does not exist.
        loaded_from: Name or file that `load_task` loads the task by, so that it can be loaded again for scoring.
        overrides: Keyword arguments of `load_task` that it was loaded with.
        limit: Takes the first `limit` samples; then there is no headline number.
        batch_size: Samples that the model gets together.
        processes: This process among those of the run; alone by default.

    Raises:
        ValueError: If the folder holds replies to another version of the task, or the data are wrong.
        OSError: If the data are missing, or nothing can be written.
    """
    # 1. Check what can be checked before anything is written.
    processes = processes or Processes()
    if batch_size < 1:
        raise ValueError(f"The batch size must be at least 1, not {batch_size}.")
    folder.check_version(task)
    check_folder(folder.path)
    # 2. Describe the run. Replies with another fingerprint than this one are not continued.
    samples = load_samples(task, limit)
    settings = run_settings(task, model, samples)
    call = {"loaded_from": loaded_from or task.name, "overrides": dict(overrides or {})}
    shape = {"limit": limit, "batch_size": batch_size, "processes": processes.count}
    with processes.lock(folder.path):
        _answer_missing(task, model, folder, samples, {**settings, **call, **shape}, processes)


def _answer_missing(
    task: Task,
    model: SpeechModel,
    folder: TaskFolder,
    samples: Samples,
    settings: Mapping[str, Any],
    processes: Processes,
) -> None:
    if processes.is_first:
        # Transcripts and judgements of an earlier run may still be right: their lines say what they were made from.
        before = folder.read_settings() if folder.settings.is_file() else {}
        later = {key: before.get(key) for key in ("transcriber", "judge", "judge_price")}
        write_json(folder.settings, {**settings, **later})
    # No process may write before the first has the lock, and all have read what is answered.
    processes.wait()
    # 3. Find out what is left to do. Failed samples are tried again.
    known = latest_lines(folder.predictions, settings["fingerprint"])
    answered = {key for key, reply in known.items() if reply["finish_reason"] != "error"}
    processes.wait()
    # Batches are shared out before answered ones are dropped: every process has the same samples in every run.
    mine = [index for batch in processes.shard(batches_by_length(samples, settings["batch_size"])) for index in batch]
    todo = [index for index in mine if samples.ids[index] not in answered]
    # 4. Answer. Each reply is written when it ends: an interruption loses only what is being answered.
    with JsonLinesFile(folder.predictions, processes.rank) as file:
        replies = answer_samples(task, model, (samples[index] for index in todo), settings["batch_size"])
        for sample, response in processes.progress(replies, task.name, "sample", total=len(todo)):
            file.append([record_reply(folder, settings["fingerprint"], sample, response)])
    # 5. Merge the parts after all have closed them. Nobody goes on to read the replies before that is done.
    processes.wait()
    if processes.is_first:
        merge_parts(folder.predictions)
    processes.wait()


def run_settings(task: Task, model: SpeechModel, samples: Samples) -> dict[str, Any]:
    """Describes a run by all that its replies depend on.

    Returns:
        Keys of `settings.json`; `fingerprint` is a hash of what must not change within a run.
    """
    description = model.description
    # `fingerprint` counts the language as part of the scoring, but recognisers under evaluation are set to it.
    identity = {"task": fingerprint(task, samples.content), "language": task.language, "model": description}
    return {
        "schema_version": SCHEMA_VERSION,
        "task": task_content(task),
        "model": description,
        "fingerprint": digest(identity),
        "versions": package_versions(),
        "samples": list(samples.ids),
        "n_expected": samples.total,
        "limited": len(samples) < samples.total,
    }


def batches_by_length(samples: Samples, batch_size: int) -> list[list[int]]:
    """Groups samples of similar length, to save padding. The longest come first: too little memory shows at once.

    Returns:
        Indices of the samples of each batch.
    """
    # The sort is stable: samples of equal length stay in the order of the data, on every machine.
    order = sorted(range(len(samples)), key=lambda index: -samples.seconds[index])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def answer_samples(
    task: Task, model: SpeechModel, samples: Iterable[tuple[Sample, str | None]], batch_size: int
) -> Iterator[tuple[Sample, Response]]:
    """Has a model answer samples. The model does not get those whose recordings cannot be read: they fail.

    Args:
        samples: Samples, and why their recordings cannot be read, if so; the longest first.
        batch_size: Samples that the model gets together.

    Yields:
        Each sample with its response, in any order.
    """
    unreadable: list[tuple[Sample, Response]] = []
    # Samples are read when the model takes them, and forgotten when they are answered.
    taken: dict[int, Sample] = {}

    def readable() -> Iterator[tuple[int, Sample]]:
        for number, (sample, error) in enumerate(samples):
            if error is None:
                taken[number] = sample
                yield number, sample
            else:
                unreadable.append((sample, Response("", finish_reason="error", error=error)))

    respond_each = getattr(model, "respond_each", None) or partial(_respond_in_batches, model)
    for number, response in respond_each(readable(), task, batch_size):
        yield taken.pop(number), response
        yield from unreadable
        unreadable.clear()
    yield from unreadable


def _respond_in_batches(
    model: SpeechModel, samples: Iterable[tuple[int, Sample]], task: Task, batch_size: int
) -> Iterator[tuple[int, Response]]:
    """Answers samples batch by batch, for models that can take no sample while others run."""
    source = iter(samples)
    while batch := list(islice(source, batch_size)):
        numbers, questions = zip(*batch)
        yield from zip(numbers, model.respond(questions, task), strict=True)


def record_reply(folder: TaskFolder, fingerprint: str, sample: Sample, response: Response) -> JsonLine:
    """Writes the speech of a reply, and makes its line of `predictions.jsonl`; one that cannot be recorded failed."""
    try:
        check_response(response)
    # Whatever a model returns for one sample must not lose the replies beside it.
    except (ValueError, TypeError) as error:
        response = Response("", finish_reason="error", seconds=response.seconds, error=str(error))
    # The recording is written before its line, so that no line names a missing file.
    has_audio = response.audio is not None and len(response.audio) > 0
    path, checksum = write_speech(folder, fingerprint, sample.id, response) if has_audio else (None, None)
    return {
        "id": sample.id,
        "fingerprint": fingerprint,
        "question": sample.question,
        "references": list(sample.references),
        "question_seconds": _seconds(sample.audio, sample.sampling_rate),
        "text": response.text,
        "audio": path,
        "audio_sha256": checksum,
        "sampling_rate": response.sampling_rate,
        "audio_seconds": _seconds(response.audio, response.sampling_rate),
        "codes": list(response.codes),
        "finish_reason": response.finish_reason,
        "tokens": response.tokens,
        "forward_passes": response.forward_passes,
        "seconds": round(response.seconds, 4),
        "error": without_secrets(response.error),
    }


def check_response(response: Response) -> None:
    """Checks that a reply can be recorded."""
    if not isinstance(response.text, str):
        raise TypeError(f"The reply's text is no text, but {type(response.text).__name__}.")
    if encodable(response.text) != response.text:
        raise ValueError("The reply's text holds broken Unicode, half of a surrogate pair.")
    if response.audio is not None:
        waveform = np.asarray(response.audio, dtype=np.float64)
        if waveform.ndim != 1 or not np.isfinite(waveform).all():
            raise ValueError(
                f"The reply's speech is no waveform of finite samples, but of shape {waveform.shape}: nothing can be "
                "heard in it."
            )
        if not 1 <= response.sampling_rate <= MAX_FLAC_RATE:
            raise ValueError(f"The reply's speech has {response.sampling_rate} Hz, which FLAC cannot hold.")


def write_speech(folder: TaskFolder, fingerprint: str, sample: str, response: Response) -> tuple[str, str]:
    """Writes the speech of a reply as 16-bit FLAC.

    Args:
        fingerprint: Fingerprint of the run; the speech of each model has a folder of its own.
        sample: Id of the sample.
        response: A response with audio.

    Returns:
        Path relative to the folder, and a hash of the samples.
    """
    # Rounded here and not by the encoder: the hash is that of the samples that are read back.
    waveform = np.clip(np.asarray(response.audio, dtype=np.float64), -1.0, 1.0)
    samples = np.round(waveform * 32767).astype(np.int16)
    path = folder.path / "audio" / fingerprint / f"{file_name(sample)}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        soundfile.write(partial, samples, response.sampling_rate, format="FLAC", subtype="PCM_16")
    # Of the samples and not of the file, whose bytes may depend on the version of the encoder.
    checksum = hashlib.sha256(f"{response.sampling_rate} ".encode() + samples.tobytes()).hexdigest()
    return path.relative_to(folder.path).as_posix(), checksum


def file_name(sample: str) -> str:
    """Makes a file name from the id of a sample: the id itself if possible, else its safe characters and a hash."""
    # A changed id gets a hash, because two ids may have the same safe characters.
    name = re.sub(r"[^\w.-]+", "_", sample, flags=re.ASCII).lstrip(".")[:80]
    return name if name == sample else f"{name}-{digest(sample)[:8]}"


def _seconds(waveform: np.ndarray | None, sampling_rate: int) -> float:
    return 0.0 if waveform is None else round(len(waveform) / sampling_rate, 4)
