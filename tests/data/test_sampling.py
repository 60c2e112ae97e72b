"""Batches of similar length."""

import numpy as np

from ttt_hf.data import LengthGroupedSampler, NumberedDataset


LENGTHS = np.random.default_rng(0).integers(20, 200, size=1003).tolist()


def batches(sampler, size=8):
    order = list(sampler)
    return [order[start : start + size] for start in range(0, len(order), size)]


def test_every_sample_comes_once_an_epoch():
    assert sorted(LengthGroupedSampler(LENGTHS, 8, seed=0)) == list(range(1003))
    assert len(LengthGroupedSampler(LENGTHS, 8, seed=0)) == 1003


def test_batches_hold_similar_lengths():
    spread = [
        np.ptp([LENGTHS[index] for index in batch]) for batch in batches(LengthGroupedSampler(LENGTHS, 8, seed=0))
    ]
    assert np.mean(spread) < 20


def test_neighbouring_batches_are_shuffled():
    means = [
        np.mean([LENGTHS[index] for index in batch]) for batch in batches(LengthGroupedSampler(LENGTHS, 8, seed=0))
    ]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3


def test_order_depends_on_seed_and_epoch_alone():
    first, second = (LengthGroupedSampler(LENGTHS, 8, seed=1) for _ in range(2))
    assert list(first) == list(second)
    second.set_epoch(1)
    assert list(first) != list(second)
    second.set_epoch(0)
    assert list(first) == list(second)


def test_every_draw_of_every_epoch_has_its_own_number():
    samples = NumberedDataset([{"length": length} for length in LENGTHS])
    sampler = LengthGroupedSampler(LENGTHS, 8, seed=0)
    seen = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        drawn = [samples[draw] for draw in sampler]
        assert sorted(sample["length"] for sample in drawn) == sorted(LENGTHS)
        seen += [sample["draw"] for sample in drawn]
    assert sorted(seen) == list(range(2 * len(LENGTHS)))


def test_fewer_samples_than_a_batch():
    assert sorted(LengthGroupedSampler([3, 1, 2], 8, seed=0)) == [0, 1, 2]


def test_processes_that_work_at_the_same_time_get_similar_lengths():
    sampler = LengthGroupedSampler(LENGTHS, 8, seed=0, processes=2)
    assert sorted(sampler) == list(range(1003))
    means = [np.mean([LENGTHS[index] for index in batch]) for batch in batches(sampler)[:-1]]
    first, second = np.array(means[0:-1:2]), np.array(means[1::2])
    assert np.abs(first - second).mean() < 15
    assert abs(np.corrcoef(second[:-1], first[1:])[0, 1]) < 0.35
