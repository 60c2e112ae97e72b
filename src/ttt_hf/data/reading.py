"""The one reader of users' data, for training and evaluation alike: files, folders, Hub data sets and copies of them.

Text tables and folders of audio are read here, row by row (`tables`, `listing`); Parquet and the Hub go through
`datasets`, which needs the extra `train`.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from glob import escape
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

from ..overrides import PlainLoader
from ..processing.fetching import Access
from .listing import (
    READABLE,
    TABLE_SUFFIXES,
    FolderFiles,
    OpenFile,
    audio_column,
    list_folder,
    read_folder,
    walk_files,
)
from .tables import ANYWHERE, Reach, TableRow, clean_cells, read_table


# What is read on behalf of rows, unless the caller allows more.
DATA = Access(private_addresses=False, pipes=False)


def open_binary(path: Path) -> BinaryIO:
    """Opens a file for reading."""
    return path.open("rb")


@dataclass(frozen=True)
class Table:
    """Opened data: rows that are read when they are asked for, or a data set of `datasets`.

    Args:
        name: What messages call the data.
        files: Local files that decide the rows.
        folder: Folder that relative paths of audio start from; by default that of each file.
        listing: The files of a folder of text tables or audio.
        dataset: A Parquet or Hub data set with undecoded audio.
        starts: Number of its first row from each of the `files`, from 0; empty for a Hub data set.
        labels: Its columns that hold numbers of a closed set of names, as `datasets.ClassLabel`.
        reach: Which recordings its rows may name.
    """

    name: str
    files: tuple[Path, ...] = ()
    folder: Path | None = None
    listing: FolderFiles | None = None
    dataset: Any = None
    starts: tuple[int, ...] = ()
    labels: Mapping[str, Any] = field(default_factory=dict)
    reach: Reach = ANYWHERE

    def rows(self, columns: Sequence[str] | None = None, open_file: OpenFile = open_binary) -> Iterator[TableRow]:
        """Reads all rows in order.

        Args:
            columns: Columns to read of a Parquet or Hub data set; by default all. Text tables are always read in full.
            open_file: Opens the files of text tables.

        Raises:
            ValueError: If a file cannot be read, or there are no rows.
        """
        is_empty = True
        for row in self._rows(columns, open_file):
            is_empty = False
            yield replace(row, reach=self.reach)
        if is_empty:
            raise ValueError(f"{self.name} is empty: it has no rows.")

    def _rows(self, columns: Sequence[str] | None, open_file: OpenFile) -> Iterator[TableRow]:
        if self.dataset is not None and columns is not None and not columns:
            # Only the names of rows are wanted: nothing is read.
            yield from (self.stored_row({}, number) for number in range(len(self.dataset)))
        elif self.dataset is not None:
            chosen = self.dataset if columns is None else self.dataset.select_columns(list(columns))
            yield from (self.stored_row(row, number) for number, row in enumerate(chosen))
        elif self.listing is not None:
            yield from read_folder(self.listing, open_file)
        else:
            (path,) = self.files
            with open_file(path) as file:
                yield from read_table(path, file, self.folder)

    def stored_row(self, cells: Mapping[str, Any], number: int) -> TableRow:
        """Names a row of the data set.

        Args:
            cells: The row as `datasets` gives it; labels of a closed set become their names.
            number: Its number from 0.
        """
        cells = dict(cells)
        for name, label in self.labels.items():
            if cells.get(name) is not None:
                cells[name] = label.int2str(cells[name])
        if not self.starts:
            return TableRow(f"{self.name}, row {number + 1}", self.folder, clean_cells(cells), reach=self.reach)
        # The last file that starts at or before the row.
        index = bisect_right(self.starts, number) - 1
        path, folder = self.files[index], self.folder or self.files[index].parent
        origin = f"{path}, row {number - self.starts[index] + 1}"
        return TableRow(origin, folder, clean_cells(cells), reach=self.reach)


def open_table(
    spec: str | os.PathLike[str],
    *,
    split: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    needs_split: bool = True,
    audio_folder: Path | None = None,
    subject: str | None = None,
    remedy: str = "check the name",
    allow_private: bool = False,
) -> Table:
    """Opens data without reading text tables yet.

    Rows may name recordings in the folder of the data. An absolute path may lead elsewhere in a local table, but not
    in metadata, which describe the files of their folder, nor in what comes from the Hub.

    Args:
        spec: File, folder or Hub id.
        split: Split of a Hub data set or of a folder with the folders `train`, `validation`, `test`; by default
            `train`.
        config: Configuration of a Hub data set.
        revision: Commit or tag on the Hub.
        streaming: Whether Parquet and Hub data sets are streamed.
        needs_split: Whether another split than `train` of local data without splits is an error.
        audio_folder: Folder that relative paths in a file start from; by default that of the file.
        subject: Start of the error when a Hub data set cannot be had.
        remedy: End of that error.
        allow_private: Whether rows may name any file, and addresses of this machine and its own network.

    Raises:
        FileNotFoundError: If there is no such file, folder or data set, or it cannot be downloaded.
        PermissionError: If the data set is gated.
        ValueError: If it is of an unknown type, cannot be read, or has no such split.
        ImportError: If it needs `datasets`, which is not installed.
    """
    found = local_path(spec)
    if found is None:
        subject = subject or f"There is no file or folder {spec}, and the data set of that name"
        with hub_errors(str(spec), subject, remedy):
            table = _open_data_set(str(spec), config, split, revision, streaming)
    elif not found.exists():
        raise FileNotFoundError(f"There is no file or folder {spec}: check the path.")
    # Prepared rows are cached by this path, which must not mean another folder elsewhere.
    elif (path := found.absolute()).is_dir():
        table = _open_folder(path, config, split, streaming, needs_split)
    # A single file counts as a split `train`.
    elif needs_split and split not in (None, "train"):
        raise ValueError(f"{path} has no split {split}, but ['train']: leave the split out.")
    else:
        table = _open_file(path, streaming, audio_folder)
    return table if allow_private else replace(table, reach=_reach(table, found, audio_folder))


def _open_file(path: Path, streaming: bool, audio_folder: Path | None) -> Table:
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes).")
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise ValueError(f"{path} is of an unknown type: {READABLE}.")
    if path.suffix.lower() == ".parquet":
        return replace(_open_parquet(str(path), (path,), streaming), folder=audio_folder)
    return Table(str(path), (path,), audio_folder)


def _reach(table: Table, found: Path | None, audio_folder: Path | None) -> Reach:
    """What rows may name: nothing of this machine where they were downloaded, but what was downloaded with them."""
    from huggingface_hub.constants import HF_HUB_CACHE

    downloads = [Path(HF_HUB_CACHE)]
    if table.dataset is not None:
        from datasets import config

        downloads.append(Path(config.HF_DATASETS_CACHE))
    roots = [Path(os.path.abspath(path)) for path in downloads]
    path = None if found is None else Path(os.path.abspath(found))
    if path is None or any(path.is_relative_to(root) for root in roots):
        return Reach(DATA, tuple(roots))
    folders = [path if path.is_dir() else path.parent, *([audio_folder.absolute()] if audio_folder else [])]
    is_copy = table.dataset is not None and not table.starts  # of a data set on the Hub, with its card
    has_metadata = table.listing is not None and table.listing.has_metadata
    return Reach(DATA, tuple(folders), absolute=not (is_copy or has_metadata))


def local_path(spec: str | os.PathLike[str]) -> Path | None:
    """The file or folder that data are in, which need not exist; `None` for a data set on the Hub."""
    path, text = Path(spec).expanduser(), os.fspath(spec)
    # A Hub id has one slash at most, and does not end like a table. What is typed as a path stays one even if the
    # file is missing, so that the error is about the file, not about the Hub.
    is_local = path.suffix.lower() in TABLE_SUFFIXES or text.startswith((".", "~", os.sep)) or text.count("/") > 1
    return path if is_local or path.exists() else None


def needs_datasets(spec: str | os.PathLike[str]) -> bool:
    """Whether data can only be opened with the package `datasets`: Parquet and the Hub."""
    path = local_path(spec)
    if path is None:
        return True
    files = walk_files(path) if path.is_dir() else [path]
    return any(file.suffix.lower() == ".parquet" for file in files)


def require_datasets() -> None:
    """Checks that `datasets` is installed.

    Raises:
        ImportError: If it is not, with the command that installs it.
    """
    try:
        import datasets  # noqa: F401
    except ImportError as error:
        raise ImportError("Reading data needs the package datasets: pip install 'ttt-hf[train]'.") from error


# -- folders ----------------------------------------------------------------------------------------------------------


def _open_folder(folder: Path, config: str | None, split: str | None, streaming: bool, needs_split: bool) -> Table:
    if _declares_files(folder):
        # The card decides on files and splits, as it does on the Hub.
        files = tuple(path for path in walk_files(folder) if path.suffix == ".parquet")
        table = _open_data_set(str(folder), config, split, None, streaming, description=file_states(files))
        return replace(table, files=files, folder=folder)
    listing = list_folder(folder, split, needs_split)
    if listing.is_parquet:
        table = _open_parquet(str(folder), listing.tables, streaming)
        if listing.has_metadata:
            # Metadata in Parquet get the column names that text metadata get row by row.
            names = {name: audio_column(name) for name in table.dataset.column_names}
            table = replace(table, dataset=table.dataset.rename_columns(names))
        return replace(table, listing=listing)
    files = listing.tables or listing.audio
    return Table(str(folder), files, listing=listing)


def _declares_files(folder: Path) -> bool:
    """Whether a folder is a copy of a Hub data set, whose card says which Parquet files are of which split."""
    import yaml

    card = folder / "README.md"
    if not card.is_file():
        return False
    # The header is the YAML between the first two lines of `---`.
    _, *parts = card.read_text(encoding="utf-8", errors="replace").split("---\n", 2)
    try:
        header = yaml.load(parts[0], Loader=PlainLoader) if len(parts) == 2 else None
    except Exception:  # whatever it is, it declares nothing
        return False
    return (
        isinstance(header, dict)
        and bool(header.get("configs"))
        and any(path.suffix == ".parquet" for path in walk_files(folder))
    )


# -- through `datasets` -----------------------------------------------------------------------------------------------


def _open_parquet(name: str, files: Sequence[Path], streaming: bool) -> Table:
    require_datasets()
    from datasets import load_dataset
    from pyarrow.parquet import read_metadata

    with read_errors(name):
        # A list of files is one split, whatever their names; escaped, because they are read as patterns.
        data_files = [escape(str(path)) for path in files]
        dataset = load_dataset(
            "parquet", data_files=data_files, split="train", streaming=streaming, description=file_states(files)
        )
        counts = [read_metadata(path).num_rows for path in files]
    table = _stored_table(name, dataset, streaming)
    # Rows are numbered over all files; `starts` finds the file of a row for messages and relative paths.
    return replace(table, files=tuple(files), starts=tuple(accumulate(counts[:-1], initial=0)))


def _open_data_set(
    path: str, config: str | None, split: str | None, revision: str | None, streaming: bool, **arguments: Any
) -> Table:
    require_datasets()
    from datasets import load_dataset

    with read_errors(path):
        settings = {"split": split or "train", "revision": revision, "streaming": streaming}
        dataset = load_dataset(path, config, **settings, **arguments)
    return _stored_table(path, dataset, streaming)


def _stored_table(name: str, dataset: Any, streaming: bool) -> Table:
    from datasets import ClassLabel

    labels = {name: part for name, part in (dataset.features or {}).items() if isinstance(part, ClassLabel)}
    return Table(name, dataset=undecoded(dataset, streaming), labels=labels)


def file_states(files: Sequence[Path]) -> str:
    """What tells files from others of the same names.

    `datasets` knows what it prepared by its arguments, of which this is one. The time of the last change of any kind,
    `st_ctime_ns`, is the one that no copying program sets back.
    """
    return str([(state.st_size, state.st_mtime_ns, state.st_ctime_ns) for state in (path.stat() for path in files)])


def undecoded(dataset: Any, streaming: bool) -> Any:
    """Makes a data set give audio as `{"bytes", "path"}`: `processing.audio` decodes it."""
    from datasets import Audio, Value

    if dataset.features is None:
        return dataset
    # A stream would encode what it casts to Audio; a prepared data set would copy what it casts to anything else.
    audio = {"bytes": Value("binary"), "path": Value("string")} if streaming else Audio(decode=False)
    for column, feature in dataset.features.items():
        replaced = _replace_audio(feature, audio)
        if replaced != feature:
            dataset = dataset.cast_column(column, replaced)
    return dataset


def _replace_audio(feature: Any, audio: Any) -> Any:
    from datasets import Audio, List

    if isinstance(feature, Audio):
        return audio
    # Audio may be inside of structs and lists, as in the content of messages.
    if isinstance(feature, Mapping):
        return {name: _replace_audio(part, audio) for name, part in feature.items()}
    if isinstance(feature, List):
        return List(_replace_audio(feature.feature, audio), length=feature.length)
    return feature


@contextmanager
def read_errors(name: str) -> Iterator[None]:
    """Turns the nested errors of `datasets` into one sentence."""
    from datasets.exceptions import DatasetGenerationError

    try:
        yield
    except DatasetGenerationError as error:
        cause = error.__cause__
        # `datasets` wraps errors several times: the innermost says what happened, and keeps its type.
        while isinstance(cause, DatasetGenerationError):
            cause = cause.__cause__
        if isinstance(cause, (ValueError, OSError)):
            raise type(cause)(*cause.args) from error
        raise ValueError(f"{name} cannot be read ({cause or error}).") from error
    except ValueError as error:
        raise ValueError(f"{name}: {' '.join(str(error).split())}") from error


@contextmanager
def hub_errors(spec: str, subject: str, remedy: str) -> Iterator[None]:
    """Says why a data set on the Hub cannot be had.

    Args:
        spec: Its id.
        subject: Start of the sentence, such as "The data set organisation/name".
        remedy: What else helps: end of the sentence.

    Raises:
        FileNotFoundError: If it is not there, or cannot be downloaded.
        PermissionError: If it is gated.
    """
    require_datasets()
    from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    gated = (
        f"{subject} is gated: accept its terms on https://huggingface.co/datasets/{spec} and log in with "
        f"`hf auth login`, or {remedy}."
    )
    try:
        yield
    except GatedRepoError as error:
        raise PermissionError(gated) from error
    except (DatasetNotFoundError, DataFilesNotFoundError, RepositoryNotFoundError) as error:
        # A refusal differs from absence in words only: the error of a missing repository mentions gated ones, too.
        if "is a gated dataset" in str(error):
            raise PermissionError(gated) from error
        raise FileNotFoundError(
            f"{subject} is not on the Hub, or is private: log in with `hf auth login`, or {remedy}."
        ) from error
    except (ConnectionError, LocalEntryNotFoundError, HfHubHTTPError) as error:
        raise FileNotFoundError(f"{subject} cannot be downloaded: connect to the network, or {remedy}.") from error
