"""Errors of the command line, as one line instead of a traceback."""

from __future__ import annotations

import errno


# Errors whose messages are written for users; any other is shown with its type.
EXPECTED_ERRORS = (OSError, ValueError, RuntimeError, ImportError, FloatingPointError)
NO_SPACE = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


class UsageError(Exception):
    """The arguments do not fit together; exit code 2."""


def one_line(error: BaseException) -> str:
    """The message of an error, without line breaks and with a remedy where the message has none."""
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return f"{error.filename or 'A file'}: {error.strerror}. Free some space and run the same command again."
    # Raised by the system: str(error) would begin with the error number.
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}."
    # torch's error by its name, since importing torch takes longer than most commands.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "There is not enough memory: close other programs, or take a smaller model or a shorter question."
    # Some libraries write paragraphs or tables.
    message = " ".join(str(error).split())
    if not isinstance(error, (*EXPECTED_ERRORS, UsageError)) or not message:
        return f"Unexpected {type(error).__name__}: {message} (TTT_HF_DEBUG=1 shows where)"
    return message
