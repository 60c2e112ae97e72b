"""Rows of token ids as one padded batch."""

from __future__ import annotations

from transformers import BatchFeature


def make_batch(
    rows: list[list[int]], pad_id: int | None, return_tensors: str | None, padding: bool, padding_side: str | None
) -> BatchFeature:
    """Pads rows of token ids, and marks what is padding.

    Args:
        rows: Ids of each row.
        pad_id: Id that fills them; any would do, as the mask hides it.
        return_tensors: `"pt"` for tensors, `None` for lists.
        padding: Whether to pad rows to the longest one.
        padding_side: `"left"` or `"right"`; `None` is left.

    Returns:
        `input_ids` and `attention_mask`, as tensors `torch.long` of shape `(batch, length)`.

    Raises:
        ValueError: If an argument has another value, or rows of different length should be a tensor.
    """
    if return_tensors not in ("pt", None):
        raise ValueError(f"return_tensors must be 'pt' or None, not {return_tensors!r}.")
    if padding_side not in ("left", "right", None):
        raise ValueError(f"padding_side must be 'left' or 'right', not {padding_side!r}.")
    length = max(map(len, rows))
    if return_tensors is not None and not padding and any(len(row) != length for row in rows):
        raise ValueError("Rows of different length cannot be one tensor: set padding=True or return_tensors=None.")
    masks = [[1] * len(row) for row in rows]
    if padding:
        is_right = padding_side == "right"
        rows = [_pad(row, length, pad_id or 0, is_right) for row in rows]
        masks = [_pad(mask, length, 0, is_right) for mask in masks]
    return BatchFeature({"input_ids": rows, "attention_mask": masks}, tensor_type=return_tensors)


def _pad(row: list[int], length: int, value: int, is_right: bool) -> list[int]:
    fill = [value] * (length - len(row))
    return row + fill if is_right else fill + row
