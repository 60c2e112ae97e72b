"""The samples of a task: questions and references at once, audio one by one. Nothing is dropped.

A recording that cannot be read comes out as a sample without audio and the sentence that says why, so that it stays in
the denominator. Everything else that is wrong with the data (missing, other columns, other number of samples, ids that
come twice) stops the run before a model is asked anything.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import soundfile

from ..processing.audio import read_audio
from .concepts import Sample, Task
from .task_tables import Table, open_table


# Rate that is recorded for a sample without audio.
NO_AUDIO_RATE = 16000


@dataclass(frozen=True)
class _Entry:
    """What is known of a sample without its audio."""

    id: str
    question: str
    references: tuple[str, ...]
    seconds: float | None


class Samples(Sequence[tuple[Sample, str | None]]):
    """The samples of a task, audio decoded when a sample is asked for.

    An element is the sample and, where its recording cannot be read, the sentence that says why; such a sample has no
    audio. Samples of written questions have none either, and no error.

    Args:
        task: The task.
        table: Its rows.
        entries: Id, question, references and duration of the rows that are used, in the table's order.

    Attributes:
        total: Samples of the whole data set, those beyond a limit included.
    """

    def __init__(self, task: Task, table: Table, entries: Sequence[_Entry]) -> None:
        self.task = task
        self.total = len(table)
        self._table = table
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        entry = self._entries[index]
        column = self.task.source.columns.get("audio")
        if column is None:
            return Sample(entry.id, None, NO_AUDIO_RATE, entry.question, entry.references), None
        try:
            waveform, rate = read_audio(*self._audio(range(len(self))[index]))
        except (OSError, ValueError, TypeError) as error:
            return Sample(entry.id, None, NO_AUDIO_RATE, entry.question, entry.references), str(error)
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
        known = self._entries[index].seconds
        if known is not None or "audio" not in self.task.source.columns:
            return known or 0.0
        try:
            source, rate = self._audio(index)
            if rate is not None:
                return len(source) / rate
            header = soundfile.info(io.BytesIO(source) if isinstance(source, bytes) else source)
        except (OSError, ValueError, TypeError, soundfile.LibsndfileError):
            return 0.0
        return header.frames / header.samplerate

    def _audio(self, index: int) -> tuple[Any, int | None]:
        return audio_cell(cell_of(self._table.rows[index], str(self.task.source.columns["audio"])), self._table.folder)


def load_samples(task: Task, limit: int | None = None) -> Samples:
    """Opens the samples of a task.

    Args:
        task: The task.
        limit: Takes the first so many; the whole set is checked in any case.

    Returns:
        The samples, in the order of the data.

    Raises:
        FileNotFoundError: If the data are not there; says how to get them.
        PermissionError: If the data set is gated.
        ValueError: If they cannot be read, have other columns or another number of samples than the task says, if an
            id comes twice, or if a reference is missing.
        ImportError: If they need `datasets`, which is not installed.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"The limit must be at least 1, not {limit}.")
    table = open_table(task)
    source = task.source
    _check_columns(task, table)
    if source.expected is not None and len(table) != source.expected:
        raise ValueError(
            f"{source.path} has {len(table)} samples, but task {task.name} has {source.expected}: use the whole set "
            f"in the version that the task names, or say expected={len(table)} if you mean another one."
        )
    rows = table.cells(sorted({_in_table(name, table) for name in _named(task, without="audio")}))
    entries = [_entry(task, row, number) for number, row in enumerate(rows)]
    _check_ids(task, entries)
    samples = Samples(task, table, entries[:limit])
    _check_recordings(samples)
    return samples


def audio_cell(cell: Any, folder: Path | None) -> tuple[Any, int | None]:
    """What a cell says about its recording.

    Args:
        cell: A path or URL, a file's bytes, or what `datasets` gives: `bytes` and `path`, or `array` and
            `sampling_rate`.
        folder: Where relative paths begin.

    Returns:
        What [`processing.audio.read_audio`] takes: path, URL, bytes or samples, and the rate of samples in Hz; a cell
        of another kind as it is, so that it is told there.
    """
    if isinstance(cell, Mapping):
        if cell.get("bytes") is not None:
            return cell["bytes"], None
        if cell.get("array") is not None:
            import numpy as np

            return np.asarray(cell["array"]), cell.get("sampling_rate")
        cell = cell.get("path")
    if cell is None or cell == "":
        raise ValueError("There is no recording in this row of the data.")
    if isinstance(cell, str) and "://" not in cell and folder is not None:
        return os.path.join(folder, cell), None
    return cell, None


