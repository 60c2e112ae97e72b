"""Writes spoken answers as WAV files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile

from ..atomic_files import atomic_write


@contextmanager
def wav_writer(path: Path, sampling_rate: int) -> Iterator[Callable[[np.ndarray], None]]:
    """Writes a 16-bit mono WAV file atomically, piece by piece.

    Args:
        path: The file; its folder exists.
        sampling_rate: Rate in Hz.

    Yields:
        A function that appends float samples of shape `(n,)`, clipped to [-1, 1].
    """
    with (
        atomic_write(path) as part,
        soundfile.SoundFile(part, "w", sampling_rate, 1, subtype="PCM_16", format="WAV") as file,
    ):
        # The header's length is corrected on closing, so that the number of pieces need not be known.
        yield lambda samples: file.write(np.clip(samples, -1.0, 1.0))
