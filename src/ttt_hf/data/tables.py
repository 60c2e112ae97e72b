"""Text tables (JSONL, JSON, CSV, TSV), row by row: cells as they are written, every row named by file and line.

Nothing is inferred from a cell: `007`, `null`, `NA` and `True` in a CSV file are text, and JSON keeps its own types.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ..processing.fetching import TABLE, Access, is_address, short_name


TEXT_TABLES = (".jsonl", ".json", ".csv", ".tsv")
DELIMITERS = (",", ";", "\t")
# Longer cells are taken for a quote that is never closed.
MAX_CELL = 1 << 24
# Rows that an error lists; the others are counted.
MAX_LISTED = 20


@dataclass(frozen=True)
class Reach:
    """Which recordings the rows of a table may name; by default any.

    Args:
        access: What is read on their behalf.
        roots: Folders that files have to be in; empty where there is no such limit.
        absolute: Whether files that are named by an absolute path may be elsewhere, too.
    """

    access: Access = TABLE
    roots: tuple[Path, ...] = ()
    absolute: bool = False

    def check(self, source: Any, folder: Path | None) -> None:
        """Checks a recording, as `resolve_path` gives it, of a row whose relative paths start from `folder`.

        Raises:
            ValueError: If it may not be named.
        """
        if not self.roots or not isinstance(source, str) or is_address(source):
            return
        # By name: links in a folder lead where its owner wants them to.
        path = Path(os.path.abspath(source))
        if any(path.is_relative_to(root) for root in self.roots):
            return
        was_relative = not os.path.isabs(source) or (
            folder is not None and source.startswith(os.path.join(folder, ""))
        )
        if was_relative or not self.absolute:
            raise ValueError(
                f"{short_name(source)} is not in the folder of these data, which may not name other files: copy it "
                "there, or allow it (allow_private=True, encode: --allow-private)."
            )


ANYWHERE = Reach()


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    Args:
        origin: File and line, from 1, as messages name it.
        folder: Folder that relative paths of audio start from; `None` where they start from the working directory.
        cells: Column -> cell, text without leading and trailing blanks; `None` for an empty cell of a CSV file.
        error: Why the row cannot be read; then it has no cells.
        reach: Which recordings it may name.
    """

    origin: str
    folder: Path | None
    cells: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    reach: Reach = ANYWHERE


def read_table(path: Path, file: BinaryIO, folder: Path | None = None) -> Iterator[TableRow]:
    """Reads a text table.

    Args:
        path: Its path, whose suffix says which kind it is.
        file: Its content.
        folder: Folder that relative paths of audio start from; by default that of the table.

    Yields:
        Its rows. Those that cannot be read carry an `error`, so that all of them can be listed at once.

    Raises:
        ValueError: If the file as such cannot be read: it is not text, not closed, or its header is ambiguous.
    """
    lines = text_lines(path, file)
    kinds = {".jsonl": _jsonl_rows, ".json": _json_rows}
    yield from kinds.get(path.suffix.lower(), _csv_rows)(path, lines, path.parent if folder is None else folder)


def clean_cells(cells: Mapping[str, Any]) -> dict[str, Any]:
    """Strips leading and trailing blanks of the text cells."""
    return {name: cell.strip() if isinstance(cell, str) else cell for name, cell in cells.items()}


def find_column(columns: Iterable[str], name: str) -> str | None:
    """Finds a column by its name: as it is written, or else without regard to case and surrounding blanks.

    Returns:
        The name as the table has it; `None` where there is no such column.
    """
    columns = list(columns)
    folded = name.strip().casefold()
    return name if name in columns else next((c for c in columns if c.strip().casefold() == folded), None)


def resolve_path(path: str, folder: Path | None) -> str:
    r"""Resolves the path of an audio file in a cell.

    Args:
        path: Path or URL; `~` is the home directory, and `clips\a.wav` is `clips/a.wav` where no file has a name with
            a backslash.
        folder: Folder that relative paths start from.

    Returns:
        Path, also of a `file:` address, or another address as it is.
    """
    if is_address(path):
        is_file = path[:5].casefold() == "file:" and urlsplit(path).netloc.casefold() in ("", "localhost")
        return url2pathname(urlsplit(path).path) if is_file else path
    path = os.path.expanduser(path)
    # A backslash may be part of a name, too: the path is tried as it is written first.
    candidates = [path, path.replace("\\", "/")] if "\\" in path else [path]
    resolved = [os.path.join(folder or "", candidate) for candidate in candidates]
    return next((candidate for candidate in resolved[:-1] if os.path.exists(candidate)), resolved[-1])


def list_problems(problems: Sequence[str]) -> str:
    """Lists what is wrong with rows: the first 20 in full, the others as a number, without a full stop."""
    listed = "; ".join(problem.rstrip(".") for problem in problems[:MAX_LISTED])
    more = len(problems) - MAX_LISTED
    return f"{listed}; and {more} more" if more > 0 else listed


