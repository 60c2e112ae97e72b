"""How much the command line writes to stderr, and quick loading.

By default that are its own notes, one progress bar where there is long work, and errors. `--quiet` leaves the errors,
`--verbose` adds the messages and progress bars of libraries, and the traceback of an error.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from ..modeling.modeling_ttt import TtTForConditionalGeneration
    from ..processing.processing_ttt import TtTProcessor

QUIET, NORMAL, VERBOSE = -1, 0, 1
# Read by the libraries when they are imported, in processes that this one starts, too.
NO_DATASETS_PROGRESS = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
NO_PROGRESS = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **NO_DATASETS_PROGRESS}

_level = NORMAL


@contextlib.contextmanager
def output_level(level: int) -> Iterator[None]:
    """Sets how much is written within this block: `QUIET`, `NORMAL` or `VERBOSE`."""
    global _level
    before, variables = _level, dict(os.environ)
    _level = level
    if level != VERBOSE:
        os.environ.update(NO_PROGRESS if level == QUIET else NO_DATASETS_PROGRESS)
    # Of this package alone: libraries log each of their requests as an INFO.
    logger, handler = logging.getLogger(__package__.partition(".")[0]), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("ttt-hf: %(message)s"))
    logger.addHandler(handler)
    # Warnings stay in any case: they tell which data were left out.
    logger.setLevel(logging.WARNING if level == QUIET else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
        _level = before
        os.environ.clear()
        os.environ.update(variables)


def is_quiet() -> bool:
    """Whether only errors are wanted."""
    return _level == QUIET


def is_verbose() -> bool:
    """Whether tracebacks and the messages of libraries are wanted."""
    return _level == VERBOSE


def note(sentence: str) -> None:
    """Prints a note for the user on stderr, unless only errors are wanted; stdout is for results."""
    if _level != QUIET:
        print(f"ttt-hf: {sentence}", file=sys.stderr, flush=True)


def load_quietly(folder: Path, **settings: Any) -> tuple[TtTForConditionalGeneration, TtTProcessor]:
    """Calls `loading.load_checkpoint` without messages of transformers, and a sixth faster."""
    with _no_garbage():
        from ..loading import load_checkpoint

        silence_transformers()
        return load_checkpoint(folder, **settings)


def silence_transformers() -> None:
    """Turns off the log messages and progress bars of transformers, here and in processes that are started later."""
    if _level == VERBOSE:
        return
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    os.environ.update(TRANSFORMERS_VERBOSITY="error", **NO_PROGRESS)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Turns off the warnings of libraries, and keeps what they print away from stdout, which is for the result."""
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        if _level != VERBOSE:
            warnings.simplefilter("ignore")
        output = stack.enter_context(open(os.devnull, "w")) if _level == QUIET else sys.stderr
        stack.enter_context(contextlib.redirect_stdout(output))
        yield


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    """Pauses Python's cycle collector, which scans again and again while modules load and finds nothing to free.

    The objects that were made meanwhile stay, so that they are excluded from later scans, too.
    """
    gc.disable()
    try:
        yield
    finally:
        # Before the collector is on again, or its next run would scan all of them.
        gc.freeze()
        gc.enable()
