"""Data of every kind for the tests of the harness: recordings, tables, and tasks that read them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ttt_hf.evaluation.concepts import Task
from ttt_hf.evaluation.task_samples import Samples
from ttt_hf.evaluation.tasks import load_task


RATE = 8000


def tone_writer(folder: Path) -> Callable[..., Path]:
    """`make("clips/a.wav", seconds=0.5)` writes a tone into the folder; its length tells recordings apart."""

    def make(name: str, seconds: float = 0.5) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        time = np.arange(int(seconds * RATE)) / RATE
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * 200.0 * time), RATE, subtype="PCM_16")
        return path

    return make


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    """As the Hub has it: the recording's file in the cell."""
    from datasets import Audio, Dataset, Features, Value

    features = Features({name: Audio() if name == "audio" else Value("string") for name in rows[0]})
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows).cast_column("audio", Audio(decode=False)).cast(
        Features({name: Audio(decode=False) if name == "audio" else part for name, part in features.items()})
    ).to_parquet(path)
    return path


def local(path: Path, **overrides: Any) -> Task:
    return load_task("local", path=str(path), **overrides)


def summary(samples: Samples) -> list[tuple[str, int, tuple[str, ...], str | None]]:
    """Id, number of samples of audio, references, error."""
    return [
        (sample.id, 0 if sample.audio is None else len(sample.audio), sample.references, error)
        for sample, error in samples
    ]
