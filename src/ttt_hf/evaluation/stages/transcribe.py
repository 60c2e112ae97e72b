"""The transcription stage: the speech of the replies becomes text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import soundfile

from ..folder import TaskFolder, transcript_fingerprint
from ..processes import Processes
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
