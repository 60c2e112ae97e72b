"""The same data through both doors: `load_source` for training, `load_samples` for evaluation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ttt_hf.data import load_source
from ttt_hf.evaluation.task_samples import load_samples
from ttt_hf.evaluation.tasks import load_task


Pair = tuple[str, str]


def train_rows(path: Path, task: str | None = "asr", **settings: Any) -> list[Pair]:
    """(name of the recording, text) of all rows that training reads."""
    pairs = []
    for row in load_source(path, task=task, **settings):
        items = [item for message in row["messages"] or [] for item in message["content"]] + (row["content"] or [])
        names = [Path(item["path"]).name for item in items if item.get("path")]
        texts = [item["text"] for item in items if item["text"] is not None]
        pairs.append((names[0] if names else "", texts[0] if texts else ""))
    return pairs


def evaluation_rows(path: Path, task: str | None = "asr", **settings: Any) -> list[Pair]:
    """The same of all samples that evaluation reads; without a task the recordings have no texts."""
    columns = {} if task else {"columns.references": "audio"}
    samples = load_samples(load_task("local", path=str(path), **columns, **settings))
    names = [Path(str(samples._recordings[index][0])).name for index in range(len(samples))]
    return [(name, sample.references[0] if task else "") for name, (sample, _) in zip(names, samples, strict=True)]


Reader = Callable[..., list[Pair]]
READERS: list[Reader] = [train_rows, evaluation_rows]
