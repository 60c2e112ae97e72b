"""Quiet and quick loading: stderr is for the messages of the command line itself."""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from ..modeling.modeling_ttt import TtTForConditionalGeneration
    from ..processing.processing_ttt import TtTProcessor


def load_quietly(folder: Path, **settings: Any) -> tuple[TtTForConditionalGeneration, TtTProcessor]:
    """Calls `loading.load_checkpoint` without messages of transformers, and a sixth faster."""
    with _no_garbage():
        from ..loading import load_checkpoint

        silence_transformers()
        return load_checkpoint(folder, **settings)


def silence_transformers() -> None:
    """Turns off the log messages and progress bars of transformers."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Turns off the warnings of libraries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
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
