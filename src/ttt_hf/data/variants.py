"""Variants of recordings in samples: where they belong, and one of them in the recording's place (pure functions).

A sample's `variants` name each recording that is only listened to and has variants: `start` and `end` of its codes in
`input_ids`, and under `input_ids` the ids of each variant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .samples import IGNORE


Variants = dict[str, Any]


def draw_variants(row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Takes for each recording one of its encodings, the plain one or a variant, all with the same probability.

    Args:
        row: A sample with `input_ids`, `labels` and perhaps `variants`, or a row of several samples, whose lengths
            stand under `sample_lengths`.
        rng: Source of the draw.

    Returns:
        The row with the recordings drawn; what is not listened to stays as it is.
    """
    drawn = {key: value for key, value in row.items() if key != "variants"}
    ids, labels = list(row["input_ids"]), list(row["labels"])
    lengths = list(row.get("sample_lengths") or [len(ids)])
    ends = np.cumsum(lengths)
    # From the last to the first, so that the places of those before stay where they are.
    for recording in reversed(row.get("variants") or []):
        choice = int(rng.integers(len(recording["input_ids"]) + 1))
        if choice == 0:
            continue
        start, end, variant = recording["start"], recording["end"], recording["input_ids"][choice - 1]
        ids[start:end] = variant
        labels[start:end] = [IGNORE] * len(variant)
        lengths[int(np.searchsorted(ends, start, side="right"))] += len(variant) - (end - start)
    drawn |= {"input_ids": ids, "labels": labels}
    return drawn | ({"sample_lengths": lengths} if row.get("sample_lengths") else {})


def growth(variants: Sequence[Variants]) -> int:
    """By how many tokens a sample grows at most when variants take the places of its recordings.

    Args:
        variants: Those of the sample.

    Returns:
        The number of tokens, 0 where all variants are shorter.
    """
    return sum(max(0, *(len(ids) - _length(entry) for ids in entry["input_ids"])) for entry in variants)


def fit_variants(variants: Sequence[Variants], end: int, room: int) -> list[Variants]:
    """The variants that are left of a sample that was cut.

    Args:
        variants: Those of the whole sample.
        end: Where it was cut.
        room: By how many tokens it may grow; each recording gets the same part of them.

    Returns:
        Recordings before the cut, with the variants that have room.
    """
    kept = [entry for entry in variants if entry["end"] <= end]
    share = room // max(1, len(kept))
    fitting = [
        {**entry, "input_ids": [ids for ids in entry["input_ids"] if len(ids) <= _length(entry) + share]}
        for entry in kept
    ]
    return [entry for entry in fitting if entry["input_ids"]]


def move_variants(variants: Sequence[Variants], by: int) -> list[Variants]:
    """The variants of a sample that stands behind others in a row.

    Args:
        variants: Those of the sample.
        by: Tokens before it.

    Returns:
        The same at their places in the row.
    """
    return [{**entry, "start": entry["start"] + by, "end": entry["end"] + by} for entry in variants]


def _length(recording: Variants) -> int:
    return recording["end"] - recording["start"]
