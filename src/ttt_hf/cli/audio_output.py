"""Files that the command line writes: checked before the work begins, complete or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile


class WavFile:
    """A 16 bit WAV file that appears under its name only when it is complete.

    Use it as a context manager; an error inside leaves nothing behind, and a file of that name as it was.

    Args:
        path: Its name.
        sampling_rate: Rate in Hz.
    """

    def __init__(self, path: Path, sampling_rate: int) -> None:
        self.path = path
        self.sampling_rate = sampling_rate
        self.samples = 0

    def __enter__(self) -> WavFile:
        descriptor, name = tempfile.mkstemp(prefix=f".{self.path.name}.", suffix=".part", dir=self.path.parent)
        os.close(descriptor)
        self._part = Path(name)
        self._file = soundfile.SoundFile(name, "w", self.sampling_rate, 1, subtype="PCM_16", format="WAV")
        return self

    def write(self, samples: np.ndarray) -> None:
        """Appends float samples of shape `(n,)`; what lies outside of [-1, 1] is clipped."""
        try:
            self._file.write(np.clip(samples, -1.0, 1.0))
        except soundfile.LibsndfileError as error:
            raise OSError(f"{self.path} cannot be written: {error.error_string}") from error
        self.samples += len(samples)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None:
            # mkstemp makes files for the owner alone; a new file's usual permissions are those of the umask.
            umask = os.umask(0)
            os.umask(umask)
            self._part.chmod(0o666 & ~umask)
            self._part.replace(self.path)
        else:
            self._part.unlink(missing_ok=True)


def check_output(path: Path) -> None:
    """Checks that a file can be written, before anything slow begins.

    Args:
        path: Its name; a file of that name may exist.

    Raises:
        OSError: If its folder is missing, or is not a folder, or nothing can be written there.
    """
    folder = path.parent
    if not folder.exists():
        raise FileNotFoundError(f"The folder {folder} for {path.name} does not exist: make it first.")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder: {path.name} cannot be written there.")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file.")
    try:
        # Trying is the only test that is right for every file system and user.
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise PermissionError(f"{path} cannot be written: {error.strerror}.") from error
