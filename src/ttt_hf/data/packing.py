"""Packing: several samples in one row, so that little is computed on padding."""

from __future__ import annotations

from bisect import bisect_left, insort
from itertools import accumulate
from typing import Any

from ..modeling.configuration_ttt import TtTConfig
from .collator import diffused_runs
from .variants import move_variants


def training_length(labels: list[int], config: TtTConfig, noise_copies: int, objective: str = "two_stream") -> int:
    """Positions that a sample takes in training, the noised copies of its speech included (at most): samples that are
    batched together should be alike in this, or much is computed on padding.

    Args:
        labels: Labels of the sample.
        config: Names the audio ids and the block length.
        noise_copies: Copies of each span that the collator makes.
        objective: The collator's objective; `"paper"` makes no copies.

    Returns:
        The length.
    """
    if objective == "paper":
        return len(labels)
    size = config.audio_block_length
    blocks = sum(-(-(end - start) // size) for start, end in diffused_runs(labels, config, objective))
    return len(labels) + noise_copies * blocks * size


def pack_samples(samples: dict[str, list[Any]], row_length: int) -> dict[str, list[Any]]:
    """Packs samples into as few rows as best-fit decreasing finds: the longest first, each into the fullest row that
    has room for it. Use it as `dataset.map(pack_samples, batched=True, batch_size=1000, fn_kwargs={"row_length":
    4096}, remove_columns=dataset.column_names)`; it serves data sets that are streamed as well.

    Args:
        samples: Columns `input_ids`, `labels` and `length` (positions that the sample takes in training, see
            `training_length`), and perhaps `variants` of their recordings.
        row_length: Positions of a row. A sample that is longer gets a row of its own.

    Returns:
        Columns `input_ids`, `labels`, `length` (positions taken in the row), `sample_lengths`, the numbers of tokens
        by which the collator tells the samples of a row apart, and `variants` where there are any.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (positions left, row), sorted
    for index in sorted(range(len(samples["length"])), key=lambda index: -samples["length"][index]):
        length = samples["length"][index]
        place = bisect_left(room, (length, 0))
        left, row = room.pop(place) if place < len(room) else (row_length, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(index)
        insort(room, (left - length, row))
    packed = {
        "input_ids": [[id_ for index in row for id_ in samples["input_ids"][index]] for row in rows],
        "labels": [[label for index in row for label in samples["labels"][index]] for row in rows],
        "length": [sum(samples["length"][index] for index in row) for row in rows],
        "sample_lengths": [[len(samples["input_ids"][index]) for index in row] for row in rows],
    }
    if "variants" in samples:
        packed["variants"] = [
            [
                entry
                for index, by in zip(row, accumulate(lengths, initial=0))
                for entry in move_variants(samples["variants"][index], by)
            ]
            for row, lengths in zip(rows, packed["sample_lengths"])
        ]
    return packed
