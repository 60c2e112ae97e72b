"""The samples of a task: questions and references at once, audio one by one. None is dropped.

A recording that cannot be read, or a text that is no Unicode, becomes a sample without audio, with the sentence that
says why, so that it stays in the denominator. Everything else that is wrong with the data (missing files, columns or
references, another number of samples, repeated ids) stops the run before a model is asked anything.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..data.listing import report_left_out
from ..data.reading import Table, hub_errors, local_path, needs_datasets, open_table, require_datasets
from ..data.tables import TableRow, find_column, list_problems, resolve_path
from ..processing.audio import audio_seconds, read_audio
from ..processing.fetching import Access, is_address
from .concepts import DatasetSource, Sample, Task
from .redaction import encodable


# Rate that is recorded for a sample without audio.
NO_AUDIO_RATE = 16000

# A column as the data name it; the following names lead into its cell.
Column = tuple[str, ...]


@dataclass(frozen=True)
class _Entry:
    """A sample without its audio."""

    id: str
    question: str
    references: tuple[str, ...]
    seconds: float | None
    error: str | None = None


class Samples(Sequence[tuple[Sample, str | None]]):
    """The samples of a task; audio is decoded when a sample is asked for.

    An element is the sample and, where its recording cannot be read, the sentence that says why; such a sample has no
    audio. Samples of written questions have none either, and no error.

    Args:
        entries: Id, question, references and duration of the samples, in the order of the data.
        recordings: Their recordings; `None` for written questions.
        total: Samples of the full data set, including those beyond a limit.
        content: Hash of local data, which does not depend on where they are; `None` for a data set on the Hub.
    """

    def __init__(
        self, entries: Sequence[_Entry], recordings: _Recordings | None, total: int, content: str | None
    ) -> None:
        self.total = total
        self.content = content
        self._entries = entries
        self._recordings = recordings

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        entry = self._entries[index]
        # What a model gets if there is no recording, or one that cannot be read.
        silent = Sample(entry.id, None, NO_AUDIO_RATE, entry.question, entry.references)
        if entry.error is not None or self._recordings is None:
            return silent, entry.error
        try:
            # `range` maps negative indices; the recordings go on beyond the limit, where -1 would be another one.
            waveform, rate = read_audio(*self._recordings[range(len(self))[index]])
        # Whatever a recording does to the libraries that read it, it is an error of this sample alone.
        except Exception as error:
            return silent, str(error) or type(error).__name__
        return Sample(entry.id, waveform, rate, entry.question, entry.references), None

    def __iter__(self) -> Iterator[tuple[Sample, str | None]]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def ids(self) -> list[str]:
        """Ids of the samples, in order, without reading any audio."""
        return [entry.id for entry in self._entries]

    @cached_property
    def seconds(self) -> list[float]:
        """Durations in seconds, in order, for batches of similar length: from the data's own column or the headers of
        the recordings, which are not decoded; 0 for written questions and recordings that cannot be read.
        """
        return [self._seconds(index) for index in range(len(self))]

    def _seconds(self, index: int) -> float:
        # The data's own column is preferred: headers have to be read file by file.
        known = self._entries[index].seconds
        if known is not None or self._recordings is None:
            return known or 0.0
        try:
            source, rate, access = self._recordings[index]
            return audio_seconds(source, access) if rate is None else len(source) / rate
        # Only an order depends on it: the error itself is reported when the sample is asked for.
        except Exception:
            return 0.0


class _Recordings:
    """Where the recordings of samples are: cells of text tables, or a data set whose cells hold the audio itself."""

    def __init__(self, table: Table, rows: Sequence[TableRow], column: Column) -> None:
        # Only the column with audio: the text of all rows has been read already.
        self._dataset = table.dataset.select_columns([column[0]]) if table.dataset is not None else None
        self._rows = rows
        self._column = column

    def cell(self, index: int) -> tuple[Any, int | None]:
        """The recording as of `audio_cell`."""
        # Audio of a data set stays on disk until it is asked for: thousands of recordings do not fit into memory.
        cells = self._rows[index].cells if self._dataset is None else self._dataset[index]
        return audio_cell(_cell(cells, self._column), self._rows[index].folder)

    def __getitem__(self, index: int) -> tuple[Any, int | None, Access]:
        """What `read_audio` takes: path, URL, bytes or samples; the rate of samples in Hz; what may be read."""
        source, rate = self.cell(index)
        row = self._rows[index]
        row.reach.check(source, row.folder)
        return source, rate, row.reach.access

    def paths(self) -> Iterator[str]:
        """Paths of recordings in files of their own."""
        for row in self._rows:
            cell = _cell(row.cells, self._column)
            if isinstance(cell, str) and cell:
                yield resolve_path(cell, row.folder)


def load_samples(task: Task, limit: int | None = None) -> Samples:
    """Opens the samples of a task.

    Args:
        limit: Takes only the first samples; the complete set is checked in any case.

    Returns:
        The samples, in the order of the data.

    Raises:
        FileNotFoundError: If the data are not there; says how to get them.
        PermissionError: If the data set is gated.
        ValueError: If they cannot be read, have other columns or another number of samples than the task says, if an
            id comes twice, or if a reference is missing; lists such rows by file and line.
        ImportError: If they need `datasets`, which is not installed.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"The limit must be at least 1, not {limit}.")
    table = _open(task)
    # 1. Read the text of all rows, also of those beyond the limit, and hash local files on the way.
    digest = _ContentHash()
    # Audio in the cells of a data set is read sample by sample.
    rows = list(table.rows(None if table.dataset is None else _text_columns(task, table), digest.open))
    # 2. Check columns and size. An incomplete copy would give a number that looks like the benchmark's.
    columns = _find_columns(task, table, rows)
    expected = task.source.expected
    if expected is not None and len(rows) != expected:
        raise ValueError(
            f"{task.source.path} has {len(rows)} samples, but task {task.name} has {expected}: use the whole set "
            f"in the version that the task names, or say expected={len(rows)} if you mean another one."
        )
    # 3. Make the samples; all faulty rows are reported together.
    entries = _entries(rows, columns, task.source.separator)
    recordings = _Recordings(table, rows, columns["audio"][0]) if "audio" in columns else None
    # 4. Say which files are not used, and check that the recordings are where the data say.
    if table.listing is not None:
        is_text = table.dataset is None and recordings is not None
        report_left_out(table.name, table.listing, recordings.paths() if is_text else None)
    if recordings is not None:
        _check_recordings(task, recordings, len(rows))
    # 5. A data set on the Hub is identified by its revision, local data only by their content.
    content = digest.of(table) if local_path(task.source.path) is not None else None
    return Samples(entries[:limit], recordings, len(rows), content)


