"""A key/value cache with a length per row, so that rows of one batch may be anywhere: in text, at any step of a span.

    row 0  [##########=====..........]     #  committed: final keys and values
    row 1  [####==========...........]     =  open part: written by this forward, overwritten by the next
    row 2  [#############=...........]     .  free

A forward writes the keys of row i behind its committed length; which of them each query sees is the mask's business.
Committing is advancing the row's length. Nothing is cropped, shifted or padded, so a row's arithmetic does not depend
on its neighbours.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


# The keys handed to attention are cut to the longest row's length, rounded up: few different shapes, little waste.
KEY_LENGTH_MULTIPLE = 64


class SlotTable:
    """What all layers of a cache share: the rows' lengths, and where the coming forward reads and writes.

    Args:
        batch_size: number of rows.
        capacity: number of slots of a row.

    Attributes:
        lengths: committed length of every row.
        slots: slot of every input position, `torch.long` of shape `(batch, length)`; padding has slot `capacity`, one
            behind the last, which attention never gets to see.
        key_length: number of slots, from the first on, that attention gets.
    """

    def __init__(self, batch_size: int, capacity: int):
        self.capacity = capacity
        self.lengths = [0] * batch_size
        self.slots = torch.empty(batch_size, 0, dtype=torch.long)
        self.key_length = 0


class RaggedLayer(CacheLayerMixin):
    """Keys and values of one layer, of shape `(batch, heads, capacity + 1, head size)`.

    Args:
        table: where to read and write, shared with the other layers.
    """

    is_sliding = False

    def __init__(self, table: SlotTable):
        super().__init__()
        self.table = table

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocates the layer as soon as data type, device and head sizes are known."""
        batch_size, heads = key_states.shape[:2]
        length = self.table.capacity + 1
        # Zeros, not uninitialised memory: attention multiplies hidden values by 0, and 0 * NaN is NaN.
        self.keys = key_states.new_zeros(batch_size, heads, length, key_states.shape[-1])
        self.values = value_states.new_zeros(batch_size, heads, length, value_states.shape[-1])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the new keys and values into their slots.

        Args:
            key_states: shape `(batch, heads, length, head size)`.
            value_states: shape `(batch, heads, length, head size)`.

        Returns:
            The first `key_length` keys and values of every row.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        slots = self.table.slots.to(self.keys.device)
        rows = torch.arange(slots.shape[0], device=slots.device)[:, None]
        self.keys[rows, :, slots] = key_states.transpose(1, 2)
        self.values[rows, :, slots] = value_states.transpose(1, 2)
        key_length = self.table.key_length
        return self.keys[:, :, :key_length], self.values[:, :, :key_length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of keys that attention gets, and the index of the first one."""
        return self.table.key_length, 0

    def get_seq_length(self) -> int:
        """Committed length of the longest row."""
        return max(self.table.lengths)

    def get_max_length(self) -> int:
        """Number of slots of a row."""
        return self.table.capacity

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps the given rows only."""
        if self.is_initialized:
            self.keys = self.keys[indices.to(self.keys.device)]
            self.values = self.values[indices.to(self.values.device)]


class RaggedCache(Cache):
    """A preallocated cache whose rows have a length each; fits every backbone that takes a transformers `Cache`.

    Use: `place` before each forward, `commit` after it.

    Args:
        batch_size: number of rows.
        capacity: number of slots of a row, an upper limit of committed and open positions together.
    """

    def __init__(self, batch_size: int, capacity: int):
        self.table = SlotTable(batch_size, capacity)
        # The layers come into being at the first forward, as many as the backbone has.
        super().__init__(layer_class_to_replicate=partial(RaggedLayer, self.table))

    @property
    def lengths(self) -> list[int]:
        """Committed length of every row."""
        return self.table.lengths

    @property
    def capacity(self) -> int:
        """Number of slots of a row."""
        return self.table.capacity

    @property
    def key_length(self) -> int:
        """Number of slots of each row that attention gets at the coming forward."""
        return self.table.key_length

    def place(self, counts: Sequence[int], device: torch.device) -> torch.Tensor:
        """Reserves slots for the coming forward: behind each row's committed length.

        Args:
            counts: number of inputs of each row; rows with fewer than the largest are right-padded.
            device: where to put the result.

        Returns:
            Slot of every input position, `torch.long` of shape `(batch, max(counts))`: for tokens their index in the
            row, for padding the capacity.

        Raises:
            ValueError: a row does not fit.
        """
        capacity = self.table.capacity
        longest = max(length + count for length, count in zip(self.lengths, counts))
        if longest > capacity:
            raise ValueError(f"The cache has {capacity} slots a row, {longest} are needed.")
        index = torch.arange(max(counts), device=device)
        starts = torch.tensor(self.lengths, device=device)[:, None]
        is_token = index < torch.tensor(list(counts), device=device)[:, None]
        self.table.slots = torch.where(is_token, starts + index, capacity)
        self.table.key_length = min(-(-longest // KEY_LENGTH_MULTIPLE) * KEY_LENGTH_MULTIPLE, capacity)
        return self.table.slots

    def commit(self, lengths: Sequence[int]) -> None:
        """Declares the keys below the given lengths final.

        Args:
            lengths: the new committed length of every row.

        Raises:
            ValueError: a length is smaller than before.
        """
        if any(new < old for new, old in zip(lengths, self.lengths)):
            raise ValueError(f"Committed lengths cannot shrink: from {self.lengths} to {list(lengths)}.")
        self.table.lengths = list(lengths)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps the given rows only.

        Args:
            indices: rows to keep, `torch.long` of shape `(kept,)`.
        """
        super().batch_select_indices(indices)
        self.table.lengths = [self.lengths[index] for index in indices.tolist()]


__all__ = ["RaggedCache"]
