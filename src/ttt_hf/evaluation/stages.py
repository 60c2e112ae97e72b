"""The stages between replies and scores: spoken replies are written down, and a judge looks at them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from .concepts import Judgement
from .folder import TaskFolder, judgement_fingerprint, transcript_fingerprint
from .processes import Processes
from .run import progress
from .store import Row, RowFile, merge_parts


if TYPE_CHECKING:
    from .judge import Judge
    from .transcribe import SpeechRecognizer

# Replies that are read and handed to a transcriber together; what is lost at most when it is killed.
CHUNK = 8


def transcribe_task(folder: TaskFolder, transcriber: SpeechRecognizer, processes: Processes | None = None) -> None:
    """
    Writes down the spoken replies of a task that have not been yet.

    Args:
        folder (`TaskFolder`): Where the replies are.
        transcriber (`SpeechRecognizer`): Who listens; its language is the task's.
        processes (`Processes`, *optional*): This process among those of the run; alone by default.

    Raises:
        FileNotFoundError: If the speech of a reply is missing.
        ValueError: If it cannot be read.
    """
    processes = processes or Processes()
    replies = [row for row in folder.replies() if row["audio"] is not None]
    if processes.is_first:
        folder.update_settings(transcriber=transcriber.description)
    known = folder.transcripts_of(replies, transcriber.description)
    processes.wait()
    todo = processes.share([row for row in replies if row["id"] not in known])
    chunks = [todo[start : start + CHUNK] for start in range(0, len(todo), CHUNK)]
    with RowFile(folder.transcripts, processes.rank) as file:
        for chunk in progress(chunks, f"{folder.path.name}, transcripts", "chunk", processes):
            texts = transcriber.transcribe_all([read_audio(folder, row) for row in chunk])
            file.append(
                {
                    "id": row["id"],
                    "fingerprint": transcript_fingerprint(row, transcriber.description),
                    "text": text,
                }
                for row, text in zip(chunk, texts, strict=True)
            )
    processes.wait()
    if processes.is_first:
        merge_parts(folder.transcripts)
    processes.wait()


def judge_task(folder: TaskFolder, judge: Judge, price: tuple[float, float] | None = None) -> None:
    """
    Has the replies of a task judged that have not been yet. What the judge could not answer is asked once more.

    Args:
        folder (`TaskFolder`): Where the replies, and for spoken ones their transcripts, are.
        judge (`Judge`): Who judges.
        price (`tuple[float, float]`, *optional*): What a million tokens cost that it reads, and that it writes.

    Raises:
        ValueError: If spoken replies have not been transcribed.
        OSError: If the judge cannot be reached. What it has answered is kept.
    """
    records = [dataclasses.replace(record, judgements=()) for record in folder.records()]
    folder.update_settings(judge=judge.description, judge_price=price)
    known = {
        key for key, answers in folder.judgements_of(records, judge.description).items() if not _has_error(answers)
    }
    todo = {record.id: record for record in records if record.id not in known}
    with RowFile(folder.judgements) as file:
        answers = judge.ask(list(todo.values()))
        for sample, judgements in progress(
            answers, f"{folder.path.name}, judge", "reply", Processes(), total=len(todo)
        ):
            row = {
                "id": sample,
                "fingerprint": judgement_fingerprint(todo[sample], judge.description),
                "judgements": [dataclasses.asdict(judgement) for judgement in judgements],
            }
            file.append([row])


def read_audio(folder: TaskFolder, reply: Row) -> tuple[np.ndarray, int]:
    """
    Reads the speech of a reply.

    Args:
        folder (`TaskFolder`): Where `audio/` is.
        reply (`dict`): Row of `predictions.jsonl` with audio.

    Returns:
        `tuple[np.ndarray, int]`: Float32 samples of shape `(samples,)`, and their rate in Hz.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is damaged.
    """
    path = folder.path / reply["audio"]
    advice = f"restore it, or delete the line of {reply['id']} in {folder.predictions} and run `ttt-hf eval run` again"
    if not path.is_file():
        raise FileNotFoundError(f"{path}, the speech of a reply, is missing: {advice}.")
    try:
        return soundfile.read(path, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path}, the speech of a reply, is damaged ({error.error_string}): {advice}.") from error


def _has_error(judgements: Sequence[Judgement]) -> bool:
    return any(judgement.error is not None for judgement in judgements)
