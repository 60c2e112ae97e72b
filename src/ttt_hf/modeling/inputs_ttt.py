"""Inputs of a decoding forward: ids, positions and attention of the rows' open parts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedConfig

from .cache_ttt import RaggedCache
from .masking_ttt import (
    NO_ORDER,
    AttentionKeys,
    AttentionQueries,
    attention_windows,
    audio_block_ids,
    build_attention_mask,
    open_attention_arguments,
)


if TYPE_CHECKING:
    from .modeling_ttt import TtTForConditionalGeneration


def model_inputs(
    model: "TtTForConditionalGeneration",
    parts: Sequence[list[int]],
    cache: RaggedCache,
    first: int,
    device: torch.device,
) -> dict[str, Any]:
    """Ids, positions and attention mask of a forward; reserves its slots in the cache.

    Args:
        parts: Ids of every row, which follow its committed length.
        cache: Keys and values of the committed ids.
        first: The row of the cache that the first part belongs to.
        device: Device of the inputs.

    Returns:
        Arguments of the model. Rows have the length of the longest part; what they have after their own is undefined.
    """
    config = model.config
    counts, lengths = [len(part) for part in parts], cache.lengths[first : first + len(parts)]
    dtype = model.get_input_embeddings().weight.dtype
    is_aligned = len(set(counts)) == len(set(lengths)) == 1
    if is_aligned and all(_sees_everything(part, lengths[0], config) for part in parts):
        # A single row in text or in an open span, and rows in step: no mask, and no scatter.
        span = cache.reserve_aligned(len(parts), counts[0], first)
        positions = torch.arange(span.start, span.stop, device=device).expand(len(parts), -1)
        ids = torch.tensor(parts, device=device)
        open_attention = open_attention_arguments(config, positions, cache.key_length, dtype)
        return {"input_ids": ids, "position_ids": positions, **open_attention}

    # Everything per position has the shape (rows, width); the slot of a token is its index in the row.
    slots = cache.reserve(counts, device, first)
    input_ids = torch.tensor([part + [0] * (slots.shape[1] - len(part)) for part in parts], device=device)
    ends = torch.tensor([length + count for length, count in zip(lengths, counts)], device=device)
    return masked_inputs(config, input_ids, slots, ends, cache.capacity, cache.key_length, dtype)


def masked_inputs(
    config: PreTrainedConfig,
    input_ids: torch.Tensor,
    slots: torch.Tensor,
    ends: torch.Tensor,
    capacity: int,
    key_length: int,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Inputs of rows that differ in their lengths.

    Args:
        config: The model's `TtTConfig`.
        input_ids: The open parts, `torch.long` of shape `(rows, width)`, padded on the right with any ids.
        slots: Index of every token in its row, and `capacity` for padding, `torch.long` of the same shape.
        ends: Length of every row with its open part, `torch.long` of shape `(rows,)`.
        capacity: Number of slots of the cache.
        key_length: Number of slots that attention reads.
        dtype: Of the hidden states, used by eager attention only.

    Returns:
        Arguments of the model.
    """
    is_token = slots < capacity
    # An open part starts where its run (or block) starts, so its ids alone determine the groups.
    block_ids = audio_block_ids(input_ids, config.audio_token_start_id, config.attention_block_length, is_token)
    # Padding sees the first token: some kernels return NaN for queries that see nothing.
    horizon = torch.where(is_token, slots + 1, 1)
    queries = AttentionQueries(torch.zeros_like(slots), horizon, block_ids)

    # Slots after a row's end hold keys of earlier forwards or nothing; no query may see them.
    index = torch.arange(key_length, device=slots.device)
    order = torch.where(index < ends[:, None], index, NO_ORDER)
    # Committed keys need no block id, as every query sees them by order. The last column takes the padding and is cut
    # off.
    key_blocks = torch.full((len(slots), key_length + 1), -1, device=slots.device)
    key_blocks.scatter_(1, slots.clamp(max=key_length), block_ids)
    mask = build_attention_mask(config, queries, AttentionKeys(order, key_blocks[:, :key_length]), dtype=dtype)
    # The index of each token in its row; 0 for padding.
    return {"input_ids": input_ids, "position_ids": horizon - 1, "attention_mask": mask}


def _sees_everything(part: list[int], length: int, config: PreTrainedConfig) -> bool:
    """Whether every position of an open part sees all committed ones, and all of the part."""
    end = length + len(part)
    if any(window is not None and window < end for window in attention_windows(config.get_text_config()).values()):
        return False
    block_length = config.attention_block_length
    # A part that is audio throughout is one run or, as it starts where a block starts, one block.
    is_one_block = block_length is None or len(part) <= block_length
    return len(part) == 1 or (is_one_block and min(part) >= config.audio_token_start_id)


__all__ = ["masked_inputs", "model_inputs"]
