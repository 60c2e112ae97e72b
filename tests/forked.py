"""A command in a forked process, which has imported what takes seconds."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from ttt_hf.cli.main import main


def become_command(arguments: Callable[[], Sequence[str]], log: Path, failed: int) -> NoReturn:
    """Runs `ttt-hf` in this process, a forked child, and ends it with the exit code.

    Args:
        arguments: Makes the arguments; what it raises is an error of the test.
        log: File for stderr; stdin is empty, and stdout is dropped.
        failed: Exit code of an exception that the command lets through, or of an error of the test.
    """
    code = failed
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", errors="backslashreplace")
        code = main(list(arguments()))
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else failed
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
