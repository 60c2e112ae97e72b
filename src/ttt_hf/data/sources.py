"""Data for training: what the reader opens as canonical rows, encoded folders, mixtures, the official data config.

Needs the extra `train`. Audio is not decoded here: its path or bytes are passed on, and `processing.audio` reads it.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from glob import escape
from pathlib import Path
from typing import Any, TypeAlias

from ..processing.fetching import TABLE, Access
from .conversations import Row, audio_source, canonical_row, row_items
from .listing import report_left_out
from .reading import DATA, Table, file_states, open_table, read_errors, require_datasets
from .tables import TableRow, list_problems, parse_json


logger = logging.getLogger(__name__)

ENCODING_FILE = "encoding.json"
DEFAULT_BROKEN_SHARE = 0.01
# However small a data set is, a few broken rows do not stop its encoding, unless they are most of it.
MIN_BROKEN = 5
MAX_BROKEN_SHARE = 0.5
# How often rows of a mixture may come on average: more is a slip in the ratios, and fills the memory.
MAX_REPEATS = 1000
# How far into a JSON file to look for what only the official data config has.
_CONFIG_PROBE_BYTES = 65536
ROW_COLUMNS = ("messages", "content", "task", "codec_fingerprint")

Spec: TypeAlias = "str | os.PathLike[str] | Sequence[Mapping[str, Any]]"


@dataclass
class Source:
    """Data as they are stored, and how each of their rows is checked.

    Args:
        name: What messages call the data.
        rows: Stored rows with undecoded audio, a `datasets.Dataset` or `IterableDataset`.
        check: Makes a checked row (see `checked_row`) of a stored row and its number from 0.
        encoding: Content of encoding.json, if they were encoded before.
        access: What may be read on behalf of the rows.
    """

    name: str
    rows: Any
    check: Callable[[Mapping[str, Any], int], Row]
    encoding: Mapping[str, Any] | None = None
    access: Access = DATA


def row_features() -> Any:
    """The columns of canonical rows as `datasets.Features`: one type for all data, so that they can be mixed."""
    from datasets import Features, List, Value

    word = {"text": Value("string"), "start": Value("float64"), "end": Value("float64")}
    item = {
        "type": Value("string"),
        "text": Value("string"),
        "words": List(word),
        "codes": List(Value("int32")),
        "variants": List(List(Value("int32"))),
        "span": Value("string"),
        "path": Value("string"),
        "bytes": Value("binary"),
        "audio": List(Value("float32")),
        "sampling_rate": Value("int32"),
    }
    message = {"role": Value("string"), "content": List(item), "interleaved": Value("bool")}
    types = (List(message), List(item), Value("string"), Value("string"))
    return Features(dict(zip(ROW_COLUMNS, types, strict=True)))


def checked_features() -> Any:
    """The columns of checked rows: those of canonical rows, `origin` and `error`."""
    from datasets import Features, Value

    return Features({**row_features(), "origin": Value("string"), "error": Value("string")})


def checked_row(row: TableRow, task: str | None) -> Row:
    """Makes a canonical row with all columns, its `origin` (file and line) and, where it cannot be used, its `error`.

    Errors are kept rather than raised, so that those of all rows can be listed at once.
    """
    bare: Row = {**dict.fromkeys(ROW_COLUMNS), "origin": printable(row.origin)}
    try:
        if row.error is not None:
            raise ValueError(row.error)
        checked = {**bare, **canonical_row(row.cells, task, row.folder), "error": None}
        for item in row_items(checked):
            row.reach.check(item.get("path"), row.folder)
        _check_storable(checked)
    except ValueError as error:
        return {**bare, "error": printable(str(error))}
    return checked


def printable(text: str) -> str:
    """Writes out what UTF-8 cannot hold: half a character, or bytes in the name of a file."""
    return text.encode("utf-8", "backslashreplace").decode()


def _check_storable(row: Row) -> None:
    """Checks that a row has the types of the columns: Arrow writes many rows at once, and would fail for all."""
    import pyarrow as pa
    from datasets import Dataset

    try:
        pa.array([row], type=_row_type())
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.end]
        raise ValueError(
            f"A text or a file name holds half a character ({printable(half)}): correct it, or rename the file."
        ) from None
    except (ValueError, TypeError, OverflowError):
        # What is only converted, such as an array, is fine.
        try:
            Dataset.from_list([row], features=checked_features())
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"This row holds a value of another type than it should ({reason}).") from None


@cache
def _row_type() -> Any:
    import pyarrow as pa

    return pa.struct(checked_features().arrow_schema)


def load_source(
    spec: Spec,
    streaming: bool = False,
    *,
    task: str | None = None,
    split: str | None = None,
    name: str | None = None,
    seed: int = 0,
    max_broken: float | None = 0.0,
    allow_private: bool = False,
) -> Any:
    """Opens data as canonical rows (see `canonical_row`).

    Args:
        spec: A folder that `ttt-hf encode` wrote; a folder of audio files, with metadata.csv or metadata.jsonl, or of
            data files; a JSONL, JSON, Parquet or CSV file; an official data config (JSON: `path`, `sample_ratio`,
            `data_type` of each data set); a Hub id; or a mixture: a list of `{"path", "ratio"}`, perhaps with `task`,
            `split` and `name`.
        streaming: Whether rows are read when they are asked for, without a prepared copy on the disk.
        task: What columns mean (`asr`, `tts`, `chat`) where the data do not say it.
        split: Split of a Hub data set, or of a folder with the folders `train`, `validation`, `test`; by default
            `train`.
        name: Configuration of a Hub data set.
        seed: Seed of the order of a mixture, and of the choice that a `sample_ratio` makes.
        max_broken: Share of the rows that may be left out because they cannot be used; see `allowed_broken`. A stream
            stops at the first one.
        allow_private: Whether rows may name any file, and addresses of this machine and its own network; see
            `open_table`.

    Returns:
        `datasets.Dataset`, or `datasets.IterableDataset` when streaming, with the columns of `row_features()`.

    Raises:
        FileNotFoundError: If there is no such file, folder or data set.
        PermissionError: If a data set on the Hub is gated.
        ValueError: If it is empty or of an unknown type, or more rows cannot be used than allowed; lists them by file
            and line.
        ImportError: If `datasets` is not installed.
    """
    source = open_source(spec, streaming, task=task, split=split, name=name, seed=seed, allow_private=allow_private)
    return usable_rows(source, max_broken).remove_columns(["origin", "error"])


def open_source(
    spec: Spec,
    streaming: bool = False,
    *,
    task: str | None = None,
    split: str | None = None,
    name: str | None = None,
    seed: int = 0,
    allow_private: bool = False,
) -> Source:
    """Opens data without checking the rows yet: nothing copies the audio that a Parquet file holds.

    Args:
        spec, streaming, task, split, name, seed, allow_private: As of `load_source`.

    Raises:
        FileNotFoundError, PermissionError, ValueError, ImportError: As of `load_source`, but not for single rows.
    """
    require_datasets()
    access = TABLE if allow_private else DATA
    if not isinstance(spec, (str, os.PathLike)):
        return replace(_open_mixture(spec, streaming, seed, allow_private), access=access)
    path = Path(spec).expanduser()
    if (path / ENCODING_FILE).is_file():
        return _open_encoded(path.absolute(), streaming)
    # Configs are JSON files, as tables may be: they are recognized before the file is opened as a table.
    config = _read_config(path)
    if config is not None:
        settings: dict[str, Any] = {"task": task, "seed": seed, "allow_private": allow_private}
        return replace(_open_config(path.absolute(), config, streaming, settings), access=access)
    table = open_table(spec, split=split, config=name, streaming=streaming, allow_private=allow_private)
    source = _stored_source(table, task) if table.dataset is not None else _text_source(table, task, streaming)
    if table.listing is not None:
        # Only prepared rows are searched for unused files: a stream or a Parquet file would be read an extra time.
        # And only if all can be used: what a broken row names is not known.
        has_rows = not streaming and table.dataset is None
        has_rows = has_rows and not any(source.rows.select_columns(["error"])[:]["error"])
        report_left_out(source.name, table.listing, _audio_paths(source.rows) if has_rows else None)
    return replace(source, access=access)


def checked_rows(source: Source) -> Any:
    """The rows of a source with the columns of `checked_features()`."""
    rows, features = source.rows, checked_features()
    # Sources that check rows while they read them are not checked again.
    if rows.features == features:
        return rows
    # A stream may know its columns only from its first row.
    columns = rows.column_names or list(next(iter(rows)))
    return rows.map(source.check, with_indices=True, features=features, remove_columns=columns)


def usable_rows(source: Source, max_broken: float | None) -> Any:
    """Leaves out the rows that cannot be used.

    Args:
        source: Opened data.
        max_broken: Share of the rows that may be left out; see `allowed_broken`.

    Returns:
        Rows with the columns of `checked_features()`, without errors.

    Raises:
        ValueError: If more rows cannot be used; lists them. In a stream, the first one raises it when it is reached.
    """
    rows = checked_rows(source)
    # A stream has no number of rows of which a share could be allowed.
    if not hasattr(rows, "select"):
        return rows.map(_raise_error, features=rows.features)
    # Only these columns: the audio of the rows stays unread.
    columns = rows.select_columns(["origin", "error"])[:]
    problems = [f"{origin}: {error}" for origin, error in zip(columns["origin"], columns["error"]) if error]
    check_broken(problems, allowed_broken(len(rows), max_broken), len(rows))
    if not problems:
        return rows
    left_out = "%s: rows left out because they cannot be used: %d (%s)"
    logger.warning(left_out, source.name, len(problems), list_problems(problems))
    return rows.select([number for number, error in enumerate(columns["error"]) if not error])


def allowed_broken(rows: int, share: float | None) -> int:
    """How many rows may be left out because they cannot be used.

    Args:
        rows: Rows of the data.
        share: Share of them; by default 1 %, or in small data up to 5 rows, if they are no more than half of it.

    Raises:
        ValueError: If the share is not in [0, 1].
    """
    if share is None:
        return max(min(MIN_BROKEN, int(MAX_BROKEN_SHARE * rows)), int(DEFAULT_BROKEN_SHARE * rows))
    if not 0 <= share <= 1:
        raise ValueError(f"max_broken is a share of the rows, from 0 to 1, not {share}.")
    return int(share * rows)


def check_broken(problems: Sequence[str], allowed: int, rows: int | None = None) -> None:
    """Stops when too many rows cannot be used.

    Args:
        problems: What is wrong with each row that cannot be used, with its file and line.
        allowed: How many may be left out.
        rows: Rows of the data; if none of them can be used, that is an error, too.

    Raises:
        ValueError: If there are more; lists them.
    """
    if rows is not None and rows == len(problems):
        raise ValueError(f"None of the rows can be used: {list_problems(problems)}.")
    if len(problems) > allowed:
        limit = f"More rows cannot be used than the {allowed} allowed: " if allowed else ""
        advice = "Correct them, or raise max_broken (encode: --max-broken)."
        raise ValueError(f"{limit}{list_problems(problems)}. {advice}")


# -- kinds of sources -------------------------------------------------------------------------------------------------


def _stored_source(table: Table, task: str | None) -> Source:
    """Parquet and Hub data sets are checked row by row, without a copy of the audio in them."""
    if hasattr(table.dataset, "select") and not len(table.dataset):
        raise ValueError(f"{table.name} is empty: it has no rows.")
    # The check is pickled for other processes: its table goes without the data set.
    return Source(table.name, table.dataset, partial(_check_stored, table=replace(table, dataset=None), task=task))


def _check_stored(cells: Mapping[str, Any], number: int, table: Table, task: str | None) -> Row:
    return checked_row(table.stored_row(cells, number), task)


def _text_source(table: Table, task: str | None, streaming: bool) -> Source:
    """Text tables are checked as they are read: cells of different types in one column have no Arrow type before."""
    from datasets import Dataset, IterableDataset

    # Another version may make other rows of the same file, so it is part of the key of the cache.
    from .. import __version__

    features = checked_features()
    with read_errors(table.name):
        if streaming:
            rows = IterableDataset.from_generator(partial(_checked_rows, table, task), features=features)
        else:
            # The cache of `datasets` knows prepared rows by these arguments: they change when a file does.
            arguments = {"table": table, "task": task, "state": __version__ + file_states(table.files)}
            rows = Dataset.from_generator(_checked_rows, features=features, gen_kwargs=arguments)
    return Source(table.name, rows, _as_checked)


def _checked_rows(table: Table, task: str | None, state: str = "") -> Iterator[Row]:
    for row in table.rows():
        yield checked_row(row, task)


def _as_checked(row: Mapping[str, Any], number: int) -> Row:
    return {"error": None, **row}


def _raise_error(row: Row) -> Row:
    if row["error"] is not None:
        raise ValueError(f"{row['origin']}: {row['error']}")
    return row


def _audio_paths(rows: Any) -> Iterator[str]:
    for row in rows:
        yield from (str(item["path"]) for item in row_items(row) if item.get("path"))


def _open_encoded(folder: Path, streaming: bool) -> Source:
    encoding = json.loads((folder / ENCODING_FILE).read_text(encoding="utf-8"))
    if not encoding.get("complete"):
        raise ValueError(f"The encoding in {folder} is not finished: run the same `ttt-hf encode` again.")
    from datasets import Value, load_dataset

    with read_errors(str(folder)):
        shards = sorted(folder.glob("shard-*.parquet"))
        files = [escape(str(path)) for path in shards]
        rows = load_dataset(
            "parquet", data_files=files, split="train", streaming=streaming, description=file_states(shards)
        )
    # Two columns are added without a copy of the codes; anything else is mapped by `checked_rows`.
    if not streaming and rows.features == row_features():
        origins = [f"{folder}, row {number}" for number in range(1, len(rows) + 1)]
        rows = rows.add_column("origin", origins, feature=Value("string"))
        rows = rows.add_column("error", [None] * len(rows), feature=Value("string"))
    return Source(str(folder), rows, partial(_check_encoded, name=str(folder)), encoding)


def _check_encoded(row: Mapping[str, Any], number: int, name: str) -> Row:
    checked = {"origin": f"{name}, row {number + 1}", "error": None, **row}
    # Nothing that was encoded names a recording: such a row was made to be read elsewhere.
    if any(audio_source(item) is not None for item in row_items(checked)):
        checked["error"] = "This row of an encoding holds audio instead of codes: encode the data again."
    return checked


# -- mixtures ---------------------------------------------------------------------------------------------------------


def mix_rows(sets: Sequence[Any], ratios: Sequence[float], seed: int = 0) -> Any:
    """Draws rows of several data sets in fixed ratios, until every row was drawn: those of small sets come again.

    Args:
        sets: Rows of each, as `usable_rows` gives them.
        ratios: Positive number of each.

    Raises:
        ValueError: If a row would come more than `MAX_REPEATS` times on average.
    """
    from datasets import interleave_datasets

    shares = [ratio / sum(ratios) for ratio in ratios]
    if all(hasattr(rows, "__len__") for rows in sets):  # not streams
        drawn = max(len(rows) / share if share else math.inf for rows, share in zip(sets, shares))
        if drawn > MAX_REPEATS * sum(map(len, sets)):
            raise ValueError(
                f"With the ratios {', '.join(f'{ratio:g}' for ratio in ratios)}, rows would come more than "
                f"{MAX_REPEATS:,} times until each has come once: choose ratios nearer to the numbers of rows."
            )
    return interleave_datasets(sets, probabilities=shares, seed=seed, stopping_strategy="all_exhausted")


def _open_mixture(parts: Sequence[Mapping[str, Any]], streaming: bool, seed: int, allow_private: bool) -> Source:
    if not parts:
        raise ValueError("The mixture is empty: name at least one data set.")
    ratios = []
    for part in parts:
        ratio = part.get("ratio", 1.0)
        # A bool is an int in Python, but no ratio.
        if "path" not in part or isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not ratio > 0:
            raise ValueError(f"A part of a mixture has a 'path' and a positive 'ratio', not {dict(part)}.")
        ratios.append(float(ratio))
    sources = [
        open_source(
            part["path"],
            streaming,
            task=part.get("task"),
            split=part.get("split"),
            name=part.get("name"),
            seed=seed,
            allow_private=allow_private,
        )
        for part in parts
    ]
    # All parts get the same columns, which `interleave_datasets` needs; errors stay in their rows.
    rows = mix_rows([checked_rows(source) for source in sources], ratios, seed)
    return Source("The mixture", rows, _as_checked)


def _read_config(path: Path) -> list[dict[str, Any]] | None:
    """The data sets of an official data config; `None` when the file is none."""
    if path.suffix != ".json" or not path.is_file():
        return None
    with path.open("rb") as file:
        # The beginning tells a config from a large table without parsing all of it.
        if b'"sample_ratio"' not in file.read(_CONFIG_PROBE_BYTES):
            return None
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    entries = list(config.values()) if isinstance(config, dict) else config
    for entry in entries:
        if not isinstance(entry, dict) or "path" not in entry:
            raise ValueError(f"{path}: each data set of a data config needs 'path' and 'sample_ratio'.")
    return entries


def _open_config(path: Path, entries: list[dict[str, Any]], streaming: bool, settings: Mapping[str, Any]) -> Source:
    """An official data config: of each data set a random share of `sample_ratio` (all of it from 1 on), each row once,
    in random order. Its `data_type` is not needed: the rows say it.
    """
    from datasets import concatenate_datasets, interleave_datasets

    seed = settings["seed"]
    sets = []
    for entry in entries:
        share = float(entry.get("sample_ratio", 1.0))
        if share <= 0:
            continue
        # Relative to the config, or, as in the official code, to the working directory.
        beside = path.parent / entry["path"]
        spec = beside if beside.exists() else entry["path"]
        rows = checked_rows(open_source(spec, streaming, **settings))
        if share < 1:
            rows = _streamed_share(rows, share, seed) if streaming else _share(rows, share, seed)
        sets.append(rows)
    if not sets:
        raise ValueError(f"{path} names no data: give at least one data set a positive 'sample_ratio'.")
    if streaming:
        # A stream cannot be shuffled as a whole: rows are drawn from all of its data sets, until each has ended.
        rows = interleave_datasets(sets, seed=seed, stopping_strategy="all_exhausted_without_replacement")
    else:
        rows = concatenate_datasets(sets).shuffle(seed=seed)
    return Source(str(path), rows, _as_checked)


def _share(rows: Any, share: float, seed: int) -> Any:
    return rows.shuffle(seed=seed).select(range(int(len(rows) * share)))


def _streamed_share(rows: Any, share: float, seed: int) -> Any:
    return rows.filter(partial(_is_drawn, share=share, seed=seed), with_indices=True)


def _is_drawn(row: Row, index: int, share: float, seed: int) -> bool:
    import numpy as np

    # By the row's number, not by a running generator: each pass and each process draws the same rows.
    return bool(np.random.default_rng([seed, index]).random() < share)
