"""The clips that the tiny codec is trained on: which ones, and their samples."""

from __future__ import annotations

import json
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Utterance:
    """One clip of the training set: its file, what is said, who says it, and how long it is in seconds."""

    path: Path
    text: str
    voice: str
    seconds: float


def training_utterances(data: Path) -> list[Utterance]:
    """The clips that training may hear: those that some item of the split `train` uses.

    Args:
        data: folder with `utterances.jsonl` and `items.jsonl`.

    Returns:
        The utterances in the order of the file.
    """
    used: set[str] = set()
    for item in _rows(data / "items.jsonl"):
        if item["split"] == "train":
            used.update(item["question_audio"])
            used.add(item["answer_audio"])
    return [
        Utterance(data / row["audio"], row["text"], row["voice"], row["seconds"])
        for row in _rows(data / "utterances.jsonl")
        if row["id"] in used
    ]


def _rows(path: Path) -> list[dict[str, Any]]:
    # The last line may be half written while the synthesis is still running.
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines if line]


def read_wave(path: Path) -> np.ndarray:
    """Reads a mono 16-bit WAV file as float32 (samples,)."""
    with wave.open(str(path), "rb") as file:
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float32) / 32768.0