def check_packages(source: DatasetSource) -> None:
    """Checks that the packages that open the data are installed, without opening them."""
    if source.path and needs_datasets(source.path):
        require_datasets()


def audio_cell(cell: Any, folder: Path | None) -> tuple[Any, int | None]:
    """Reads a cell of an audio column.

    Args:
        cell: A path or URL, the bytes of a file, or an `Audio` cell of `datasets`: `bytes` and `path`, or `array` and
            `sampling_rate`.
        folder: Folder that relative paths start from.

    Returns:
        Path, URL, bytes or samples, and the rate of samples in Hz; a cell of another type is returned unchanged, and
        `read_audio` says what is wrong with it.
    """
    # `datasets` fills `bytes` for embedded audio, `array` for decoded audio, and `path` otherwise.
    if isinstance(cell, Mapping):
        if cell.get("bytes") is not None:
            return cell["bytes"], None
        if cell.get("array") is not None:
            return np.asarray(cell["array"]), cell.get("sampling_rate")
        cell = cell.get("path")
    if cell is None or cell == "":
        raise ValueError("There is no recording in this row of the data.")
    return (resolve_path(cell, folder) if isinstance(cell, str) else cell), None


# -- opening ----------------------------------------------------------------------------------------------------------


def _open(task: Task) -> Table:
    source = task.source
    hint = f" ({source.hint})" if source.hint else ""
    if not source.path:
        raise FileNotFoundError(f"Task {task.name} needs data of your own: give them with path=FILE_OR_FOLDER{hint}.")
    path = local_path(source.path)
    missing = f"There is no file or folder {source.path} for task {task.name}"
    if path is not None and not path.exists():
        raise FileNotFoundError(f"{missing}: check path={hint}.")
    # Becomes the start of the error if the Hub does not have it either.
    subject = f"The data set {source.path} of task {task.name}"
    # A name without an organisation may be a Hub id, but is more often a misspelt folder.
    if "/" not in source.path:
        subject = f"{missing}, and the data set of that name"
    remedy = f"give a local copy with path=FOLDER{hint}"
    # A table beside a folder of audio: only these two are downloaded, and not the whole repository.
    if source.table and path is None:
        with hub_errors(source.path, subject, remedy):
            return _open_beside(_download(source), source)
    # The same layout in a local copy. A path to a file is the table itself, and falls through.
    if source.table and path is not None and path.is_dir():
        return _open_beside(path, source)
    return open_table(
        source.path,
        split=source.split,
        config=source.name,
        revision=source.revision,
        needs_split=False,
        subject=subject,
        remedy=remedy,
        allow_private=source.allow_private,
    )


