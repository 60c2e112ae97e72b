"""Variants of recordings in samples: where they belong, and replacing a recording by one of them (pure functions).

`variants` of a sample has an entry for each recording of the user that has variants: `start` and `end` of its codes in
the `input_ids` of the sample, and as `input_ids` the ids of each variant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .samples import IGNORE


Variants = dict[str, Any]


def draw_variants(row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Draws one encoding of each recording, the plain one or a variant, all with the same probability.

    Args:
        row: A sample with `input_ids`, `labels` and perhaps `variants`, or a row of several samples with their lengths
            in `sample_lengths`.
        rng: Source of the draw.

    Returns:
        The row with the encodings drawn, without `variants`.
    """
    drawn = {key: value for key, value in row.items() if key != "variants"}
    ids, labels = list(row["input_ids"]), list(row["labels"])
    lengths = list(row.get("sample_lengths") or [len(ids)])
    # Ends in the plain row, where the starts of recordings are given, too.
    ends = np.cumsum(lengths)
    # From the last to the first, so that the positions of those before stay valid.
    for recording in reversed(row.get("variants") or []):
        choice = int(rng.integers(len(recording["input_ids"]) + 1))
        if choice == 0:
            continue
        start, end, variant = recording["start"], recording["end"], recording["input_ids"][choice - 1]
        ids[start:end] = variant
        # Variants have other lengths; the user's audio has no labels in any of them.
        labels[start:end] = [IGNORE] * len(variant)
        # The packed sample that the recording belongs to grows or shrinks with it.
        lengths[int(np.searchsorted(ends, start, side="right"))] += len(variant) - (end - start)
    drawn |= {"input_ids": ids, "labels": labels}
    return drawn | ({"sample_lengths": lengths} if row.get("sample_lengths") else {})


def growth(variants: Sequence[Variants]) -> int:
    """Tokens by which a sample grows at most when its recordings are replaced by variants."""
    return sum(max(0, *(len(ids) - _length(entry) for ids in entry["input_ids"])) for entry in variants)


def fit_variants(variants: Sequence[Variants], end: int, spare: int) -> list[Variants]:
    """Selects the variants that fit into a sample that was cut.

    Args:
        variants: Those of the complete sample.
        end: Position of the cut.
        spare: Tokens by which the sample may grow; each recording gets the same part of them.

    Returns:
        Recordings before the cut, with the variants that fit.
    """
    kept = [entry for entry in variants if entry["end"] <= end]
    # Equal parts, since any combination of variants may be drawn in one epoch.
    share = spare // max(1, len(kept))
    fitting = [
        {**entry, "input_ids": [ids for ids in entry["input_ids"] if len(ids) <= _length(entry) + share]}
        for entry in kept
    ]
    return [entry for entry in fitting if entry["input_ids"]]


def move_variants(variants: Sequence[Variants], by: int) -> list[Variants]:
    """Shifts the positions of variants by the tokens that precede the sample in a row."""
    return [{**entry, "start": entry["start"] + by, "end": entry["end"] + by} for entry in variants]


def _length(recording: Variants) -> int:
    return recording["end"] - recording["start"]
