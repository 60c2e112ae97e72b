"""Opening data: Hub data sets, folders, files, mixtures and encoded folders, as canonical rows.

Needs the extra `train`. Audio is not decoded here: its path or bytes go through, and `processing.load_audio` reads it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from .conversations import Row, canonical_row
from .reading import (
    convert_row,
    json_rows,
    known_errors,
    parse_json,
    prepare,
    replace_audio,
    require_datasets,
    row_features,
    undecoded,
)


ENCODING_FILE = "encoding.json"
FILE_KINDS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
METADATA_FILES = ("metadata.csv", "metadata.jsonl")
AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".mp3"}
READABLE = "JSONL, JSON, Parquet and CSV files can be read, and folders of audio files"
# How far into a JSON file to look for what only the official data config has.
_CONFIG_PROBE_BYTES = 65536

Spec: TypeAlias = "str | os.PathLike[str] | Sequence[Mapping[str, Any]]"


@dataclass
class Source:
    """Data as they are stored, and how a row of them becomes canonical.

    Args:
        rows: Source rows, audio undecoded.
        convert: Makes a canonical row of one of them; a `ValueError` where that cannot be done.
    """

    rows: Any
    convert: Callable[[Mapping[str, Any]], Row]


def load_source(
    spec: Spec,
    streaming: bool = False,
    *,
    task: str | None = None,
    split: str = "train",
    name: str | None = None,
    seed: int = 0,
) -> Any:
    """Opens data as canonical rows (see `canonical_row`).

    Args:
        spec: A folder that `ttt-hf encode` wrote; a folder of audio files with metadata.csv or metadata.jsonl, or of
            data files; a JSONL, JSON, Parquet or CSV file; an official data config (JSON: `path`, `sample_ratio`,
            `data_type` of each data set); a Hub id; or a mixture: a list of `{"path", "ratio"}`, perhaps with `task`,
            `split` and `name`.
        streaming: Whether to read rows when they are asked for, without preparing them on the disk first.
        task: What columns mean (`asr`, `tts`, `chat`) where the data do not say it.
        split: Split of a Hub data set or an audio folder.
        name: Configuration of a Hub data set.
        seed: Seed of the order of a mixture, and of the choice that a `sample_ratio` makes.

    Returns:
        `datasets.Dataset`, or `datasets.IterableDataset` when streaming, with the columns of `row_features()`.

    Raises:
        FileNotFoundError: If there is no such file, folder or data set.
        ValueError: If it is empty, of an unknown type, or its rows have none of the accepted forms.
        ImportError: If `datasets` is not installed.
    """
    source = open_source(spec, streaming, task=task, split=split, name=name, seed=seed)
    rows, features = source.rows, row_features()
    if rows.features == features:
        return rows
    columns = rows.column_names or list(next(iter(rows)))
    convert = partial(convert_row, convert=source.convert)
    return rows.map(convert, with_indices=True, features=features, remove_columns=columns)


def open_source(
    spec: Spec,
    streaming: bool = False,
    *,
    task: str | None = None,
    split: str = "train",
    name: str | None = None,
    seed: int = 0,
) -> Source:
    """Opens data without bringing them into one form: `load_source` for those who convert rows themselves, and so need
    no copy of audio that a Parquet file holds.

    Args:
        spec, streaming, task, split, name, seed: As of `load_source`.

    Returns:
        Rows as they are stored. The first one was converted, to see that it can be.

    Raises:
        FileNotFoundError, ValueError, ImportError: As of `load_source`.
    """
    require_datasets()
    if isinstance(spec, (str, os.PathLike)):
        rows, folder = _open(str(spec), streaming, task, split, name, seed)
    elif not spec:
        raise ValueError("The mixture is empty: name at least one data set.")
    else:
        rows, folder = _mix(spec, streaming, seed), None
        spec = "The mixture"
    source = Source(rows, partial(canonical_row, task=task, folder=folder))
    first = next(iter(rows), None)
    if first is None:
        raise ValueError(f"{spec} is empty: it has no rows.")
    try:
        source.convert(first)
    except ValueError as error:
        raise ValueError(f"{spec}: {error}") from error
    return source


# -- kinds of sources -------------------------------------------------------------------------------------------------


def _open(
    spec: str, streaming: bool, task: str | None, split: str, name: str | None, seed: int
) -> tuple[Any, Path | None]:
    """Rows of one source, and the folder where relative paths in them begin."""
    # What is prepared is found again by this name, which must not mean another folder elsewhere.
    path = Path(spec).expanduser().absolute()
    if path.is_dir():
        return _open_folder(path, streaming, task, split), path
    if path.is_file():
        if path.stat().st_size == 0:
            raise ValueError(f"{path} is empty (0 bytes).")
        config = _read_config(path)
        if config is not None:
            return _open_config(path, config, streaming, task, seed), None
        return _open_files([path], streaming, task), path.parent
    if path.suffix in FILE_KINDS or spec.startswith((".", "~", os.sep)) or spec.count("/") > 1:
        raise FileNotFoundError(f"There is no file or folder {spec}: check the path.")
    return _open_hub(spec, streaming, split, name), None


def _open_folder(folder: Path, streaming: bool, task: str | None, split: str) -> Any:
    if (folder / ENCODING_FILE).is_file():
        return _open_encoded(folder, streaming)
    names = [entry.name for entry in folder.iterdir() if entry.is_file()]
    _check_metadata([folder / name for name in names if name in METADATA_FILES])
    data_files = sorted(folder / name for name in names if Path(name).suffix in FILE_KINDS)
    if data_files and not any(name.startswith("metadata.") for name in names):
        return _open_files(data_files, streaming, task)
    audio_files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    if not audio_files:
        raise ValueError(f"{folder} holds no data that can be read: {READABLE}.")
    # Streamed in any case: the builder's own preparation encodes audio, which needs more than reading it does.
    stream = _stream_audio_folder(folder, split)
    if streaming:
        return stream
    metadata = [folder / name for name in names if name.startswith("metadata.")]
    return prepare(partial(_stream_audio_folder, folder, split), stream.features, [*audio_files, *metadata])


def _check_metadata(files: Sequence[Path]) -> None:
    """`datasets` says nothing of use about a table without rows."""
    for file in files:
        with file.open(encoding="utf-8", errors="replace") as lines:
            filled = list(islice((line for line in lines if line.strip()), 2))
        if len(filled) < (2 if file.suffix == ".csv" else 1):
            raise ValueError(f"{file} is empty: give it a row for each audio file, with its file_name.")


def _stream_audio_folder(folder: Path, split: str) -> Any:
    from datasets import Features, Value, load_dataset

    with known_errors(str(folder)):
        rows = load_dataset("audiofolder", data_dir=str(folder), split=split, streaming=True, drop_labels=True)
    return rows.cast(Features(replace_audio(rows.features, Value("string"))))


def _open_encoded(folder: Path, streaming: bool) -> Any:
    encoding = json.loads((folder / ENCODING_FILE).read_text(encoding="utf-8"))
    if not encoding.get("complete"):
        raise ValueError(f"The encoding in {folder} is not finished: run the same `ttt-hf encode` again.")
    return _load("parquet", sorted(folder.glob("shard-*.parquet")), streaming)


def _open_files(paths: Sequence[Path], streaming: bool, task: str | None) -> Any:
    kinds = sorted({FILE_KINDS.get(path.suffix, "") for path in paths})
    if "" in kinds:
        raise ValueError(f"{paths[0]} is of an unknown type: {READABLE}.")
    if len(kinds) > 1:
        raise ValueError(f"{paths[0].parent} holds files of several types: name one file.")
    if kinds != ["json"]:
        return undecoded(_load(kinds[0], paths, streaming), streaming)
    # Read by us: rows whose content is a string here and a list there have no common type until they are canonical.
    read = partial(json_rows, [str(path) for path in paths], task)
    if streaming:
        from datasets import IterableDataset

        return IterableDataset.from_generator(read, features=row_features())
    return prepare(read, row_features(), paths)


def _open_hub(spec: str, streaming: bool, split: str, name: str | None) -> Any:
    from datasets import load_dataset

    with known_errors(spec):
        rows = load_dataset(spec, name, split=split, streaming=streaming)
    return undecoded(rows, streaming)


def _load(kind: str, paths: Sequence[Path], streaming: bool) -> Any:
    from datasets import load_dataset

    with known_errors(str(paths[0])):
        return load_dataset(kind, data_files=[str(path) for path in paths], split="train", streaming=streaming)


# -- mixtures ---------------------------------------------------------------------------------------------------------


def _mix(parts: Sequence[Mapping[str, Any]], streaming: bool, seed: int) -> Any:
    from datasets import interleave_datasets

    ratios = []
    for part in parts:
        ratio = part.get("ratio", 1.0)
        if "path" not in part or isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not ratio > 0:
            raise ValueError(f"A part of a mixture has a 'path' and a positive 'ratio', not {dict(part)}.")
        ratios.append(float(ratio))
    sets = [
        load_source(
            part["path"],
            streaming,
            task=part.get("task"),
            split=part.get("split", "train"),
            name=part.get("name"),
            seed=seed,
        )
        for part in parts
    ]
    # Until every row was there: those of small sets come again, so that the ratios hold to the end.
    return interleave_datasets(
        sets, probabilities=[ratio / sum(ratios) for ratio in ratios], seed=seed, stopping_strategy="all_exhausted"
    )


def _read_config(path: Path) -> list[dict[str, Any]] | None:
    """The data sets of an official data config; `None` when the file is none."""
    if path.suffix != ".json":
        return None
    with path.open("rb") as file:
        if b'"sample_ratio"' not in file.read(_CONFIG_PROBE_BYTES):
            return None
    config = parse_json(path.read_text(encoding="utf-8"), str(path))
    entries = list(config.values()) if isinstance(config, dict) else config
    for entry in entries:
        if not isinstance(entry, dict) or "path" not in entry:
            raise ValueError(f"{path}: each data set of a data config needs 'path' and 'sample_ratio'.")
    return entries


def _open_config(path: Path, entries: list[dict[str, Any]], streaming: bool, task: str | None, seed: int) -> Any:
    """An official data config: of each data set a random share of `sample_ratio` (all of it from 1 on), each row once,
    in random order. `data_type` says what the rows say themselves.
    """
    from datasets import concatenate_datasets, interleave_datasets

    sets = []
    for entry in entries:
        share = float(entry.get("sample_ratio", 1.0))
        if share <= 0:
            continue
        # Relative to the config, or, as the official code has it, to the working folder.
        beside = path.parent / entry["path"]
        rows = load_source(beside if beside.exists() else entry["path"], streaming, task=task, seed=seed)
        if share < 1:
            rows = _streamed_share(rows, share, seed) if streaming else _share(rows, share, seed)
        sets.append(rows)
    if not sets:
        raise ValueError(f"{path} names no data: give at least one data set a positive 'sample_ratio'.")
    if streaming:
        return interleave_datasets(sets, seed=seed, stopping_strategy="all_exhausted_without_replacement")
    return concatenate_datasets(sets).shuffle(seed=seed)


def _share(rows: Any, share: float, seed: int) -> Any:
    return rows.shuffle(seed=seed).select(range(int(len(rows) * share)))


def _streamed_share(rows: Any, share: float, seed: int) -> Any:
    return rows.filter(partial(_is_drawn, share=share, seed=seed), with_indices=True)


def _is_drawn(row: Row, index: int, share: float, seed: int) -> bool:
    import numpy as np

    return bool(np.random.default_rng([seed, index]).random() < share)
