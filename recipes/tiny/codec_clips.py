"""The clips that the tiny codec is trained on."""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .tables import read_rows


@dataclass(frozen=True)
class Utterance:
    """One clip of the training set; `seconds` is its duration."""

    path: Path
    text: str
    voice: str
    seconds: float


def training_utterances(data: Path) -> list[Utterance]:
    """Lists the clips that items of the split `train` use.

    Args:
        data: Folder with `utterances.jsonl` and `items.jsonl`.

    Returns:
        The clips in the order of `utterances.jsonl`.
    """
    # Held-out questions of known voices are in `utterances.jsonl`, too: the items tell them apart.
    used: set[str] = set()
    for item in read_rows(data / "items.jsonl"):
        if item["split"] == "train":
            used.update(item["question_audio"])
            # `None` for written items, which is no id of an utterance.
            used.add(item["answer_audio"])
    return [
        Utterance(data / row["audio"], row["text"], row["voice"], row["seconds"])
        for row in read_rows(data / "utterances.jsonl")
        if row["id"] in used
    ]


def read_wave(path: Path) -> np.ndarray:
    """Reads a mono 16-bit WAV file as float32 of shape `(samples,)`."""
    with wave.open(str(path), "rb") as file:
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float32) / 32768.0
