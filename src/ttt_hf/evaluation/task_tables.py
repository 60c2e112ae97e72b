"""Opening a task's data as rows, whatever they are: Hub data sets and copies of them, JSONL, CSV, Parquet, folders.

What needs no `datasets` (JSONL, CSV, audio folders with metadata, Kaldi folders) is read without it, cell by cell as
it is written: `datasets` would make a number of a reference "007".
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.reading import known_errors, parse_json, require_datasets, undecoded
from ..data.sources import METADATA_FILES, READABLE
from .concepts import DatasetSource, Task


# Names of the transcripts beside a Kaldi `wav.scp`; AISHELL-2 has the second.
KALDI_TEXTS = ("text", "trans.txt")
TABLE_KINDS = (".jsonl", ".json", ".csv")
SEVERAL_KINDS = (".jsonl", ".csv", ".parquet")


@dataclass(frozen=True)
class Table:
    """Rows of a data set, audio undecoded.

    Args:
        rows: The rows; each is a dict.
        columns: Names of the columns, those that any row has.
        folder: Where relative paths of audio files begin.
    """

    rows: Any
    columns: tuple[str, ...]
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def cells(self, columns: Sequence[str]) -> list[dict[str, Any]]:
        """Some columns of all rows.

        Args:
            columns: Their names, all of them in `columns`.

        Returns:
            A dict a row, without the columns that a row lacks; labels of a closed set by their names.
        """
        if isinstance(self.rows, list):
            return [{name: row[name] for name in columns if name in row} for row in self.rows]
        from datasets import ClassLabel

        chosen = self.rows.select_columns(list(columns))
        labels = {name: feature for name, feature in chosen.features.items() if isinstance(feature, ClassLabel)}
        rows = chosen.to_list()
        for row in rows:
            row.update({name: label.int2str(row[name]) for name, label in labels.items() if row[name] is not None})
        return rows


def open_table(task: Task) -> Table:
    """Opens the data of a task.

    Args:
        task: The task; its source is a local file or folder, or else a data set on the Hub.

    Returns:
        The rows.

    Raises:
        FileNotFoundError: If the data are not there, or can be had by hand only; says how to get them.
        PermissionError: If the data set is gated; says how to get in.
        ValueError: If they cannot be read.
        ImportError: If they need `datasets`, which is not installed.
    """
    source = task.source
    if not source.path:
        raise FileNotFoundError(
            f"Task {task.name} needs data of your own: give them with path=FILE_OR_FOLDER{_hint(task)}."
        )
    path = local_path(source)
    if path is None:
        return _open_hub(task)
    if not path.exists():
        raise FileNotFoundError(
            f"There is no file or folder {source.path} for task {task.name}: check path={_hint(task)}."
        )
    if path.is_file():
        return _open_file(path, path.parent)
    return _open_folder(path, source)


def local_path(source: DatasetSource) -> Path | None:
    """Where data on this machine are, or should be.

    Args:
        source: The data.

    Returns:
        The file or folder, which need not exist; none for a data set on the Hub.
    """
    path = Path(source.path).expanduser()
    looks_local = path.is_absolute() or source.path.startswith((".", "~")) or source.path.count("/") != 1
    return path if looks_local or path.exists() or path.suffix in (*TABLE_KINDS, ".parquet") else None


def check_packages(source: DatasetSource) -> None:
    """Checks that the package `datasets` is installed if these data need it, without opening them.

    Args:
        source: The data.

    Raises:
        ImportError: It is needed and not installed; says how to install it.
    """
    path = local_path(source) if source.path else None
    if source.path and (path is None or path.suffix == ".parquet"):
        require_datasets()


def content_id(source: DatasetSource) -> str | None:
    """What changes when local data change, and does not when they move.

    Args:
        source: The data.

    Returns:
        A hash of the tables' content, of Parquet files of their names and sizes; none where there is nothing on this
        machine. Recordings in files of their own are not looked at.
    """
    path = local_path(source)
    if path is None or not path.exists():
        return None
    files = [path] if path.is_file() else _table_files(path, source)
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        digest.update(str(file.stat().st_size).encode() if file.suffix == ".parquet" else file.read_bytes())
    return digest.hexdigest()


def _table_files(folder: Path, source: DatasetSource) -> list[Path]:
    """The files of a folder that hold its rows."""
    if source.table:
        return [file for file in [folder / source.table] if file.is_file()]
    if (folder / "wav.scp").is_file():
        return [folder / "wav.scp", *(folder / name for name in KALDI_TEXTS if (folder / name).is_file())]
    metadata = [folder / name for name in METADATA_FILES if (folder / name).is_file()]
    if metadata:
        return metadata[:1]
    files = sorted(file for file in folder.iterdir() if file.suffix in SEVERAL_KINDS)
    return files or sorted(folder.rglob("*.parquet"))


# -- on this machine --------------------------------------------------------------------------------------------------


def _open_folder(folder: Path, source: DatasetSource) -> Table:
    if source.table:
        return _open_beside(folder, source)
    files = _table_files(folder, source)
    if not files:
        raise ValueError(f"{folder} holds no data that can be read: {READABLE}.")
    if files[0].name == "wav.scp":
        return _open_kaldi(folder, files)
    if files[0].name in METADATA_FILES:
        # As `datasets` has it: the file is named in `file_name` and becomes the column `audio`.
        table = _open_file(files[0], folder)
        rows = [{("audio" if name == "file_name" else name): cell for name, cell in row.items()} for row in table.rows]
        return Table(rows, tuple("audio" if name == "file_name" else name for name in table.columns), folder)
    if files[0].parent != folder:
        return _open_data_set(str(folder), source)
    if len({file.suffix for file in files}) > 1:
        raise ValueError(f"{folder} holds files of several types: name one file.")
    if files[0].suffix == ".parquet":
        return _open_parquet(files, folder)
    return _read_table([row for file in files for row in _read_rows(file)], folder, str(folder))


def _open_file(path: Path, folder: Path) -> Table:
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes).")
    if path.suffix == ".parquet":
        return _open_parquet([path], folder)
    if path.suffix not in TABLE_KINDS:
        raise ValueError(f"{path} is of an unknown type: {READABLE}.")
    return _read_table(_read_rows(path), folder, str(path))


def _read_table(rows: list[dict[str, Any]], folder: Path, name: str) -> Table:
    if not rows:
        raise ValueError(f"{name} is empty: it has no rows.")
    columns = dict.fromkeys(column for row in rows for column in row)
    return Table(rows, tuple(columns), folder)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        # A byte order mark, as spreadsheets write it, is no part of the first column's name.
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text: save it as UTF-8.") from None
    if path.suffix == ".csv":
        # Cells beyond the header have no name.
        return [
            {name: cell for name, cell in row.items() if name} for row in csv.DictReader(io.StringIO(text, newline=""))
        ]
    if path.suffix == ".json":
        rows = parse_json(text, str(path))
        if not isinstance(rows, list):
            raise ValueError(
                f"{path} must hold a list of rows: put them into [ and ], or one a line into a .jsonl file."
            )
    else:
        # Lines end in \n alone: a text may hold other characters that `splitlines` takes for an end.
        lines = enumerate(text.split("\n"), start=1)
        rows = [parse_json(line, f"{path}, line {number}") for number, line in lines if line.strip()]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"{path}, row {number}: a row is an object, not {type(row).__name__}.")
    return rows


def _open_parquet(files: Sequence[Path], folder: Path) -> Table:
    require_datasets()
    from datasets import load_dataset

    with known_errors(str(files[0])):
        rows = load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    return _data_set_table(rows, folder)


def _open_kaldi(folder: Path, files: Sequence[Path]) -> Table:
    """`wav.scp` and transcripts: an id and the rest of the line."""
    if len(files) < 2:
        raise ValueError(f"{folder} has a wav.scp, but no transcripts beside it: {' or '.join(KALDI_TEXTS)}.")
    paths, texts = (_read_pairs(file) for file in files[:2])
    silent = next((name for name in paths if name not in texts), None)
    if silent is not None:
        raise ValueError(f"{files[1]} has no transcript of {silent}, which {files[0].name} names.")
    rows = [{"id": name, "audio": path, "text": texts[name]} for name, path in paths.items()]
    return _read_table(rows, folder, str(files[0]))


def _read_pairs(file: Path) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.strip():
            continue
        name, _, rest = line.strip().replace("\t", " ").partition(" ")
        if name in pairs:
            raise ValueError(f"{file} has two lines for {name}: delete one.")
        pairs[name] = rest.strip()
    return pairs


# -- on the Hub -------------------------------------------------------------------------------------------------------


def _open_hub(task: Task) -> Table:
    source = task.source
    require_datasets()
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    where = f"The data set {source.path} of task {task.name}"
    copy = f"give a local copy with path=FOLDER{_hint(task)}"
    gated = (
        f"{where} is gated: accept its terms on https://huggingface.co/datasets/{source.path} and log in with "
        f"`hf auth login`, or {copy}."
    )
    try:
        if source.table:
            return _open_beside(_download_beside(source), source)
        return _open_data_set(source.path, source)
    except GatedRepoError as error:
        raise PermissionError(gated) from error
    except (DatasetNotFoundError, RepositoryNotFoundError) as error:
        # A refusal to be told from absence in words only: the error of a missing repository speaks of gated ones, too.
        if "is a gated dataset" in str(error):
            raise PermissionError(gated) from error
        raise FileNotFoundError(
            f"{where} is not on the Hub, or is private: log in with `hf auth login`, or {copy}."
        ) from error
    except (ConnectionError, LocalEntryNotFoundError, HfHubHTTPError) as error:
        raise FileNotFoundError(f"{where} cannot be downloaded: connect to the network, or {copy}.") from error


def _open_data_set(path: str, source: DatasetSource) -> Table:
    """A data set on the Hub, or a copy of its files: its own description says which files are of which split."""
    require_datasets()
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        rows = load_dataset(path, source.name, split=source.split, revision=source.revision)
    except (ValueError, DatasetGenerationError) as error:
        raise ValueError(f"{path} cannot be read ({' '.join(str(error).split())}).") from error
    return _data_set_table(rows, Path(path) if Path(path).is_dir() else None)


def _data_set_table(rows: Any, folder: Path | None) -> Table:
    rows = undecoded(rows, streaming=False)
    return Table(rows, tuple(rows.column_names), folder)


def _download_beside(source: DatasetSource) -> Path:
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
    return _open_file(file, folder / source.audio_folder if source.audio_folder else file.parent)


def _hint(task: Task) -> str:
    return f" ({task.source.hint})" if task.source.hint else ""
