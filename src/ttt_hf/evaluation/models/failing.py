"""Samples that fail: they get a failed response, and the others of their batch are answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from ..concepts import Response


Item = TypeVar("Item")

# Errors that a single sample can cause: audio that the model cannot take, too little memory (a RuntimeError), and what
# libraries raise of values that nobody expected.
SAMPLE_ERRORS = (ValueError, RuntimeError, MemoryError, TypeError, LookupError, ArithmeticError)
MAX_ERROR_LENGTH = 300


def failed_response(error: Exception | str, seconds: float = 0.0) -> Response:
    """Makes the response of a sample that failed: empty, with the error in one line. It stays in every denominator.

    Args:
        error: What went wrong.
        seconds: Time spent on the sample.
    """
    # One line: errors of CUDA and of tokenizers span many, and the text goes into tables and JSON lines.
    sentence = " ".join(str(error).split())[:MAX_ERROR_LENGTH] or type(error).__name__
    return Response(text="", finish_reason="error", seconds=seconds, error=sentence)


def answer_in_halves(items: Sequence[Item], answer: Callable[[Sequence[Item]], list[Response]]) -> list[Response]:
    """Answers a batch. If that fails, answers its halves, down to the single sample that fails.

    A batch that does not fit into memory is thus answered in smaller ones.

    Args:
        items: The batch.
        answer: Answers a batch, in order.

    Returns:
        One response per item, in order; a failed one for those that fail alone.
    """
    if not items:
        return []
    try:
        return answer(items)
    # A RuntimeError, too, so that it has to come before the errors of samples.
    except torch.AcceleratorError:
        raise
    except SAMPLE_ERRORS as error:
        if len(items) == 1:
            return [failed_response(error)]
    # After the except clause, where the traceback no longer keeps the tensors of the failed batch alive.
    torch.cuda.empty_cache()
    middle = len(items) // 2
    return [*answer_in_halves(items[:middle], answer), *answer_in_halves(items[middle:], answer)]
