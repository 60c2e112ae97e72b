"""Batches of samples of similar length, in random order; every draw of every epoch has its own number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler


class NumberedDataset(Dataset):
    """Passes the number of a draw to the collator, which seeds the noise with it.

    Draw `epoch * len(dataset) + index` is the sample `index`, as [`LengthGroupedSampler`] counts them: the noise is
    new in each epoch, and the same in every process and after an interruption.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    @property
    def lengths(self) -> Sequence[int]:
        """Length of each sample (column `length`)."""
        return self.dataset["length"]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: int) -> dict[str, Any]:
        return {**self.dataset[draw % len(self.dataset)], "draw": draw}


class LengthGroupedSampler(Sampler[int]):
    """Orders samples so that every batch holds similar lengths, which leaves little padding, and shuffles the batches.

    The length grouping of transformers goes through the batches of a group from the longest to the shortest, which
    turns a mixture of tasks into a cycle of tasks; here the order of batches is random.

    It yields numbers of draws, `epoch * len(lengths) + index`, for a [`NumberedDataset`].

    Args:
        lengths: Length of each sample.
        batch_size: Samples per batch; the dataloader must use the same.
        seed: Seed of the order.
        group_batches: Batches whose samples are sorted together.
        processes: Processes among which the batches are distributed in turn. In each step they get similar lengths, so
            that none waits for another.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int, group_batches: int = 16, processes: int = 1
    ) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.group_batches = group_batches
        self.processes = processes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Selects the order of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        # 1. Shuffle. Every process computes the same order, without communication.
        rng = np.random.default_rng([self.seed, self.epoch])
        shuffled = rng.permutation(len(self.lengths))
        # 2. Sort within groups only: over all samples, batches would be nearly the same in every epoch.
        group = self.batch_size * self.group_batches
        batches = []
        for start in range(0, len(shuffled), group):
            members = shuffled[start : start + group]
            members = members[np.argsort(self.lengths[members], kind="stable")]
            batches += [members[first : first + self.batch_size] for first in range(0, len(members), self.batch_size)]
        # 3. Shuffle batches, by turns of the processes: those of one turn stay together.
        # An incomplete batch stays last, or it would shift the boundaries of all batches after it.
        *full, last = batches
        first_draw = self.epoch * len(self.lengths)
        together = [full[first : first + self.processes] for first in range(0, len(full), self.processes)]
        # An incomplete turn of the processes stays last for the same reason.
        uneven = [together.pop()] if together and len(together[-1]) < self.processes else []
        for turn in [*(together[index] for index in rng.permutation(len(together))), *uneven]:
            for batch in turn:
                yield from (first_draw + batch).tolist()
        yield from (first_draw + last).tolist()
