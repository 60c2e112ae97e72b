"""Packing rows."""

import numpy as np
import pytest
from datasets import Dataset

from ttt_hf.data import pack_samples, training_length


def make_samples(count, longest=100):
    lengths = np.random.default_rng(0).integers(5, longest, size=count).tolist()
    return {
        "input_ids": [[index] * length for index, length in enumerate(lengths)],
        "labels": [[-100] * 2 + [index] * (length - 2) for index, length in enumerate(lengths)],
        "length": lengths,
    }


def test_every_sample_is_in_one_row_whole():
    samples = make_samples(200)
    rows = pack_samples(samples, row_length=256)
    found = []
    for ids, labels, lengths in zip(rows["input_ids"], rows["labels"], rows["sample_lengths"]):
        assert len(ids) == len(labels) == sum(lengths)
        for end, length in zip(np.cumsum(lengths), lengths):
            index = ids[end - 1]
            assert ids[end - length : end] == samples["input_ids"][index]
            assert labels[end - length : end] == samples["labels"][index]
            found.append(index)
    assert sorted(found) == list(range(200))


def test_rows_are_nearly_full():
    rows = pack_samples(make_samples(200), row_length=256)
    assert max(rows["length"]) <= 256
    assert sum(rows["length"]) / (256 * len(rows["length"])) > 0.95


def test_room_is_counted_in_positions_of_training_not_in_tokens():
    samples = {"input_ids": [[1] * 5] * 4, "labels": [[1] * 5] * 4, "length": [50] * 4}
    assert pack_samples(samples, row_length=100)["sample_lengths"] == [[5, 5], [5, 5]]


def test_a_sample_longer_than_a_row_gets_its_own():
    rows = pack_samples({"input_ids": [[1] * 9, [2]], "labels": [[1] * 9, [2]], "length": [9, 1]}, row_length=4)
    assert sorted(rows["sample_lengths"]) == [[1], [9]]


@pytest.mark.parametrize("streaming", [False, True])
def test_it_maps_over_data_sets(streaming):
    dataset = Dataset.from_dict(make_samples(50))
    source = dataset.to_iterable_dataset() if streaming else dataset
    packed = source.map(
        pack_samples, batched=True, batch_size=20, fn_kwargs={"row_length": 256}, remove_columns=dataset.column_names
    )
    assert sum(sum(row["sample_lengths"]) for row in packed) == sum(dataset["length"])


def test_training_length_counts_the_noised_copies(config):
    labels = [-100] * 3 + [20, 501, *range(530, 541), 633, 22, 502, *range(550, 553), 634, 500]
    assert training_length(labels, config, 0) == len(labels)
    # 12 audio positions are two blocks of 8, 4 are one.
    assert training_length(labels, config, 2) == len(labels) + 2 * 3 * 8
