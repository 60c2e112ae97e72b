"""Atomic writes: a file or folder appears under its name when it is complete, or not at all.

Everything is written under a temporary name beside the final one, unique to the process, and then renamed. After an
error or an interruption the temporary files are removed and what was there before is unchanged.

`lock_folder` keeps a second process out of a folder that takes longer to fill.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


# Errors of libraries whose writers do not raise an OSError, by name: importing them here would load numpy with every
# command.
WRITE_ERRORS = ("SafetensorError", "LibsndfileError")
LOCK_FILE = ".ttt-hf.lock"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Writes a file atomically.

    Args:
        path: The file; its folder exists.

    Yields:
        The path to write to. It does not exist yet, so that the file gets the permissions of any new file, and its
        suffix is not that of `path`: writers that go by the suffix need to be told the format.

    Raises:
        OSError: If it cannot be written, for example because there is no space left; names the file.
    """
    part = _temporary_path(path)
    try:
        with _clear_errors(path, part):
            yield part
            # Within the block that rewords errors, as renaming can fail, too.
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def atomic_write_text(path: Path, text: str) -> None:
    """Writes a text file atomically, in UTF-8; raises like `atomic_write`."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(folder: Path, replace: bool = False) -> Iterator[Path]:
    """Writes a new folder atomically.

    Args:
        folder: The folder; parents are made if missing.
        replace: Whether a folder of that name is replaced; otherwise only an empty one may be there.

    Yields:
        An empty folder to write to, on the same file system.

    Raises:
        OSError: If it cannot be written, for example because there is no space left; names the folder.
    """
    with _temporary_folder(folder, folder.parent) as part:
        yield part
        _use_default_permissions(part)
        if replace and folder.is_dir():
            # The old folder is moved aside first: it is deleted only when the new one is in place.
            old = _temporary_path(folder)
            folder.rename(old)
            part.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            if folder.is_dir():
                # The lock of this process, see `lock_folder`, or what a killed one left.
                (folder / LOCK_FILE).unlink(missing_ok=True)
                # Fails if something has been written into it meanwhile: nothing is lost.
                folder.rmdir()
            part.rename(folder)


@contextmanager
def atomic_update(folder: Path) -> Iterator[Path]:
    """Writes files into a folder once all of them are complete; other files in it stay.

    Args:
        folder: The folder; made if missing.

    Yields:
        An empty folder to write to, on the same file system. Its files and sub-folders are merged into `folder`.

    Raises:
        OSError: If they cannot be written, for example because there is no space left; names the folder.
    """
    with _temporary_folder(folder, folder) as part:
        yield part
        _use_default_permissions(part)
        # A list, since moving files while rglob walks the folder could make it skip some.
        for path in [path for path in part.rglob("*") if path.is_file()]:
            target = folder / path.relative_to(part)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)


@contextmanager
def lock_folder(folder: Path, wait: bool = False) -> Iterator[None]:
    """Keeps other processes from writing to a folder, for as long as the block runs or the process lives.

    It is not re-entrant: within the block, the same process cannot lock the folder again. Where the file system or the
    operating system has no locks, nothing is kept out, and nothing is said.

    Args:
        folder: The folder; made if missing, and removed in the end if it is still empty then.
        wait: Whether to wait for another process that has locked it.

    Raises:
        BlockingIOError: If another process has locked it, and it is not waited for.
        OSError: If nothing can be written there.
    """
    check_folder(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = _take_lock(folder, wait)
    try:
        yield
    finally:
        # Before the lock is given up, so that nobody else has locked the file yet. The folder may have been replaced
        # meanwhile, and the new one may be locked by another process.
        if _is_file(lock, folder / LOCK_FILE):
            (folder / LOCK_FILE).unlink(missing_ok=True)
        os.close(lock)
        for path in made:
            try:
                path.rmdir()
            except OSError:  # it is used
                break


def check_file(path: Path) -> None:
    """Checks that a file can be written, before anything slow begins.

    Args:
        path: The file; it may exist.

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
        _try_writing(folder)
    except OSError as error:
        raise PermissionError(f"{path} cannot be written: {error.strerror}.") from error


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
    try:
        # The folder need not exist: its nearest existing parent decides.
        _try_writing(next(path for path in (folder, *folder.absolute().parents) if path.exists()))
    except OSError as error:
        raise PermissionError(f"{folder} cannot be written ({error.strerror}): name another folder.") from error


def _try_writing(folder: Path) -> None:
    # Trying is the only test that is right for every file system and user.
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".write-test."):
        pass


def _take_lock(folder: Path, wait: bool) -> int:
    """Locks a folder by a file in it: locks of folders themselves do not work on NFS.

    Returns:
        Descriptor of the file; closing it gives the lock up, which the system does when the process dies.
    """
    while True:
        with _clear_errors(folder, folder / LOCK_FILE):
            lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(lock)
            raise BlockingIOError(
                f"Another process is writing to {folder}: wait until it is done, or name another folder."
            ) from None
        except (ImportError, OSError):  # Windows, or a file system without locks
            return lock
        # The process that had the lock may have deleted the file between opening and locking it.
        if _is_file(lock, folder / LOCK_FILE):
            return lock
        os.close(lock)


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _temporary_path(path: Path, folder: Path | None = None) -> Path:
    # A random part, so that processes that write the same file do not disturb each other.
    return (folder or path.parent) / f".{path.name}.{secrets.token_hex(4)}.part"


@contextmanager
def _temporary_folder(folder: Path, parent: Path) -> Iterator[Path]:
    """An empty folder in `parent`, removed in the end if it is still there."""
    part = _temporary_path(folder, parent)
    try:
        with _clear_errors(folder, part):
            # Here, not in the callers, so that errors in making it are reworded, too.
            part.mkdir(parents=True)
            yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _use_default_permissions(folder: Path) -> None:
    """Gives files the permissions of any new file: safetensors makes its files readable by their owner alone."""
    mode = folder.stat().st_mode & 0o666  # a new folder shows the umask, which cannot be read without setting it
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


@contextmanager
def _clear_errors(path: Path, part: Path) -> Iterator[None]:
    """Turns errors of the system in writing `part` into one sentence about `path`; others pass unchanged."""
    try:
        yield
    except OSError as error:
        # Raised with a message alone, like our own errors: it is clear already.
        is_sentence = error.errno is None
        files = [str(name) for name in (error.filename, error.filename2) if name is not None]
        # About another file, such as one that is read within the block: it names that file.
        is_elsewhere = bool(files) and not any(name == str(path) or name.startswith(str(part)) for name in files)
        if is_sentence or is_elsewhere or isinstance(error, ConnectionError):
            raise
        raise _write_error(path, error.strerror) from error
    except Exception as error:
        # Not from the system: errors of the caller's own code pass, whatever their type.
        if type(error).__name__ not in WRITE_ERRORS:
            raise
        raise _write_error(path, str(error).rstrip(".")) from error


def _write_error(path: Path, reason: object) -> OSError:
    return OSError(
        f"{path} cannot be written ({reason}): free some space, or choose another folder, and run the same command "
        "again."
    )