# -- kinds of files ---------------------------------------------------------------------------------------------------


def _jsonl_rows(path: Path, lines: Iterator[str], folder: Path) -> Iterator[TableRow]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        origin = f"{path}, line {number}"
        try:
            value = parse_json(line)
        except ValueError as error:
            yield TableRow(origin, folder, error=str(error))
            continue
        yield _object_row(origin, folder, value)


def _json_rows(path: Path, lines: Iterator[str], folder: Path) -> Iterator[TableRow]:
    text = "".join(lines)
    try:
        rows = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path} must hold a list of rows: put them into [ and ], or one a line into a .jsonl file.")
    for number, value in enumerate(rows, start=1):
        yield _object_row(f"{path}, row {number}", folder, value)


def parse_json(text: str) -> Any:
    """Parses JSON.

    Raises:
        ValueError: If it is none, in a sentence.
    """
    try:
        return json.loads(text)
    # Deeply nested JSON ends in a RecursionError.
    except (ValueError, RecursionError) as error:
        raise ValueError(f"This is not JSON ({error}).") from error


def _object_row(origin: str, folder: Path, value: Any) -> TableRow:
    if not isinstance(value, dict):
        return TableRow(origin, folder, error=f"A row is an object, not {type(value).__name__}.")
    return TableRow(origin, folder, clean_cells(value))


def _csv_rows(path: Path, lines: Iterator[str], folder: Path) -> Iterator[TableRow]:
    # The default limit, 128 KiB, is less than a cell with a list of codes may take.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL))
    # Blank lines before the header are kept for the reader, whose line numbers messages give.
    head = []
    for line in lines:
        head.append(line)
        if line.strip():
            break
    columns: list[str] = []
    first_line = 1
    try:
        delimiter = _delimiter(head[-1]) if head else ","
        # Strict: a quote that is never closed would swallow all rows that follow it.
        reader = csv.reader(chain(head, lines), delimiter=delimiter, strict=True)
        for cells in reader:
            # A row has several lines where quotes hold line breaks: messages give the first.
            origin, first_line = f"{path}, line {first_line}", reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = _header(path, cells)
            elif len(cells) > len(columns):
                yield TableRow(origin, folder, error=_too_many_cells(cells, columns, delimiter))
            else:
                # Columns without a name are ignored; cells that are missing at the end are absent, not empty.
                named = {name: cell.strip() or None for name, cell in zip(columns, cells) if name}
                yield TableRow(origin, folder, named)
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {first_line}: the quotes of this row cannot be read ({error}): put quotes around a text "
            'that holds some, and write each of those inside twice ("").'
        ) from error


def _delimiter(header: str) -> str:
    """The delimiter that divides the header into the most columns."""
    return max(DELIMITERS, key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter), [])))


def _header(path: Path, cells: Sequence[str]) -> list[str]:
    columns = [cell.strip() for cell in cells]
    seen: set[str] = set()
    for name in filter(None, columns):
        # Columns are found without regard to case, so these could not be told apart.
        if name.casefold() in seen:
            raise ValueError(f"{path} has two columns {name!r}: rename one of them.")
        seen.add(name.casefold())
    return columns


def _too_many_cells(cells: Sequence[str], columns: Sequence[str], delimiter: str) -> str:
    return (
        f"This row has {len(cells)} cells, but the header names {len(columns)}: put quotes around a text that holds "
        f"{delimiter!r}."
    )


# -- text -------------------------------------------------------------------------------------------------------------


def text_lines(path: Path, file: BinaryIO) -> Iterator[str]:
    """The lines of a text file: UTF-8 or UTF-16, with or without a byte order mark."""
    encoding = _encoding(file.read(4))
    file.seek(0)
    try:
        # Lines end where CSV ends them: other characters that Unicode calls line breaks are part of a text.
        for number, line in enumerate(io.TextIOWrapper(file, encoding=encoding, newline=""), start=1):
            if "\0" in line:
                raise ValueError(f"{path}, line {number} holds a NUL byte: the file is damaged, or is no text.")
            yield line
    except UnicodeDecodeError:
        raise ValueError(_not_text(path, encoding)) from None


def _encoding(head: bytes) -> str:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    # Tables start with an ASCII character, of which UTF-16 makes two bytes.
    if len(head) > 1 and 0 in head[:2]:
        return "utf-16-le" if head[1] == 0 else "utf-16-be"
    return "utf-8-sig"


def _not_text(path: Path, encoding: str) -> str:
    # The decoder reports positions in its buffer: the line is found in the complete content.
    content = path.read_bytes()
    try:
        content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].decode(encoding, errors="ignore").count("\n") + 1
        name = "UTF-8" if encoding == "utf-8-sig" else "UTF-16"
        return (
            f"{path}, line {line} is not {name} text (it may be in an older encoding such as cp1252): save the file "
            "as UTF-8."
        )
    return f"{path} changed while it was read: run the same command again."
