"""Checks of the inputs of codecs."""

from collections.abc import Sequence

import torch
from torch import Tensor


def check_waveform(waveform: Tensor, lengths: Tensor | None) -> list[int]:
    """Checks a batch of waveforms.

    Args:
        waveform: Float of shape `(batch, samples)`.
        lengths: `torch.long` of shape `(batch,)`, samples of each row; by default all samples count.

    Returns:
        Number of samples of each row.

    Raises:
        ValueError: If the waveform has the wrong shape or dtype, is empty or holds values that are not finite, or if
            the lengths do not fit it.
    """
    if waveform.ndim != 2 or not waveform.is_floating_point():
        raise ValueError(
            f"The waveform must be a float tensor of shape (batch, samples), not {waveform.dtype} of shape "
            f"{tuple(waveform.shape)}."
        )
    values = _row_lengths(lengths, waveform.shape, "samples")
    if not values or min(values) == 0:
        raise ValueError("The waveform is empty: every row must have at least one sample.")
    if not torch.isfinite(waveform).all():
        raise ValueError("The waveform holds values that are not finite; replace NaN and infinity before encoding.")
    return values


def check_codes(codes: Tensor, codebook_size: int) -> None:
    """Raises a `ValueError` unless all values are codes of a codec."""
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise ValueError(f"Codes must be integers, not {codes.dtype}.")
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < codebook_size:
        raise ValueError(
            f"Codes must lie between 0 and {codebook_size - 1}, but these lie between {int(codes.min())} and "
            f"{int(codes.max())}; were they made by another codec?"
        )


def code_rows(codes: Tensor, lengths: Tensor | None, codebook_size: int) -> list[Tensor]:
    """Checks a batch of codes and removes its padding.

    Args:
        codes: `torch.long` of shape `(batch, frames)`; -1 is allowed after the end of a row only.
        lengths: `torch.long` of shape `(batch,)`, codes of each row; by default a row ends before its trailing -1.
        codebook_size: Number of codes.

    Returns:
        The rows, `torch.long` of shape `(codes,)`.

    Raises:
        ValueError: If the codes have the wrong shape or dtype or are out of range, or the lengths do not fit.
    """
    if codes.ndim != 2:
        raise ValueError(f"The codes must have the shape (batch, frames), not {tuple(codes.shape)}.")
    # The dtype alone: an empty slice has no values, and padding would be out of range.
    check_codes(codes[:0], codebook_size)
    if lengths is None:
        # A row ends with its last code; `amax` needs at least one column.
        filled = codes != -1
        positions = torch.arange(1, codes.shape[1] + 1, device=codes.device)
        values = (filled * positions).amax(1).tolist() if codes.numel() else [0] * codes.shape[0]
    else:
        values = _row_lengths(lengths, codes.shape, "codes")
    rows = [row[:value] for row, value in zip(codes, values)]
    for row in rows:
        # A -1 between codes is not padding, and out of range.
        check_codes(row, codebook_size)
    return rows


def _row_lengths(lengths: Tensor | None, shape: Sequence[int], unit: str) -> list[int]:
    """Lengths of the rows as Python numbers, checked against the shape `(batch, size)`."""
    batch, size = shape
    if lengths is None:
        return [size] * batch
    if lengths.shape != (batch,):
        raise ValueError(f"lengths must have the shape ({batch},), one for each row, not {tuple(lengths.shape)}.")
    values = [int(length) for length in lengths.tolist()]
    if any(not 0 <= value <= size for value in values):
        raise ValueError(f"lengths must lie between 0 and the {size} {unit} of a row, not {values}.")
    return values