def _download(source: DatasetSource) -> Path:
    """Downloads a table and the folder of its recordings from the Hub."""
    from huggingface_hub import snapshot_download

    table = str(source.table)
    audio = source.audio_folder or str(Path(table).parent)
    folder = snapshot_download(
        source.path, repo_type="dataset", revision=source.revision, allow_patterns=[table, f"{audio}/*"]
    )
    return Path(folder)


def _open_beside(folder: Path, source: DatasetSource) -> Table:
    file = folder / str(source.table)
    if not file.is_file():
        raise FileNotFoundError(f"There is no {source.table} in {folder}: path is the folder that holds it.")
    audio_folder = folder / source.audio_folder if source.audio_folder else None
    return open_table(file, audio_folder=audio_folder, allow_private=source.allow_private)


class _ContentHash:
    """Hashes the files of a table while they are read."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def open(self, path: Path) -> BinaryIO:
        # Hashed and parsed from one read, so that the hash is that of the rows that are scored.
        content = path.read_bytes()
        self._digest.update(path.name.encode())
        self._digest.update(content)
        return io.BytesIO(content)

    def of(self, table: Table) -> str:
        """The hash of a table that was read; Parquet files count by their sizes."""
        # Parquet files hold the audio, too: gigabytes, which are not read in full before every run.
        for file in table.files if table.dataset is not None else ():
            self._digest.update(file.name.encode())
            self._digest.update(str(file.stat().st_size).encode())
        return self._digest.hexdigest()


# -- columns ----------------------------------------------------------------------------------------------------------


def _named(task: Task) -> list[tuple[str, str]]:
    """Keys of the task's columns, and the names that they have in the data."""
    return [
        (key, name)
        for key, value in task.source.columns.items()
        for name in ([value] if isinstance(value, str) else value)
    ]


def _find(name: str, columns: Sequence[str]) -> Column | None:
    exact = find_column(columns, name)
    # A column whose own name has a dot takes precedence over a cell within a cell.
    if exact is not None or "." not in name:
        return None if exact is None else (exact,)
    first, rest = name.split(".", 1)
    outer = find_column(columns, first)
    return None if outer is None else (outer, *rest.split("."))


def _text_columns(task: Task, table: Table) -> list[str]:
    found = [_find(name, table.dataset.column_names) for key, name in _named(task) if key != "audio"]
    return sorted({column[0] for column in found if column is not None})


def _find_columns(task: Task, table: Table, rows: Sequence[TableRow]) -> dict[str, list[Column]]:
    names = table.dataset.column_names if table.dataset is not None else []
    # Rows of JSON need not have the same keys: a column exists if any row has it.
    names = names or list(dict.fromkeys(name for row in rows for name in row.cells))
    # No row could be read.
    if not names:
        raise ValueError(f"{list_problems([f'{row.origin}: {row.error}' for row in rows])}.")
    columns: dict[str, list[Column]] = {}
    for key, name in _named(task):
        column = _find(name, names)
        if column is None:
            raise ValueError(
                f"{task.source.path} has no column {name!r}, which task {task.name} reads as {key}, but "
                f"{', '.join(names)}: name the right one with columns.{key}=NAME."
            )
        columns.setdefault(key, []).append(column)
    return columns


def _cell(cells: Mapping[str, Any], column: Column) -> Any:
    # The tables of a folder may write the name of a column in different cases.
    outer = find_column(cells, column[0])
    value: Any = None if outer is None else cells[outer]
    for name in column[1:]:
        # A missing inner cell is an empty one, which is reported by row like any other.
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


# -- entries ----------------------------------------------------------------------------------------------------------


