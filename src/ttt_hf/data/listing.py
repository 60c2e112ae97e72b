"""Folders of data: which of their files hold the rows, and what is left out. Names of files decide nothing.

Splits are folders named exactly `train`, `validation` and `test` at the top, where all data lie in such folders.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Protocol

from .tables import TEXT_TABLES, TableRow, clean_cells, find_column, read_table, text_lines


logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
METADATA_FILES = ("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet")
# What libsndfile and PyAV read.
AUDIO_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".m4a", ".mp4", ".aac",
    ".webm", ".wma", ".amr",
)  # fmt: skip
TABLE_SUFFIXES = (*TEXT_TABLES, ".parquet")
READABLE = "JSONL, JSON, Parquet and CSV (or TSV) files can be read, and folders of audio files"
# Names of the transcripts beside a Kaldi `wav.scp`; AISHELL-2 has the second.
KALDI_AUDIO = "wav.scp"
KALDI_TEXTS = ("text", "trans.txt")
FILE_NAME = "file_name"
# Their names alone take a gigabyte of memory.
MAX_FILES = 2_000_000


class OpenFile(Protocol):
    """Opens a file for reading; evaluation hashes the content on the way."""

    def __call__(self, path: Path) -> BinaryIO: ...


@dataclass(frozen=True)
class FolderFiles:
    """The files of a folder by what they are.

    Args:
        path: The folder, or that of the chosen split.
        tables: Files that hold the rows: metadata, tables of one kind, or a Kaldi `wav.scp` and its transcripts. Empty
            for a folder of audio alone.
        audio: Audio files.
        left_out: What is not read, in words.
    """

    path: Path
    tables: tuple[Path, ...]
    audio: tuple[Path, ...]
    left_out: tuple[str, ...]

    @property
    def has_metadata(self) -> bool:
        """Whether the rows are those of metadata files."""
        return any(is_metadata(path) for path in self.tables)

    @property
    def is_parquet(self) -> bool:
        """Whether the rows are in Parquet files."""
        return any(path.suffix.lower() == ".parquet" for path in self.tables)


def is_metadata(path: Path) -> bool:
    """Whether a file describes the audio files below its folder."""
    return path.name.lower() in METADATA_FILES


def list_folder(folder: Path, split: str | None, needs_split: bool) -> FolderFiles:
    """Finds the files of a folder that hold its rows.

    Args:
        split: Name of the split; by default `train` where the folder has splits.
        needs_split: Whether another split than `train` of a folder without splits is an error. Otherwise all of such a
            folder is taken.

    Raises:
        ValueError: If there is nothing to read, or too much, or no such split, or files contradict each other.
    """
    files = walk_files(folder)
    data = [path for path in files if _is_data(path)]
    # Split folders count only where all data are in them: beside other data, `test` is any folder.
    tops = {path.relative_to(folder).parts[0] if path.parent != folder else "" for path in data}
    splits = [name for name in SPLITS if name in tops] if tops and tops <= set(SPLITS) else []
    if splits:
        split = split or "train"
        if split not in splits:
            raise ValueError(f"{folder} has no split {split}, but {splits}: choose one of them.")
        inner = folder / split
        found = _classify(inner, [path for path in files if inner in path.parents])
        counts = {name: sum(folder / name in path.parents for path in data) for name in splits if name != split}
        notes = [f"split {name} ({_count(count, 'file')})" for name, count in counts.items()]
        return replace(found, left_out=(*found.left_out, *notes))
    if needs_split and split not in (None, "train"):
        raise ValueError(f"{folder} has no split {split}, but ['train']: leave the split out.")
    return _classify(folder, files)


def read_folder(files: FolderFiles, open_file: OpenFile) -> Iterator[TableRow]:
    """Reads the rows of a folder that has no Parquet files.

    Args:
        files: As `list_folder` gives them.
        open_file: Opens the tables.

    Yields:
        Rows; those of metadata name their recording in the column `audio`.

    Raises:
        ValueError: If a table cannot be read.
    """
    if not files.tables:
        for path in files.audio:
            yield TableRow(str(path), None, {"audio": str(path)})
    elif files.tables[0].name == KALDI_AUDIO:
        yield from _read_kaldi(files.tables, open_file)
    else:
        for path in files.tables:
            with open_file(path) as file:
                rows = read_table(path, file)
                yield from _read_metadata(path, rows) if files.has_metadata else rows


def report_left_out(name: str, files: FolderFiles, used: Iterable[str] | None) -> None:
    """Logs what of a folder is not read.

    Args:
        name: What the data are called.
        used: Paths of audio that the rows name; `None` where that is not known yet.
    """
    notes = list(files.left_out)
    if files.tables and files.audio and used is not None:
        # The same file may be written `a.wav` and `./a.wav`.
        named = {os.path.normpath(path) for path in used}
        unused = sum(os.path.normpath(path) not in named for path in files.audio)
        if unused:
            where = files.tables[0].name if len(files.tables) == 1 else "the tables"
            notes.append(f"{_count(unused, 'audio file')} without a row in {where}")
    if notes:
        logger.warning("%s: left out: %s", name, "; ".join(notes))


# -- files ------------------------------------------------------------------------------------------------------------


def walk_files(folder: Path) -> list[Path]:
    """All files below a folder but hidden ones, in order.

    Raises:
        ValueError: If the whole file system or more than `MAX_FILES` files lie below it.
    """
    found: list[Path] = []
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        # A link may lead back to a folder that contains it.
        is_new = (real := os.path.realpath(parent)) not in seen
        seen.add(real)
        if real == os.path.dirname(real):
            raise ValueError(f"{parent} is the root of the file system: name the folder of the data.")
        # In place: `os.walk` goes on with what is left in this list.
        folders[:] = [name for name in folders if is_new and not name.startswith(".")]
        found += [Path(parent, name) for name in names if is_new and not name.startswith(".")]
        if len(found) > MAX_FILES:
            raise ValueError(
                f"{folder} has more than {MAX_FILES:,} files: name the folder of the data, or a table of it."
            )
    return sorted(found)


def _is_data(path: Path) -> bool:
    return path.suffix.lower() in (*TABLE_SUFFIXES, *AUDIO_SUFFIXES) or path.name == KALDI_AUDIO


def _classify(folder: Path, files: Sequence[Path]) -> FolderFiles:
    audio = [path for path in files if path.suffix.lower() in AUDIO_SUFFIXES]
    tables = [path for path in files if path.suffix.lower() in TABLE_SUFFIXES]
    metadata = [path for path in tables if is_metadata(path)]
    kaldi = [folder / name for name in (KALDI_AUDIO, *KALDI_TEXTS) if (folder / name).is_file()]
    if kaldi and kaldi[0].name == KALDI_AUDIO:
        if len(kaldi) < 2:
            raise ValueError(f"{folder} has a wav.scp, but no transcripts beside it: {' or '.join(KALDI_TEXTS)}.")
        # Where both names of transcripts are there, the first counts.
        chosen = kaldi[:2]
    else:
        _check_metadata(metadata)
        # Beside metadata, other tables are extra material and are reported as left out.
        chosen = metadata or tables
        kinds = {path.suffix.lower() for path in chosen}
        # Metadata of subfolders may be text tables of several kinds.
        if len(kinds) > 1 and (not metadata or ".parquet" in kinds):
            raise ValueError(f"{folder} holds files of several types ({', '.join(sorted(kinds))}): name one file.")
    if not chosen and not audio:
        raise ValueError(f"{folder} holds no data that can be read: {READABLE}.")
    read = {*chosen, *audio}
    left_out = [path for path in files if path not in read]
    kinds_left = Counter(path.suffix.lower() or path.name for path in left_out)
    notes = [f"{_count(count, 'file')} ({kind})" for kind, count in sorted(kinds_left.items())]
    return FolderFiles(folder, tuple(chosen), tuple(audio), tuple(notes))


def _check_metadata(files: Sequence[Path]) -> None:
    for folder, count in Counter(path.parent for path in files).items():
        # Both would describe the same recordings, and rows would come twice.
        if count > 1:
            names = " and ".join(path.name for path in files if path.parent == folder)
            raise ValueError(f"{folder} has {names}: delete all but one.")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# -- rows -------------------------------------------------------------------------------------------------------------


def _read_metadata(path: Path, rows: Iterator[TableRow]) -> Iterator[TableRow]:
    """Rows of metadata: `file_name` becomes the column `audio`, `answer_audio_file_name` the column `answer_audio`."""
    is_empty = True
    for row in rows:
        is_empty = False
        if row.error is None and not _names_audio(row):
            yield replace(row, cells={}, error=f"This row has no {FILE_NAME}: give it one.")
        else:
            yield replace(row, cells={audio_column(name): cell for name, cell in row.cells.items()})
    if is_empty:
        raise ValueError(f"{path} is empty: give it a row for each audio file, with its {FILE_NAME}.")


def _names_audio(row: TableRow) -> bool:
    name = find_column(row.cells, FILE_NAME)
    if name is not None:
        return bool(row.cells[name])
    # Rows may name several recordings instead: `question_audio`, `answer_audio_file_name`.
    return any("audio" in column.casefold() or column.casefold().endswith(f"_{FILE_NAME}") for column in row.cells)


def audio_column(name: str) -> str:
    """The name of a column of metadata as other tables have it: `audio` for `file_name`."""
    folded = name.strip().casefold()
    if folded == FILE_NAME:
        return "audio"
    return folded.removesuffix(f"_{FILE_NAME}") if folded.endswith(f"_{FILE_NAME}") else name


def _read_kaldi(files: Sequence[Path], open_file: OpenFile) -> Iterator[TableRow]:
    """Rows of a Kaldi folder: an id, and the rest of the line, in two files."""
    paths, texts = (_read_pairs(file, open_file) for file in files)
    unused = len(texts.keys() - paths.keys())
    if unused:
        logger.warning("%s: left out: %s without a recording", files[1], _count(unused, "transcript"))
    for name, (line, path) in paths.items():
        origin, folder = f"{files[0]}, line {line}", files[0].parent
        if name not in texts:
            yield TableRow(origin, folder, error=f"{files[1].name} has no transcript of {name}.")
        # Kaldi runs such a command and reads its output: that would execute code from the data.
        elif path.endswith("|"):
            yield TableRow(origin, folder, error="This is a command, and commands are not run: name an audio file.")
        else:
            yield TableRow(origin, folder, clean_cells({"id": name, "audio": path, "text": texts[name][1]}))


def _read_pairs(path: Path, open_file: OpenFile) -> dict[str, tuple[int, str]]:
    pairs: dict[str, tuple[int, str]] = {}
    with open_file(path) as file:
        for number, line in enumerate(text_lines(path, file), start=1):
            # The rest of the line is one path or text, which may hold blanks.
            words = line.split(maxsplit=1)
            if not words:
                continue
            if words[0] in pairs:
                raise ValueError(f"{path} has two lines for {words[0]}: delete one.")
            pairs[words[0]] = number, words[1].strip() if len(words) > 1 else ""
    return pairs
