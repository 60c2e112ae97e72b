"""What an earlier encoding of changed data is still good for: every row is known by a key of its content.

A key has two halves: a hash of the canonical row, and one of the sizes and times of the recordings that it names. A
shard records the keys of its rows, so that a later run encodes what has another key, and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ..processing.fetching import is_address
from .conversations import Row, row_items
from .sources import ENCODING_FILE, ROW_COLUMNS


METADATA_KEY = b"ttt_hf"
SHARDS = "shard-*.parquet"
# Shards of rows that changed keep such a name until their other rows have been taken over.
RETIRED = ".old-*.parquet"
# In place of the second half of a key: the recording is gone.
_GONE = "gone"

# Shard, number of a row in it from 0, and its seconds of audio.
Found: TypeAlias = tuple[Path, int, float]
Statistics: TypeAlias = dict[str, Any]


def row_key(row: Row, number: int | None = None) -> str:
    """Hashes all of a checked row that its codes depend on.

    Args:
        row: The row.
        number: Its number, where that decides on its variants.

    Returns:
        The hash of the row, `-`, and that of its recordings. URLs count by their address alone.
    """
    content = [_bare({name: row.get(name) for name in (*ROW_COLUMNS, "error")}), number]
    # Of samples and bytes, which JSON cannot hold, the hash counts.
    text = json.dumps(content, sort_keys=True, default=_hash_bytes)
    paths = [item["path"] for item in row_items(row) if item.get("path") and not is_address(item["path"])]
    states = [_file_state(path) for path in paths]
    return f"{_hash(text, 16)}-{_GONE if None in states else _hash(repr(states), 8)}"


def _bare(value: Any) -> Any:
    """Without what is empty, so that a column that a later version adds changes no key."""
    if isinstance(value, Mapping):
        return {name: _bare(part) for name, part in value.items() if part is not None}
    return [_bare(part) for part in value] if isinstance(value, list) else value


def _hash(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def _hash_bytes(value: Any) -> str:
    return hashlib.sha256(value if isinstance(value, bytes) else repr(value).encode()).hexdigest()


def _file_state(path: str) -> tuple[int, int] | None:
    try:
        state = os.stat(path)
    except (OSError, ValueError):  # a NUL in the name is a ValueError
        return None
    return state.st_size, state.st_mtime_ns


@dataclass
class Plan:
    """Which shards of a folder stay, and which have to be written.

    Args:
        keys: Keys of all rows of the data.
        kept: Shards that stay, with their statistics (see `shards.read_statistics`).
        stale: Shards whose rows are no longer those of the data, or in another place.
        missing: Path of each shard to write, and the number of its first row.
        todo: Numbers of the rows to encode: those of missing shards that are in no other shard.
        changed: How many of them are new, or differ from those of an earlier run.
        is_done: Whether the folder is complete as it is.
    """

    keys: list[str]
    kept: dict[Path, Statistics]
    stale: dict[Path, Statistics]
    missing: list[tuple[Path, int]]
    todo: list[int]
    changed: int
    is_done: bool

    def find(self) -> dict[str, Found]:
        """Finds the rows of missing shards that are encoded already, by their keys."""
        found: dict[str, Found] = {}
        for path, statistics in {**self.kept, **self.stale}.items():
            written = zip(_written_keys(statistics), statistics.get("row_seconds", ()))
            found |= {key: (path, index, seconds) for index, (key, seconds) in enumerate(written)}
        return found

    def retire(self) -> None:
        """Renames stale shards, so that none of their rows is lost before it is taken over."""
        self.stale = {_retire(path): statistics for path, statistics in self.stale.items()}


def plan_shards(folder: Path, keys: Sequence[str], shard_size: int, remote: Collection[int]) -> Plan:
    """Compares the rows of the data with what a folder holds.

    Args:
        folder: The folder; it need not exist.
        keys: Keys of all rows.
        shard_size: Rows a shard.
        remote: Numbers of rows that are tried again if they are among the broken ones of a shard.

    Raises:
        ValueError: If a shard is damaged.
    """
    earlier = _read_shards(folder)
    was_complete = (folder / ENCODING_FILE).is_file() and bool(read_encoding(folder).get("complete"))
    # The codes of a recording that is gone are still there, and so is the key of its row.
    encoded = {key for statistics in earlier.values() for key in _written_keys(statistics)}
    known = {key.split("-")[0]: key for key in encoded}
    keys = [known.get(key.split("-")[0], key) if key.endswith(_GONE) else key for key in keys]
    kept, missing, todo = {}, [], []
    count = -(-len(keys) // shard_size)
    for number, start in enumerate(range(0, len(keys), shard_size)):
        path, own = folder / f"shard-{number:05d}-of-{count:05d}.parquet", keys[start : start + shard_size]
        statistics = earlier.get(path, {})
        if statistics.get("keys") == own and not any(entry["row"] - 1 in remote for entry in statistics["broken"]):
            kept[path] = statistics
            continue
        missing.append((path, start))
        todo += [start + index for index, key in enumerate(own) if key not in encoded]
    stale = {path: statistics for path, statistics in earlier.items() if path not in kept}
    # Of a run that was interrupted, rows of other shards are new to nobody.
    recorded = {key for statistics in earlier.values() for key in statistics.get("keys", ())}
    is_again = was_complete or bool(stale)
    changed = sum(keys[number] not in recorded for number in todo) if is_again else 0
    return Plan(keys, kept, stale, missing, todo, changed, was_complete and not missing and not stale)


def _read_shards(folder: Path) -> dict[Path, Statistics]:
    found = {}
    for path in sorted([*folder.glob(SHARDS), *folder.glob(RETIRED)]):
        with suppress(FileNotFoundError):  # another process has replaced it meanwhile
            found[path] = read_statistics(path)
    return found


def _retire(path: Path) -> Path:
    return path if path.match(RETIRED) else path.replace(path.with_name(RETIRED.replace("*", secrets.token_hex(8))))


def _written_keys(statistics: Mapping[str, Any]) -> list[str]:
    """The keys of the rows in a shard, without those that were left out."""
    broken = {entry["row"] - 1 - statistics.get("start", 0) for entry in statistics["broken"]}
    return [key for index, key in enumerate(statistics.get("keys", ())) if index not in broken]


def read_rows(found: Mapping[str, Found]) -> dict[str, tuple[Row, float]]:
    """Reads encoded rows.

    Returns:
        Key -> row and its seconds of audio.
    """
    import pyarrow.parquet as pq

    by_shard = defaultdict(list)
    for key, (path, index, seconds) in found.items():
        by_shard[path].append((key, index, seconds))
    rows: dict[str, tuple[Row, float]] = {}
    for path, entries in by_shard.items():
        table = pq.ParquetFile(path).read().take([index for _, index, _ in entries])
        for (key, _, seconds), row in zip(entries, table.to_pylist()):
            rows[key] = row, seconds
    return rows


def read_statistics(path: Path) -> dict[str, Any]:
    """Reads the statistics of a finished shard from its metadata.

    Returns:
        `fingerprint` of the codec, `start` in the source, number of `source_rows` and their `keys`, `rows` written,
        `seconds` of audio in all and by row (`row_seconds`), number of `variants`, and the rows that are `broken`.

    Raises:
        ValueError: If they cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait forever
            raise ValueError("it is no file")
        return json.loads((pq.read_schema(path).metadata or {})[METADATA_KEY])
    except (pa.ArrowInvalid, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged: delete it, and run the same command again.") from error


def read_encoding(folder: Path) -> dict[str, Any]:
    """Reads encoding.json.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged.
    """
    path = folder / ENCODING_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no encoding (it has no {ENCODING_FILE}): make one with `ttt-hf encode`."
        )
    try:
        encoding = json.loads(path.read_text(encoding="utf-8"))
        # Shows at once whether this is the content of an encoding.
        encoding["fingerprint"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: delete the folder and encode again.") from error
    return encoding
