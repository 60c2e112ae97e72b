"""JSONL files that only grow: what a stage has done stays done, whatever happens to the process.

Each row has an `id` and a `fingerprint` of all that decides it. A row that is there is not made again; rows of other
fingerprints stay and are ignored; of two rows of the same id and fingerprint the later one counts. A process that is
killed leaves at most half a line, which is no row.

Several processes write several files: the first one `predictions.jsonl`, the others `predictions.part-1.jsonl` and so
on, which are read together with it and moved into it at the end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ..atomic_files import atomic_write_text


JsonLine = dict[str, Any]


def digest(value: Any) -> str:
    """A fingerprint.

    Args:
        value: Anything that JSON can hold; the order of keys does not matter.

    Returns:
        16 hexadecimal digits, the same for equal values.
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class JsonLinesFile:
    """Appends rows to a file of one's own. Use it as a context manager.

    Args:
        path: The file that the rows belong to; its folder exists.
        rank: Number of this process; any but the first writes into a part.

    Raises:
        OSError: If it cannot be written, or another process is writing to it.
    """

    def __init__(self, path: Path, rank: int = 0) -> None:
        self.path = path if rank == 0 else path.with_name(f"{path.stem}.part-{rank}{path.suffix}")

    def __enter__(self) -> JsonLinesFile:
        # Without a buffer, so that what could not be written is not tried once more at the end.
        self._file = self.path.open("ab", buffering=0)
        try:
            self._lock()
            # What a killed process wrote last may be half a row; the next one must not be glued to it.
            self._file.truncate(_complete_length(self.path))
        except OSError:
            self._file.close()
            raise
        return self

    def append(self, rows: Iterable[JsonLine]) -> None:
        """Adds rows, together."""
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        try:
            while lines:
                lines = lines[self._file.write(lines) :]
        except OSError as error:
            raise OSError(
                f"{self.path} cannot be written ({error.strerror or error}): free some space and run the same command "
                "again; what is there stays."
            ) from error

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows: whoever starts a run twice there has to notice it
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"Another process is writing {self.path}: wait until it is done, or name another folder."
            ) from None
        except OSError:
            return  # a file system without locks

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()


def read_lines(path: Path) -> Iterator[JsonLine]:
    """All rows of a file and of its parts, in the order they were written. Half a line at an end is left out.

    Args:
        path: The file; it need not exist.

    Yields:
        The rows.

    Raises:
        ValueError: If a whole line is damaged: names file and line.
    """
    for file in (path, *_parts(path)):
        if not file.is_file():
            continue
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.endswith(b"\n") and line.strip():
                    yield _parse(line, file, number)


def latest_lines(path: Path, fingerprint: str | None = None) -> dict[str, JsonLine]:
    """The row that counts of each id.

    Args:
        path: The file; it need not exist.
        fingerprint: Rows of others are left out.

    Returns:
        Rows by id, in the order in which the ids came first.
    """
    return {row["id"]: row for row in read_lines(path) if fingerprint in (None, row.get("fingerprint"))}


def merge_parts(path: Path) -> None:
    """Moves the rows of all parts into the file. Killed in between, it leaves rows twice, which harms nothing.

    Args:
        path: The file.
    """
    for part in _parts(path):
        with JsonLinesFile(path) as file:
            file.append(read_lines(part))
        part.unlink()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file, whole or not at all. What is no number (NaN) becomes null.

    Args:
        path: Its name; its folder exists.
        content: What it shall hold.
    """
    atomic_write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _complete_length(path: Path) -> int:
    """Bytes up to the end of the last whole line."""
    with path.open("rb") as file:
        position = file.seek(0, 2)
        while position > 0:
            start = max(0, position - 65536)
            file.seek(start)
            end = file.read(position - start).rfind(b"\n")
            if end >= 0:
                return start + end + 1
            position = start
    return 0


def _parts(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.stem}.part-*{path.suffix}"))


def _parse(line: bytes, path: Path, number: int) -> JsonLine:
    try:
        row = json.loads(line)
        if isinstance(row, dict) and isinstance(row.get("id"), str):
            return row
    except ValueError:
        pass
    raise ValueError(f"{path}, line {number} is damaged: delete that line and run the same command again.")
