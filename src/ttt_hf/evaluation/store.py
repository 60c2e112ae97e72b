"""JSONL files that are only appended to, so that what a stage has done is never lost.

Each line has an `id` and a `fingerprint` of all that it depends on. A line that exists is not made again; lines with
other fingerprints stay and are ignored; of two lines with the same id and fingerprint the later one counts. A process
that is killed leaves at most an incomplete last line, which is ignored.

Several processes write several files: the first one `predictions.jsonl`, the others `predictions.part-1.jsonl` and so
on, which are read together with it and merged into it at the end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ..atomic_files import atomic_write_text
from .layouts import check_layout, parse_json
from .redaction import encodable, without_secrets


JsonLine = dict[str, Any]


def digest(value: Any) -> str:
    """Hashes anything that JSON can hold; the order of keys does not matter.

    Returns:
        16 hexadecimal digits.
    """
    # `default=str` for values such as paths. 64 bits of the hash are enough to tell runs apart.
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class JsonLinesFile:
    """Appends lines to a file, or to this process's part of it. Use it as a context manager, within the folder's lock:
    the incomplete line of another process that is still writing would be cut.

    Args:
        path: The file; its folder exists.
        rank: Number of this process; all but the first write to parts.

    Raises:
        OSError: If it cannot be written.
    """

    def __init__(self, path: Path, rank: int = 0) -> None:
        self.path = path if rank == 0 else path.with_name(f"{path.stem}.part-{rank}{path.suffix}")

    def __enter__(self) -> JsonLinesFile:
        # A pipe would wait for a reader for ever.
        if self.path.exists() and not self.path.is_file():
            raise OSError(f"{self.path} is no file: delete it and run the same command again.")
        # Unbuffered: after a failed write, nothing is left in a buffer to be written again on closing.
        self._file = self.path.open("ab", buffering=0)
        try:
            # A killed process may have left an incomplete line; the next one must not be appended to it.
            self._file.truncate(_complete_length(self.path))
        except OSError:
            self._file.close()
            raise
        return self

    def append(self, lines: Iterable[JsonLine]) -> None:
        """Writes lines together."""
        # One string, so that a line that cannot be written as JSON leaves none of the others behind.
        text = encodable("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)).encode()
        try:
            while text:
                # An unbuffered write may take only a part of the bytes.
                text = text[self._file.write(text) :]
        except OSError as error:
            raise OSError(
                f"{self.path} cannot be written ({error.strerror or error}): free some space and run the same command "
                "again; what is there stays."
            ) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()


def read_lines(path: Path) -> Iterator[JsonLine]:
    """Reads all complete lines of a file and of its parts, in the order in which they were written.

    Args:
        path: The file; it need not exist.
    """
    for file in (path, *_parts(path)):
        if not file.is_file():
            continue
        # In binary: a killed process may have left half a character, which cannot be decoded.
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                # Only the last line can be incomplete: it was cut while it was written.
                if line.endswith(b"\n") and line.strip():
                    yield _parse(line, file, number)


def latest_lines(path: Path, fingerprint: str | None = None) -> dict[str, JsonLine]:
    """Reads the latest line of each id.

    Args:
        path: The file; it need not exist.
        fingerprint: If given, lines with other fingerprints are ignored.

    Returns:
        Id -> line, in the order in which the ids appeared first.
    """
    # A dict keeps the position of the first line of an id and the content of the last.
    return {line["id"]: line for line in read_lines(path) if fingerprint in (None, line.get("fingerprint"))}


def merge_parts(path: Path) -> None:
    """Moves the lines of all parts into the file. Interrupted, it leaves some lines twice, which is harmless."""
    for part in _parts(path):
        with JsonLinesFile(path) as file:
            file.append(read_lines(part))
        # Only now: an interruption before this leaves the lines in both files, and none is lost.
        part.unlink()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file atomically, without secrets."""
    text = json.dumps(without_secrets(content), indent=2, ensure_ascii=False, allow_nan=False)
    atomic_write_text(path, encodable(text) + "\n")


def _complete_length(path: Path) -> int:
    """Number of bytes up to the end of the last complete line."""
    with path.open("rb") as file:
        # Backwards in blocks: files may be long, and the last line break is near the end.
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


def _parse(text: bytes, path: Path, number: int) -> JsonLine:
    try:
        line = parse_json(text)
        if not (isinstance(line, dict) and isinstance(line.get("id"), str)):
            raise ValueError("it has no id")
        check_layout(path.name, line)
    except ValueError as error:
        raise ValueError(
            f"{path}, line {number} is damaged ({error}): delete that line and run the same command again."
        ) from None
    return line
