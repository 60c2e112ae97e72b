"""Errors of the command line: what a user reads in place of a traceback."""

from __future__ import annotations

import errno


# Errors whose message was written for people. Of any other, the type says more than the message.
EXPECTED_ERRORS = (OSError, ValueError, RuntimeError, ImportError, FloatingPointError)


NO_SPACE = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


class UsageError(Exception):
    """The arguments do not fit together; exit code 2."""


def one_line(error: BaseException) -> str:
    """Says an error in one line.

    Args:
        error: Any error.

    Returns:
        Its message without line breaks.
    """
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return f"{error.filename or 'A file'}: {error.strerror}. Free some space and run the same command again."
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}."
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "There is not enough memory: close other programs, or take a smaller model or a shorter question."
    message = " ".join(str(error).split())
    if not isinstance(error, (*EXPECTED_ERRORS, UsageError)) or not message:
        return f"Unexpected {type(error).__name__}: {message} (TTT_HF_DEBUG=1 shows where)"
    return message
