"""The held-out splits of the recipe's data, as tables and task files that `ttt-hf eval` reads.

    ttt-hf eval run build/tiny/data/eval/wording_asr.yaml --model ttt-tiny --out scores

The tables hold every held-out item in a shuffled order, so that the first rows of a split are a random sample of it:
the evaluation set inside the package (`evaluation_set.py`) consists of them.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from .tables import Row, read_rows, write_rows


TASK_FILES = Path(__file__).with_name("tasks")
SEED = 0
SPOKEN_SPLITS = ("wording", "sums", "voice")
# Questions of the split `wording` that are asked in writing, too.
NUM_WRITTEN = 100
# Recordings of the reply voice per reference score.
NUM_REFERENCES = 60


def write_tables(data: Path) -> Path:
    """Writes the tables and task files of the held-out splits.

    Args:
        data: Folder with `items.jsonl`, `utterances.jsonl` and `audio/`.

    Returns:
        The folder `data/eval`; its tables name recordings by absolute paths.

    Raises:
        FileNotFoundError: The data have not been made yet.
        ValueError: The data lack a split.
    """
    questions = {split: spoken_questions(data, split) for split in SPOKEN_SPLITS}
    sentences = draw_items(data, "sentences")
    tables = {
        **questions,
        "written": [_without_audio(row) for row in questions["wording"][:NUM_WRITTEN]],
        "sentences": [sentence_row(item) for item in sentences],
        "reference_answers": _reference_rows(data, draw_items(data, "wording")),
        "reference_sentences": _reference_rows(data, sentences),
    }
    folder = data / "eval"
    folder.mkdir(exist_ok=True)
    for name, rows in tables.items():
        # Absolute, since a table names no files beside its own folder in another way.
        located = [{**row, "audio": str(data.absolute() / row["audio"])} if "audio" in row else row for row in rows]
        write_rows(folder / f"{name}.jsonl", located)
    # Beside the tables, which the task files name with relative paths.
    for path in TASK_FILES.glob("*.yaml"):
        shutil.copy(path, folder)
    return folder


def draw_items(data: Path, split: str) -> list[Row]:
    """Shuffles the items of a split.

    Args:
        data: Folder with `items.jsonl`.
        split: A split of its items.

    Returns:
        Rows of `items.jsonl`, in the same order wherever the file was made.

    Raises:
        FileNotFoundError: The data have not been made yet.
        ValueError: No item is in this split.
    """
    path = data / "items.jsonl"
    # Sorted first, so that the shuffled order depends on the ids alone, not on the order of the file.
    items = sorted((row for row in read_rows(path) if row["split"] == split), key=lambda row: row["id"])
    if not items:
        raise ValueError(f"{path} holds no item of the split {split!r}: make the data anew.")
    random.Random(SEED).shuffle(items)
    return items


def spoken_questions(data: Path, split: str) -> list[Row]:
    """The spoken questions of a split.

    Args:
        data: Folder with `items.jsonl` and `utterances.jsonl`.
        split: One of `SPOKEN_SPLITS`.

    Returns:
        Rows with `id`, `split`, `family`, `voice`, `question`, `answer`, `audio` (relative to `data`) and `seconds`,
        in the order of `draw_items`.

    Raises:
        FileNotFoundError: The data have not been made yet.
        ValueError: No item is in this split.
    """
    recordings = _recordings(data)
    rows = []
    for item in draw_items(data, split):
        recording = _recording(recordings, *item["question_audio"])
        rows.append(
            {
                # The item and who asks; the number of the recording would tell nothing.
                "id": f"{item['id']}/{recording['voice']}".replace("/", "-"),
                "split": split,
                "family": item["family"],
                "voice": recording["voice"],
                "question": item["question"],
                "answer": item["answer"],
                "audio": recording["audio"],
                "seconds": recording["seconds"],
            }
        )
    return rows


def sentence_row(item: Row) -> Row:
    """The row of a sentence to read aloud.

    Args:
        item: Row of `items.jsonl`.

    Returns:
        `id` and `text`.
    """
    return {"id": item["id"].replace("/", "-"), "text": item["answer"]}


def _reference_rows(data: Path, items: Iterable[Row]) -> list[Row]:
    """The first recordings of these items' answers, each once: several questions have the same answer."""
    recordings = _recordings(data)
    names = dict.fromkeys(item["answer_audio"] for item in items)
    return [
        {key: _recording(recordings, name)[key] for key in ("id", "text", "audio", "seconds")}
        for name in list(names)[:NUM_REFERENCES]
    ]


def _recordings(data: Path) -> dict[str, Row]:
    return {row["id"]: row for row in read_rows(data / "utterances.jsonl")}


def _recording(recordings: Mapping[str, Row], name: str) -> Row:
    if name not in recordings:
        raise FileNotFoundError(
            f"The recording {name} has not been made yet: make the data first (python -m recipes.tiny.synthesize)."
        )
    return recordings[name]


def _without_audio(row: Row) -> Row:
    return {key: value for key, value in row.items() if key not in ("voice", "audio", "seconds")}
