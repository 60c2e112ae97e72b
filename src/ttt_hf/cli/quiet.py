"""Keeping libraries quiet, and the start short: stderr holds the command line's own notes."""

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
    """`loading.load_checkpoint`, as quietly and as soon as can be; arguments as there."""
    with _no_garbage():
        from ..loading import load_checkpoint

        silence_transformers()
        return load_checkpoint(folder, **settings)


def silence_transformers() -> None:
    """Keeps the notes and progress bars of transformers off stderr."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keeps the warnings of libraries off stderr."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    """Loads a sixth faster: Python's cycle collector finds nothing to free while modules load, but looks again and
    again. What they made stays for good, so it is not looked at later, either.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
