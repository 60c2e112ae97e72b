"""What becomes of a sample that fails: a reply that says so, while the others of its batch get their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from ..concepts import Response


Item = TypeVar("Item")

# What one sample can do to a model: audio that it cannot take, or too little memory. Out of memory is a RuntimeError.
SAMPLE_ERRORS = (ValueError, RuntimeError, MemoryError)
MAX_ERROR_LENGTH = 300


def failed_reply(error: Exception | str, seconds: float = 0.0) -> Response:
    """The reply of a sample that failed. It stays in the denominator of every score.

    Args:
        error: What went wrong.
        seconds: Time spent on it.

    Returns:
        Empty, with the error in one line.
    """
    sentence = " ".join(str(error).split())[:MAX_ERROR_LENGTH] or type(error).__name__
    return Response(text="", finish_reason="error", seconds=seconds, error=sentence)


def answer_in_halves(items: Sequence[Item], answer: Callable[[Sequence[Item]], list[Response]]) -> list[Response]:
    """Answers a batch; if that fails, its halves, down to the sample that is to blame.

    So a batch that does not fit into memory is answered in smaller ones, too.

    Args:
        items: The batch.
        answer: Gives the replies to a batch, in order.

    Returns:
        A reply to every item, in order; a failed one to those that fail alone.

    Raises:
        torch.AcceleratorError: The device is broken, so nothing that follows could be right.
    """
    if not items:
        return []
    try:
        return answer(items)
    except torch.AcceleratorError:
        raise
    except SAMPLE_ERRORS as error:
        if len(items) == 1:
            return [failed_reply(error)]
    # Behind the except clause, where the error no longer keeps the tensors of the failed batch alive.
    torch.cuda.empty_cache()
    middle = len(items) // 2
    return [*answer_in_halves(items[:middle], answer), *answer_in_halves(items[middle:], answer)]
