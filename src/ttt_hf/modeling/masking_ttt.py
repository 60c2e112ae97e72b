"""The hybrid attention mask of TtT, for clean sequences, packed documents, caches and noised copies alike.

Every key has an *order*, its index among the clean tokens, and every query an interval ``[start, horizon)`` of orders
that it sees. In addition, positions with the same non-negative *block id* see each other. Text has block id -1, an
audio token the id of its span (or of its block inside the span). A key whose order is `NO_ORDER` is visible to its
own block only: padding, empty cache slots, and the noised copies that are appended to a clean sequence in training.

The rule is that of the official code (`modeling_qwen_TtT.py` of https://github.com/ai4ed/TtT): a query sees the keys
up to its own position, and all of the audio run that it lies in.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn.attention.flex_attention import BlockMask
from transformers import PreTrainedConfig
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS


# Order of a key that no query sees by order. The largest int32, so that orders may be narrow integers on devices.
NO_ORDER = 2**31 - 1

# Flash attention is missing: its kernels support causal masks only, not hybrid ones.
ATTENTION_IMPLEMENTATIONS = ("eager", "sdpa", "flex_attention")

AttentionMask = torch.Tensor | BlockMask | dict[str, torch.Tensor | BlockMask]


class AttentionQueries(NamedTuple):
    """What each query position sees. All tensors are `torch.long` of shape `(batch, query_length)`.

    Attributes:
        start: First visible order (that of the first token of the query's document).
        horizon: First order that is no longer visible; for a clean token its own order plus one.
        block_ids: Keys with the same non-negative id are visible regardless of their order.
        position: The query's own index among the clean tokens, used only by layers with a sliding window. `None` means
            `horizon - 1`, which is correct for clean tokens.
    """

    start: torch.Tensor
    horizon: torch.Tensor
    block_ids: torch.Tensor
    position: torch.Tensor | None = None


class AttentionKeys(NamedTuple):
    """Which queries see each key position. All tensors are `torch.long` of shape `(batch, key_length)`.

    Attributes:
        order: Index among the clean tokens, or `NO_ORDER`.
        block_ids: Queries with the same non-negative id see the key regardless of its order.
    """

    order: torch.Tensor
    block_ids: torch.Tensor


def audio_block_ids(
    input_ids: torch.Tensor,
    audio_token_start_id: int,
    block_length: int | None = None,
    attention_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Numbers the groups of audio tokens that see each other.

    Args:
        input_ids: Token ids, `torch.long` of shape `(batch, length)`. Every id >= `audio_token_start_id` is audio:
            codes, the mask token and the end markers alike.
        audio_token_start_id: First audio id.
        block_length: `None` makes each maximal run of audio ids (a span) one group (`audio_attention="span"`); a
            number cuts each run into groups of that many tokens, counted from the run's start (`"block_causal"`).
        attention_mask: 1 for tokens, 0 for padding, shape `(batch, length)`. Padding belongs to no group and ends
            runs.

    Returns:
        `torch.long` tensor of shape `(batch, length)`: -1 for text and padding, otherwise the index in the row of the
        group's first token, which makes ids unique within a row.

    Raises:
        ValueError: If `block_length` is smaller than 1.
    """
    if block_length is not None and block_length < 1:
        raise ValueError(f"block_length must be at least 1, got {block_length}.")
    is_audio = input_ids >= audio_token_start_id
    if attention_mask is not None:
        # Ids of padding are arbitrary, and may be audio ids.
        is_audio = is_audio & attention_mask.to(device=is_audio.device, dtype=torch.bool)
    index = torch.arange(input_ids.shape[-1], device=input_ids.device).expand_as(input_ids)
    is_start = is_audio.clone()
    is_start[:, 1:] &= ~is_audio[:, :-1]
    # The running maximum carries the index of each run's first token through the run.
    run_start = torch.where(is_start, index, 0).cummax(dim=-1).values
    group_start = run_start
    if block_length is not None:
        # The offset in the run, rounded down to full groups.
        group_start = run_start + (index - run_start) // block_length * block_length
    return torch.where(is_audio, group_start, -1)


def isolate_padding(block_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Gives every padding position a block of its own.

    A padding query would otherwise see nothing at all, for which some attention kernels return NaN.

    Args:
        block_ids: Shape `(batch, length)`, see `audio_block_ids`.
        attention_mask: 1 for tokens, 0 for padding, shape `(batch, length)`.

    Returns:
        Block ids of the same shape, with unique ids for padding positions.
    """
    index = torch.arange(block_ids.shape[-1], device=block_ids.device)
    # Ids above all block ids of the row, one per position.
    unused_id = block_ids.amax(dim=-1, keepdim=True).clamp(min=0) + 1
    return torch.where(attention_mask.to(device=block_ids.device, dtype=torch.bool), block_ids, unused_id + index)


def hybrid_mask_function(
    queries: AttentionQueries, keys: AttentionKeys, window: int | None = None
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """Makes the mask function (in the sense of `transformers.masking_utils`) of hybrid attention.

    Args:
        queries: What each query sees.
        keys: Which queries see each key.
        window: Sliding window in tokens, including the query itself; `None` for full attention. Positions of the same
            block see each other beyond the window.

    Returns:
        A function `(batch_idx, head_idx, q_idx, kv_idx) -> bool` of index tensors that works with broadcasting, under
        `torch.vmap` and as the `mask_mod` of flex attention.
    """
    # A window raises the lower end of the interval of orders; blocks are not affected.
    lowest = queries.start
    if window is not None:
        position = queries.horizon - 1 if queries.position is None else queries.position
        lowest = torch.maximum(lowest, position - window + 1)

    def mask_function(
        batch_idx: torch.Tensor, head_idx: torch.Tensor, q_idx: torch.Tensor, kv_idx: torch.Tensor
    ) -> torch.Tensor:
        # The index tensors broadcast to (batch, heads, queries, keys), or are scalars under `vmap`.
        order = keys.order[batch_idx, kv_idx]
        by_order = (order >= lowest[batch_idx, q_idx]) & (order < queries.horizon[batch_idx, q_idx])
        block = queries.block_ids[batch_idx, q_idx]
        # Text has block id -1 everywhere, which is no common block.
        return by_order | ((block >= 0) & (block == keys.block_ids[batch_idx, kv_idx]))

    return mask_function


def attention_windows(text_config: PreTrainedConfig) -> dict[str, int | None]:
    """Sliding window of each type of attention layer that a backbone has.

    Returns:
        The window in tokens by layer type, `None` for full attention.

    Raises:
        ValueError: If a layer type is neither full nor sliding attention (chunked, linear, ...), since such layers
            cannot express the hybrid mask.
    """
    window = getattr(text_config, "sliding_window", None)
    layer_types = getattr(text_config, "layer_types", None)
    if layer_types is None:
        # Without a list all layers are alike.
        layer_types = ["full_attention" if window is None else "sliding_attention"]
    windows = {"full_attention": None, "sliding_attention": window}
    unknown = sorted(set(layer_types) - set(windows))
    if unknown:
        raise ValueError(
            f"The backbone '{text_config.model_type}' has layers of type {', '.join(unknown)}, but TtT needs full or "
            "sliding-window attention: choose another text model."
        )
    return {layer_type: windows[layer_type] for layer_type in sorted(set(layer_types))}


def build_attention_mask(
    config: PreTrainedConfig,
    queries: AttentionQueries,
    keys: AttentionKeys,
    dtype: torch.dtype = torch.float32,
) -> AttentionMask:
    """Builds the mask that a backbone takes as `attention_mask`.

    It comes from transformers' mask interface and fits the configured attention implementation: an additive float
    tensor (eager), a boolean tensor (SDPA) or a `BlockMask` (flex attention).

    Args:
        config: A `TtTConfig` or the backbone's own configuration.
        queries: What each query sees.
        keys: Which queries see each key.
        dtype: Dtype of the hidden states, used by eager attention only.

    Returns:
        The mask, of shape `(batch, 1, query_length, key_length)`; for a backbone with sliding-window layers listed in
        `layer_types`, a dictionary from layer type to mask.

    Raises:
        ValueError: If the attention implementation or a layer type cannot express this mask.
    """
    text_config = config.get_text_config()
    implementation = text_config._attn_implementation
    if implementation not in ATTENTION_IMPLEMENTATIONS:
        raise ValueError(
            f"Attention implementation '{implementation}' cannot express TtT's mask: load the model with "
            "attn_implementation='sdpa', 'eager' or 'flex_attention'."
        )
    batch_size, query_length = queries.horizon.shape
    masks: dict[str, torch.Tensor | BlockMask] = {}
    for layer_type, window in attention_windows(text_config).items():
        masks[layer_type] = ALL_MASK_ATTENTION_FUNCTIONS[implementation](
            batch_size=batch_size,
            q_length=query_length,
            kv_length=keys.order.shape[1],
            mask_function=hybrid_mask_function(queries, keys, window),
            # Padding is part of `mask_function`, and the mask may not be dropped as a merely causal one.
            attention_mask=None,
            allow_is_causal_skip=False,
            dtype=dtype,
            device=keys.order.device,
            config=text_config,
        )
    # Backbones with layer types index a dictionary of masks by them; with full attention only, one mask fits all.
    if getattr(text_config, "layer_types", None) is None or list(masks) == ["full_attention"]:
        return next(iter(masks.values()))
    return masks


def open_attention_arguments(
    config: PreTrainedConfig, positions: torch.Tensor, key_length: int, dtype: torch.dtype
) -> dict[str, Any]:
    """Arguments of a backbone with which every query sees every key: no mask at all, where the backbone allows it.

    Without a mask, kernels read grouped keys and values as they are, and do not copy them once per query head.

    Args:
        config: A `TtTConfig` or the backbone's own configuration.
        positions: Of the queries, shape `(batch, query_length)`.
        key_length: Number of keys.
        dtype: Dtype of the hidden states, used by eager attention only.

    Returns:
        `attention_mask`, and `is_causal` where there is no mask.
    """
    text_config = config.get_text_config()
    layer_types = getattr(text_config, "layer_types", None)
    # Backbones with layer types take what a dictionary holds; others would put a causal mask in the place of none.
    if layer_types is not None and text_config._attn_implementation != "flex_attention":
        return {"attention_mask": dict.fromkeys(layer_types), "is_causal": False}
    start = torch.zeros_like(positions)
    queries = AttentionQueries(start, start + key_length, start - 1, positions)
    order = torch.arange(key_length, device=positions.device).expand(len(positions), -1)
    return {
        "attention_mask": build_attention_mask(
            config, queries, AttentionKeys(order, torch.full_like(order, -1)), dtype
        )
    }
