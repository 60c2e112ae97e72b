"""A key/value cache with a length per row: each row of a batch may be in text or at any denoising step of a span.

    row 0  [##########=====..........]     #  committed: final keys and values
    row 1  [####==========...........]     =  open part: written by this forward, overwritten by the next
    row 2  [#############=...........]     .  free

A forward writes the keys of row i after its committed length; the attention mask decides which of them each query
sees. Committing means advancing the row's length. Nothing is cropped, shifted or padded, so a row's results do not
depend on the other rows.
"""

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, CacheLayerMixin


# The keys passed to attention are cut to the longest row's length, rounded up to this multiple: few different shapes,
# little waste.
KEY_LENGTH_MULTIPLE = 64


def cache_argument(backbone: nn.Module) -> str:
    """Name of the argument with which a backbone takes its cache: `cache` since transformers 5.24."""
    return "cache" if "cache" in inspect.signature(backbone.forward).parameters else "past_key_values"


class SlotTable:
    """State shared by all layers of a cache: the rows' lengths, and where the next forward reads and writes.

    Attributes:
        capacity: Number of slots per row.
        lengths: Committed length of every row.
        slots: Slot of every input position, `torch.long` of shape `(batch, length)`; padding has slot `capacity`, one
            past the last, which attention never reads.
        key_length: Number of leading slots that attention reads.
    """

    def __init__(self, batch_size: int, capacity: int) -> None:
        self.capacity = capacity
        self.lengths = [0] * batch_size
        self.slots = torch.empty(batch_size, 0, dtype=torch.long)
        self.key_length = 0


class RaggedLayer(CacheLayerMixin):
    """Keys and values of one layer, of shape `(batch, heads, capacity + 1, head size)`.

    Args:
        table: Lengths and slots, shared with the other layers.
    """

    is_sliding = False

    def __init__(self, table: SlotTable) -> None:
        super().__init__()
        self.table = table

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocates the layer at its first update, when dtype, device and head sizes are known."""
        batch_size, heads = key_states.shape[:2]
        # One slot more than the capacity, for padding.
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
            key_states: Shape `(batch, heads, length, head size)`.
            value_states: Shape `(batch, heads, length, head size)`.

        Returns:
            The first `key_length` keys and values of every row.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        # One scatter for all rows, each at its own offset; padding goes to the spare slot at index `capacity`.
        slots = self.table.slots.to(self.keys.device)
        rows = torch.arange(slots.shape[0], device=slots.device)[:, None]
        # A slice between two index tensors puts their dimensions first: (batch, length, heads, head size).
        self.keys[rows, :, slots] = key_states.transpose(1, 2)
        self.values[rows, :, slots] = value_states.transpose(1, 2)
        key_length = self.table.key_length
        # Views, not copies: the slots after the longest row are left out.
        return self.keys[:, :, :key_length], self.values[:, :, :key_length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of keys that attention reads, and the index of the first one."""
        return self.table.key_length, 0

    def get_seq_length(self) -> int:
        """Committed length of the longest row."""
        return max(self.table.lengths)

    def get_max_length(self) -> int:
        """Number of slots per row."""
        return self.table.capacity

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps only the given rows."""
        if self.is_initialized:
            self.keys = self.keys[indices.to(self.keys.device)]
            self.values = self.values[indices.to(self.values.device)]


class RaggedCache(Cache):
    """A preallocated cache with a length per row; works with every backbone that takes a transformers `Cache`.

    Call `reserve` before each forward and `commit` after it.

    Args:
        batch_size: Number of rows.
        capacity: Number of slots per row, an upper bound on committed and open positions together.
    """

    def __init__(self, batch_size: int, capacity: int) -> None:
        self.table = SlotTable(batch_size, capacity)
        # transformers creates the layers at the first forward, as many as the backbone has.
        super().__init__(layer_class_to_replicate=partial(RaggedLayer, self.table))

    @property
    def lengths(self) -> list[int]:
        """Committed length of every row."""
        return self.table.lengths

    @property
    def capacity(self) -> int:
        """Number of slots per row."""
        return self.table.capacity

    @property
    def key_length(self) -> int:
        """Number of slots of each row that attention reads at the next forward."""
        return self.table.key_length

    def reserve(self, counts: Sequence[int], device: torch.device) -> torch.Tensor:
        """Reserves slots for the next forward, after each row's committed length.

        Args:
            counts: Number of inputs of each row; rows with fewer than the largest are right-padded.

        Returns:
            Slot of every input position, `torch.long` of shape `(batch, max(counts))`: for tokens their index in the
            row, for padding the capacity.

        Raises:
            ValueError: If a row does not fit into the cache.
        """
        capacity = self.table.capacity
        longest = max(length + count for length, count in zip(self.lengths, counts))
        if longest > capacity:
            raise ValueError(f"The cache has {capacity} slots a row, {longest} are needed.")
        # What an earlier forward left in the open slots is overwritten, so nothing has to be cleared.
        index = torch.arange(max(counts), device=device)
        starts = torch.tensor(self.lengths, device=device)[:, None]
        is_token = index < torch.tensor(list(counts), device=device)[:, None]
        # (batch, max(counts))
        self.table.slots = torch.where(is_token, starts + index, capacity)
        # Rounded up, but never to the spare slot of padding at index `capacity`.
        self.table.key_length = min(-(-longest // KEY_LENGTH_MULTIPLE) * KEY_LENGTH_MULTIPLE, capacity)
        return self.table.slots

    def commit(self, lengths: Sequence[int]) -> None:
        """Marks the keys below the given lengths as final.

        Args:
            lengths: The new committed length of every row.

        Raises:
            ValueError: If a length is smaller than before.
        """
        if any(new < old for new, old in zip(lengths, self.lengths)):
            raise ValueError(f"Committed lengths cannot shrink: from {self.lengths} to {list(lengths)}.")
        self.table.lengths = list(lengths)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps only the given rows.

        Args:
            indices: Rows to keep, `torch.long` of shape `(kept,)`.
        """
        super().batch_select_indices(indices)
        # The layers select their keys, but share one table, so its lengths are selected here.
        self.table.lengths = [self.lengths[index] for index in indices.tolist()]


__all__ = ["RaggedCache", "cache_argument"]
