"""A key/value cache with a length per row: each row of a batch may be in text or at any denoising step of a span.

    row 0  [##########=====..........]     #  committed: final keys and values
    row 1  [####==========...........]     =  open part: written by this forward, overwritten by the next
    row 2  [#############=...........]     .  free

A forward writes the keys of row i after its committed length; the attention mask decides which of them each query
sees. Committing means advancing the row's length. Nothing is cropped, shifted or padded, so a row's results do not
depend on the other rows. A forward may serve any consecutive rows; the others stay as they are.
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
# Slots are added in multiples of this number.
CAPACITY_MULTIPLE = 256


def cache_argument(backbone: nn.Module) -> str:
    """Name of the argument with which a backbone takes its cache: `cache` since transformers 5.24."""
    return "cache" if "cache" in inspect.signature(backbone.forward).parameters else "past_key_values"


class SlotTable:
    """State shared by all layers of a cache: the rows' lengths, and where the next forward reads and writes.

    Attributes:
        capacity: Number of slots per row.
        lengths: Committed length of every row.
        rows: Rows of the next forward.
        span: Slots that all of these rows write, if they are the same; then `slots` is not used.
        slots: Slot of every input position, `torch.long` of shape `(rows, length)`; padding has slot `capacity`, one
            past the last, which attention never reads.
        key_length: Number of leading slots that attention reads.
    """

    def __init__(self, batch_size: int, capacity: int) -> None:
        self.capacity = capacity
        self.lengths = [0] * batch_size
        self.rows = slice(0, batch_size)
        self.span: slice | None = None
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
        batch_size, heads = len(self.table.lengths), key_states.shape[1]
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
            key_states: Shape `(rows, heads, length, head size)`.
            value_states: Shape `(rows, heads, length, head size)`.

        Returns:
            The first `key_length` keys and values of the forward's rows.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        table = self.table
        # Views, not copies: other rows, and the slots after the longest row, are left out.
        keys, values = self.keys[table.rows], self.values[table.rows]
        if table.span is not None:
            keys[:, :, table.span] = key_states
            values[:, :, table.span] = value_states
        else:
            # One scatter for all rows, each at its own offset; padding goes to the spare slot at index `capacity`.
            slots = table.slots.to(keys.device)
            rows = torch.arange(slots.shape[0], device=slots.device)[:, None]
            # A slice between two index tensors puts their dimensions first: (rows, length, heads, head size).
            keys[rows, :, slots] = key_states.transpose(1, 2)
            values[rows, :, slots] = value_states.transpose(1, 2)
        return keys[:, :, : table.key_length], values[:, :, : table.key_length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of keys that attention reads, and the index of the first one."""
        return self.table.key_length, 0

    def get_seq_length(self) -> int:
        """Committed length of the longest row."""
        return max(self.table.lengths)

    def get_max_length(self) -> int:
        """Number of slots per row."""
        return self.table.capacity


class RaggedCache(Cache):
    """A preallocated cache with a length per row; works with every backbone that takes a transformers `Cache`.

    Call `reserve` (or `reserve_aligned`) before each forward and `commit` after it.

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

    def reserve(self, counts: Sequence[int], device: torch.device, first: int = 0) -> torch.Tensor:
        """Reserves slots for the next forward, after each row's committed length.

        Args:
            counts: Number of inputs of each row; rows with fewer than the largest are right-padded.
            first: First row of the forward.

        Returns:
            Slot of every input position, `torch.long` of shape `(rows, max(counts))`: for tokens their index in the
            row, for padding the capacity.

        Raises:
            ValueError: If a row does not fit into the cache.
        """
        table = self.table
        lengths = self.lengths[first : first + len(counts)]
        longest = self._check(max(length + count for length, count in zip(lengths, counts)))
        # What an earlier forward left in the open slots is overwritten, so nothing has to be cleared.
        index = torch.arange(max(counts), device=device)
        starts = torch.tensor(lengths, device=device)[:, None]
        is_token = index < torch.tensor(list(counts), device=device)[:, None]
        # (rows, max(counts))
        table.slots = torch.where(is_token, starts + index, table.capacity)
        table.rows, table.span = slice(first, first + len(counts)), None
        # Rounded up, but never to the spare slot of padding at index `capacity`.
        table.key_length = min(-(-longest // KEY_LENGTH_MULTIPLE) * KEY_LENGTH_MULTIPLE, table.capacity)
        return table.slots

    def reserve_aligned(self, rows: int, count: int, first: int = 0) -> slice:
        """Reserves slots for rows of the same committed length and the same number of inputs, such as a single row.

        Args:
            rows: Number of rows of the forward.
            count: Number of inputs of each row.
            first: First row of the forward.

        Returns:
            The slots that every row writes; attention reads these and all before them.

        Raises:
            ValueError: If the rows do not fit into the cache.
        """
        start = self.lengths[first]
        self.table.key_length = self._check(start + count)
        self.table.rows, self.table.span = slice(first, first + rows), slice(start, start + count)
        return self.table.span

    def commit(self, lengths: Sequence[int]) -> None:
        """Marks the keys below the given lengths as final.

        Args:
            lengths: The new committed length of the leading rows; of the others it stays.

        Raises:
            ValueError: If a length is smaller than before.
        """
        if any(new < old for new, old in zip(lengths, self.lengths)):
            raise ValueError(f"Committed lengths cannot shrink: from {self.lengths} to {list(lengths)}.")
        self.table.lengths[: len(lengths)] = lengths

    def truncate(self, row: int, length: int) -> None:
        """Forgets what a row has committed from a length on."""
        self.table.lengths[row] = min(self.lengths[row], length)

    def grow(self, capacity: int) -> None:
        """Gives every row at least so many slots; what is committed is copied."""
        # In large steps, as each copies everything.
        capacity = -(-capacity // CAPACITY_MULTIPLE) * CAPACITY_MULTIPLE
        added = capacity - self.capacity
        if added <= 0:
            return
        self.table.capacity = capacity
        for layer in self.layers:
            if layer.is_initialized:
                layer.keys = nn.functional.pad(layer.keys, (0, 0, 0, added))
                layer.values = nn.functional.pad(layer.values, (0, 0, 0, added))

    def erase(self, row: int) -> None:
        """Forgets a row and zeroes its keys and values, which need not be finite."""
        self.table.lengths[row] = 0
        for layer in self.layers:
            if layer.is_initialized:
                layer.keys[row].zero_()
                layer.values[row].zero_()

    def swap(self, one: int, other: int) -> None:
        """Swaps what two rows have committed; what is not committed is not copied."""
        lengths = self.table.lengths
        for layer in self.layers:
            if layer.is_initialized:
                for states in (layer.keys, layer.values):
                    kept = states[one, :, : lengths[one]].clone() if lengths[other] else states[one, :, : lengths[one]]
                    states[one, :, : lengths[other]] = states[other, :, : lengths[other]]
                    states[other, :, : lengths[one]] = kept
        lengths[one], lengths[other] = lengths[other], lengths[one]

    def _check(self, length: int) -> int:
        if length > self.capacity:
            raise ValueError(f"The cache has {self.capacity} slots a row, {length} are needed.")
        return length


__all__ = ["RaggedCache", "cache_argument"]
