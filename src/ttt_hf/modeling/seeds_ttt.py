"""Random streams of sampling: every row of a batch draws from its own."""

import hashlib
from collections.abc import Sequence

import torch


def derive_seed(seed: int, key: int | str) -> int:
    """Derives an independent seed, for example that of a row or of a sample.

    A hash rather than a sum: with sums, row 1 of seed 0 and row 0 of seed 1 would be the same stream.

    Args:
        seed: The seed that all are derived from.
        key: What the derived seed belongs to.

    Returns:
        An integer of at least 0, below 2^63.
    """
    digest = hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def row_generators(
    seed: int | Sequence[int] | None, rows: int, draws: bool, device: torch.device
) -> list[torch.Generator]:
    """Creates the random generators of a batch.

    Args:
        seed: One seed, of which every row gets its own stream; a list with one seed per row, so that a row does not
            depend on its place in the batch; or `None`, for a seed from torch's global generator.
        rows: Number of rows.
        draws: Whether the rows need random numbers; if not, torch's global generator is not advanced.
        device: Device of the generators.

    Returns:
        One generator per row. A row alone with `seed=s` has the stream of any row whose seed in a list is `s`.

    Raises:
        ValueError: If a list does not have one seed per row.
    """
    if seed is None:
        seed = int(torch.randint(2**62, (1,))) if draws else 0
    if isinstance(seed, int):
        seeds = [derive_seed(seed, row) for row in range(rows)]
    elif len(seed) == rows:
        seeds = [derive_seed(own, 0) for own in seed]
    else:
        raise ValueError(f"seed must be one number or one per row: {len(seed)} were given for {rows} rows.")
    return [torch.Generator(device).manual_seed(own) for own in seeds]


__all__ = ["derive_seed", "row_generators"]
