"""The stage transcribe: the speech of the replies is written down."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import soundfile

from ..folder import TaskFolder, transcript_fingerprint
from ..processes import Processes
from ..store import Row, RowFile, merge_parts
from .answer import progress


if TYPE_CHECKING:
    from ..recognizers.base import Transcriber

# Replies that are read and handed to a transcriber together; what is lost at most when it is killed.
CHUNK = 8


def transcribe_task(folder: TaskFolder, transcriber: Transcriber, processes: Processes | None = None) -> None:
    """Writes down the spoken replies of a task that have not been yet.

    Args:
        folder: Where the replies are.
        transcriber: Who listens; its language is the task's.
        processes: This process among those of the run; alone by default.

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
    todo = processes.shard([row for row in replies if row["id"] not in known])
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


def read_audio(folder: TaskFolder, reply: Row) -> tuple[np.ndarray, int]:
    """Reads the speech of a reply.

    Args:
        folder: Where `audio/` is.
        reply: Row of `predictions.jsonl` with audio.

    Returns:
        Float32 samples of shape `(samples,)`, and their rate in Hz.

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
