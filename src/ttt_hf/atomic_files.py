"""Files and folders that are written: looked at before the work begins, complete or not there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Lets a file appear under its name only when it is complete.

    Args:
        path: Its name; its folder exists.

    Yields:
        The name to write to, in the same folder. After an error the file at `path` is as it was.

    Raises:
        OSError: If it cannot be written, for example because there is no space left: names the file.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise OSError(
            f"{path} cannot be written ({error.strerror or error}): free some space, or choose another folder, and "
            "run the same command again."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def check_folder(folder: Path) -> None:
    """Checks that files can be written into a folder, before anything slow begins. Makes nothing.

    Args:
        folder: The folder; it need not exist.

    Raises:
        NotADirectoryError: If it is a file.
        PermissionError: If nothing can be written there.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: name a folder.")
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        # Trying is the only test that is right for every file system and user.
        with tempfile.NamedTemporaryFile(dir=place, prefix=".write-test."):
            pass
    except OSError as error:
        raise PermissionError(f"{folder} cannot be written ({error.strerror}): name another folder.") from error
