"""What the measurement asks the checkpoint: cases drawn from the held-out splits of the recipe's data."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Case:
    """One thing to ask: an item, in one recording where the question is spoken.

    Args:
        id: Id of the item, and of the recording where there is one.
        split: Split that it is scored under.
        family: Family of the item.
        voice: Who asks; `None` in writing.
        question: Text of the question; `None` for a sentence to read aloud.
        answer: The expected reply.
        audio: Recording of the question.
        seconds: Duration of that recording; 0 in writing.
        recording: The reply voice saying the answer.
    """

    id: str
    split: str
    family: str
    voice: str | None
    question: str | None
    answer: str
    audio: Path | None
    seconds: float
    recording: Path | None

    @property
    def length(self) -> float:
        """By what cases are sorted into batches: seconds of a spoken question, characters of a written one."""
        return self.seconds if self.audio is not None else len(self.question or self.answer)

    def content(self, task: str) -> list[dict[str, Any]]:
        """The user's turn under a task, as `apply_chat_template` takes it."""
        if task in ("asr", "chat") and self.audio is not None:
            return [{"type": "audio", "path": str(self.audio)}]
        return [{"type": "text", "text": self.answer if task == "tts" else self.question}]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Reads a JSONL file.

    Args:
        path: The file.

    Returns:
        Its rows.

    Raises:
        FileNotFoundError: The file is not there.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: make the data first (python -m recipes.tiny --stages data).")
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def draw_cases(data: Path, split: str, size: int, seed: int) -> list[Case]:
    """Draws the cases of a split, the same ones for the same seed.

    Args:
        data: Folder with `items.jsonl` and `utterances.jsonl`.
        split: A split of `items.jsonl`, or `"written"`: questions of the split "wording", asked in writing.
        size: How many cases, at most. Every item is drawn once before any item is drawn in a second recording.
        seed: Seed of the draw.

    Returns:
        The cases, in the order of the draw.

    Raises:
        FileNotFoundError: The data is not there.
        ValueError: The split holds no item, so that nothing can be measured.
    """
    utterances = {row["id"]: row for row in read_rows(data / "utterances.jsonl")}
    source = "wording" if split == "written" else split
    items = [row for row in read_rows(data / "items.jsonl") if row["split"] == source]
    if not items:
        raise ValueError(f"{data / 'items.jsonl'} holds no item of the split {source!r}: make the data anew.")
    draw = random.Random(seed)
    items.sort(key=lambda row: row["id"])
    draw.shuffle(items)
    rounds: list[list[Case]] = []
    for item in items:
        recordings = [] if split == "written" else sorted(item.get("question_audio") or [])
        draw.shuffle(recordings)
        for number, recording in enumerate(recordings or [None]):
            while len(rounds) <= number:
                rounds.append([])
            rounds[number].append(_case(data, item, split, recording, utterances))
    return [case for cases in rounds for case in cases][:size]


def _case(data: Path, item: dict[str, Any], split: str, recording: str | None, utterances: dict[str, Any]) -> Case:
    spoken = utterances[recording] if recording else None
    answer_audio = item.get("answer_audio")
    return Case(
        id=f"{item['id']}/{recording}" if recording else item["id"],
        split=split,
        family=item["family"],
        voice=spoken["voice"] if spoken else None,
        question=item["question"],
        answer=item["answer"],
        audio=data / spoken["audio"] if spoken else None,
        seconds=spoken["seconds"] if spoken else 0.0,
        recording=data / utterances[answer_audio]["audio"] if answer_audio else None,
    )
