"""The transcription stage: the speech of the replies becomes text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...processes import Processes
from ...processing.audio_files import decode
from ...processing.fetching import TABLE, open_source
from ..folder import TaskFolder, transcript_fingerprint
from ..store import JsonLine, JsonLinesFile, merge_parts


if TYPE_CHECKING:
    from ..recognizers.base import Transcriber

# Replies that a transcriber gets together; at most so many are lost when it is killed.
CHUNK_SIZE = 8


def transcribe_task(folder: TaskFolder, transcriber: Transcriber, processes: Processes | None = None) -> None:
    """Transcribes the spoken replies of a task that have no transcript yet.

    Args:
        transcriber: Its language is the task's.
        processes: This process among those of the run; alone by default.

    Raises:
        FileNotFoundError: If the audio of a reply is missing.
        ValueError: If it cannot be read.
    """
    processes = processes or Processes()
    with processes.lock(folder.path):
        _transcribe_missing(folder, transcriber, processes)


def _transcribe_missing(folder: TaskFolder, transcriber: Transcriber, processes: Processes) -> None:
    spoken = [reply for reply in folder.replies() if reply["audio"] is not None]
    # Scoring reads the transcripts of this transcriber from now on; those of others stay in the file.
    if processes.is_first:
        folder.update_settings(transcriber=transcriber.description)
    known = folder.transcripts_of(spoken, transcriber.description)
    # No process may write before all have read what is known.
    processes.wait()
    # Only what is left is shared out: a transcript does not depend on the others of its chunk.
    todo = processes.shard([reply for reply in spoken if reply["id"] not in known])
    chunks = [todo[start : start + CHUNK_SIZE] for start in range(0, len(todo), CHUNK_SIZE)]
    with JsonLinesFile(folder.transcripts, processes.rank) as file:
        for chunk in processes.progress(chunks, f"{folder.path.name}, transcripts", "chunk"):
            # Audio is read chunk by chunk, so that never more than one chunk is in memory.
            texts = transcriber.transcribe_all([read_speech(folder, reply) for reply in chunk])
            file.append(
                {
                    "id": reply["id"],
                    "fingerprint": transcript_fingerprint(reply, transcriber.description),
                    "text": text,
                }
                for reply, text in zip(chunk, texts, strict=True)
            )
    # All parts are closed before they are merged, and merged before anyone scores them.
    processes.wait()
    if processes.is_first:
        merge_parts(folder.transcripts)
    processes.wait()


def read_speech(folder: TaskFolder, reply: JsonLine) -> tuple[np.ndarray, int]:
    """Reads the speech of a reply.

    Args:
        reply: Line of `predictions.jsonl` with audio.

    Returns:
        Float32 samples of shape `(samples,)`, and their rate in Hz.
    """
    path = folder.path / reply["audio"]
    advice = f"restore it, or delete the line of {reply['id']} in {folder.predictions} and run `ttt-hf eval run` again"
    # Records are shared: a path out of the folder was written by somebody else.
    if not path.resolve().is_relative_to(folder.path.resolve()):
        raise ValueError(f"{path}, the speech of a reply, is not in {folder.path}: {advice}.")
    if not path.is_file():
        raise FileNotFoundError(f"{path}, the speech of a reply, is missing: {advice}.")
    try:
        with open_source(path, TABLE) as file:
            # Not checked like a question: silence is a reply, too.
            return decode(file, path.name)
    except ValueError as error:
        reason = str(error).rstrip(".")
        raise ValueError(f"{path}, the speech of a reply, is damaged ({reason}): {advice}.") from error