def cell_of(row: Mapping[str, Any], column: str) -> Any:
    """A cell of a row.

    Args:
        row: The row.
        column: Name of the column; where there is none of that name, a dot leads into a cell.

    Returns:
        The cell; `None` where there is none.
    """
    if column in row or "." not in column:
        return row.get(column)
    first, rest = column.split(".", 1)
    inner = row.get(first)
    return cell_of(inner, rest) if isinstance(inner, Mapping) else None


# -- what is checked --------------------------------------------------------------------------------------------------


def _named(task: Task, without: str = "") -> list[str]:
    """Columns of the data that the task names."""
    names: list[str] = []
    for key, value in task.source.columns.items():
        if key != without:
            names += [value] if isinstance(value, str) else value
    return names


def _in_table(name: str, table: Table) -> str:
    return name if name in table.columns else name.split(".", 1)[0]


def _check_columns(task: Task, table: Table) -> None:
    for key, value in task.source.columns.items():
        for name in [value] if isinstance(value, str) else value:
            if _in_table(name, table) not in table.columns:
                raise ValueError(
                    f"{task.source.path} has no column {name!r}, which task {task.name} reads as {key}, but "
                    f"{', '.join(table.columns)}: name the right one with columns.{key}=NAME."
                )


def _entry(task: Task, row: Mapping[str, Any], number: int) -> _Entry:
    columns = task.source.columns
    where = f"Row {number + 1} of {task.source.path}"

    def text(key: str) -> str:
        value = cell_of(row, str(columns[key]))
        if not isinstance(value, (str, int)) or isinstance(value, bool):
            raise ValueError(_no_text(where, str(columns[key]), value))
        return str(value)

    seconds = cell_of(row, str(columns["seconds"])) if "seconds" in columns else None
    return _Entry(
        # Rows of a pinned data set do not change their places; seven digits keep them in order by name.
        id=text("id") if "id" in columns else f"{number:07d}",
        question=text("question") if "question" in columns else "",
        references=_references(row, columns.get("references", ()), task.source.separator, where),
        seconds=float(seconds) if isinstance(seconds, (int, float)) else None,
    )


def _no_text(where: str, column: str, value: Any) -> str:
    if value is None:
        return f"{where} has nothing in its column {column!r}: fill it in, or delete the row."
    return f"{where} has no text in its column {column!r}, but {value!r}: write it as a string."


def _references(
    row: Mapping[str, Any], columns: str | Sequence[str], separator: str | None, where: str
) -> tuple[str, ...]:
    found: list[str] = []
    for column in [columns] if isinstance(columns, str) else columns:
        value = cell_of(row, column)
        parts = value.split(separator) if separator and isinstance(value, str) else value
        for part in parts if isinstance(parts, list) else [parts]:
            if not isinstance(part, (str, int)) or isinstance(part, bool):
                raise ValueError(_no_text(where, column, part))
            found.append(str(part).strip())
    # An empty reference is one only where there is no other: a list that ends in its separator names nothing more.
    return tuple(dict.fromkeys(found if len(found) == 1 else [part for part in found if part]))


def _check_ids(task: Task, entries: Sequence[_Entry]) -> None:
    first: dict[str, int] = {}
    for number, entry in enumerate(entries, start=1):
        if not entry.id:
            raise ValueError(f"Row {number} of {task.source.path} has an empty id: fill it in.")
        if entry.id in first:
            raise ValueError(
                f"{task.source.path} has the id {entry.id!r} twice, in rows {first[entry.id]} and {number}: give each "
                "sample an id of its own, or name another column with columns.id=NAME."
            )
        first[entry.id] = number


def _check_recordings(samples: Samples) -> None:
    """One missing file is an error of one sample; where none is there, the folder is wrong."""
    if "audio" not in samples.task.source.columns:
        return
    missing = ""
    for index in range(len(samples)):
        try:
            source, _ = samples._audio(index)
        except ValueError:
            return
        if not isinstance(source, str) or "://" in source or os.path.exists(source):
            return
        missing = missing or source
    raise FileNotFoundError(
        f"None of the {len(samples)} recordings of task {samples.task.name} is there, such as {missing}: check where "
        "the audio of the data is."
    )
