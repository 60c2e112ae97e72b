"""Packing: several samples in one row, so that little computation is spent on padding."""

from __future__ import annotations

from bisect import bisect_left, insort
from itertools import accumulate
from typing import Any

from ..modeling.configuration_ttt import TtTConfig
from .collator import diffused_runs
from .variants import move_variants


def training_length(labels: list[int], config: TtTConfig, noise_copies: int, objective: str = "two_stream") -> int:
    """Maximal number of positions that a sample takes in training, including the noised copies of its speech.

    Batches should hold samples that are similar in this length, not in their number of tokens.

    Args:
        noise_copies: Copies of each span that the collator makes.
        objective: The collator's objective; `"paper"` makes no copies.
    """
    if objective == "paper":
        return len(labels)
    size = config.audio_block_length
    # A copy may be filled with end markers up to a full block, so every block counts in full.
    blocks = sum(-(-(end - start) // size) for start, end in diffused_runs(labels, config, objective))
    return len(labels) + noise_copies * blocks * size


def pack_samples(samples: dict[str, list[Any]], row_length: int) -> dict[str, list[Any]]:
    """Packs samples into rows by best-fit decreasing: the longest first, each into the fullest row that it fits into.

    Use it as `dataset.map(pack_samples, batched=True, batch_size=1000, fn_kwargs={"row_length": 4096},
    remove_columns=dataset.column_names)`, also on streamed data sets.

    Args:
        samples: Columns `input_ids`, `labels` and `length` (positions that the sample takes in training, see
            `training_length`), and perhaps `variants` of their recordings.
        row_length: Positions of a row. A longer sample gets a row of its own.

    Returns:
        Columns `input_ids`, `labels`, `length` (positions used of the row), `sample_lengths` (tokens of each sample in
        the row), and `variants` where there are any.
    """
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (free positions, row), sorted
    for index in sorted(range(len(samples["length"])), key=lambda index: -samples["length"][index]):
        length = samples["length"][index]
        # Row numbers are not negative, so (length, 0) sorts before all rows with exactly that much space.
        fullest = bisect_left(free, (length, 0))
        # A longer sample leaves negative space in its new row, into which nothing fits any more.
        left, row = free.pop(fullest) if fullest < len(free) else (row_length, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(index)
        insort(free, (left - length, row))
    # `length` counts positions in training, `sample_lengths` tokens: copies are made after packing.
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
                # Positions of variants shift by the tokens of the samples before.
                for index, by in zip(row, accumulate(lengths, initial=0))
                for entry in move_variants(samples["variants"][index], by)
            ]
            for row, lengths in zip(rows, packed["sample_lengths"])
        ]
    return packed