def _entries(rows: Sequence[TableRow], columns: Mapping[str, list[Column]], separator: str | None) -> list[_Entry]:
    """The samples without their audio; one error lists all rows that cannot be read."""
    entries: list[_Entry] = []
    problems: list[str] = []
    first: dict[str, str] = {}
    for number, row in enumerate(rows):
        # Collected and not raised, so that a file can be fixed in one go.
        if row.error is not None:
            problems.append(f"{row.origin}: {row.error}")
            continue
        try:
            entry = _entry(row, columns, separator, number)
        except ValueError as error:
            problems.append(str(error))
            continue
        if entry.id in first:
            problems.append(
                f"{row.origin} has the id {entry.id!r}, as has {first[entry.id]}: give each sample an id of its own, "
                "or name another column with columns.id=NAME"
            )
        # The first row keeps the id, so that all later ones are reported against it.
        first.setdefault(entry.id, row.origin)
        entries.append(entry)
    if problems:
        raise ValueError(f"{list_problems(problems)}.")
    return entries


def _entry(row: TableRow, columns: Mapping[str, list[Column]], separator: str | None, number: int) -> _Entry:
    question = _cell(row.cells, columns["question"][0]) if "question" in columns else ""
    named = columns.get("references", ())
    # Where references have several columns, a row need not fill all of them.
    given = [column for column in named if _cell(row.cells, column) is not None] or named[:1]
    references = [reference for column in given for reference in _references(row, column, separator)]
    # An empty reference is one only where there is no other: a list that ends in its separator names nothing more.
    filled = references if len(references) == 1 else [reference for reference in references if reference]
    entry = _Entry(
        # Rows of a pinned data set do not change their order; seven digits sort like numbers.
        id=_id(row, columns["id"][0]) if "id" in columns else f"{number:07d}",
        question=_text(row, columns["question"][0], question) if "question" in columns else "",
        # Duplicates are dropped in order: a judge is shown the list.
        references=tuple(dict.fromkeys(filled)),
        seconds=_number(_cell(row.cells, columns["seconds"][0])) if "seconds" in columns else None,
    )
    clean = replace(
        entry,
        id=encodable(entry.id),
        question=encodable(entry.question),
        references=tuple(map(encodable, entry.references)),
        error=f"{row.origin} holds broken Unicode, half of a surrogate pair: correct its text.",
    )
    return entry if replace(clean, error=None) == entry else clean


def _id(row: TableRow, column: Column) -> str:
    value = _cell(row.cells, column)
    # `True` is an `int` in Python, but no id.
    is_number = isinstance(value, int) and not isinstance(value, bool)
    text = str(value) if is_number else _text(row, column, value)
    if not text:
        raise ValueError(f"{row.origin} has an empty id: fill it in.")
    return text


def _references(row: TableRow, column: Column, separator: str | None) -> list[str]:
    value = _cell(row.cells, column)
    parts = value.split(separator) if separator and isinstance(value, str) else value
    return [_text(row, column, part) for part in (parts if isinstance(parts, list) else [parts])]


def _text(row: TableRow, column: Column, value: Any) -> str:
    name = ".".join(column)
    if value is None:
        raise ValueError(f"{row.origin} has nothing in its column {name!r}: fill it in, or delete the row.")
    if not isinstance(value, str):
        raise ValueError(f"{row.origin} has no text in its column {name!r}, but {value!r}: write it as a string.")
    return value.strip()


def _number(value: Any) -> float | None:
    try:
        # A duration only sorts the samples into batches: a wrong one counts as unknown.
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _check_recordings(task: Task, recordings: _Recordings, count: int) -> None:
    """One missing file or empty cell is an error of one sample; where all are, the folder or the column is wrong."""
    missing: list[str] = []
    refused: list[str] = []
    for index in range(count):
        try:
            source, _ = recordings.cell(index)
        except Exception:
            # No recording in this row, which says nothing about the files of the others.
            continue
        # Embedded audio and URLs cannot be missing files, and one file that exists shows that the folder is right.
        if not isinstance(source, str) or is_address(source):
            return
        try:
            recordings[index]
        except ValueError as error:
            refused.append(str(error))
            continue
        if os.path.exists(source):
            return
        missing.append(source)
    if refused and not missing:
        raise ValueError(f"None of the recordings of task {task.name} may be read: {refused[0]}")
    if not missing:
        raise ValueError(
            f"{task.source.path} has no recording in any of its {count} rows, in the column that task {task.name} "
            "reads as audio: name the right one with columns.audio=NAME."
        )
    raise FileNotFoundError(
        f"None of the {len(missing)} recordings of task {task.name} is there, such as {missing[0]}: check where "
        "the audio of the data is."
    )
