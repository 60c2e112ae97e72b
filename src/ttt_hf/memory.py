"""Errors of too little memory, whoever raises them."""

from __future__ import annotations


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was too little memory, on a GPU or for the processor."""
    # torch's error by its name, since importing torch takes longer than most commands; on a CPU it raises a plain
    # RuntimeError.
    is_named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return is_named or "can't allocate memory" in str(error)


__all__ = ["is_out_of_memory"]
