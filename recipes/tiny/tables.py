"""The recipe's tables: JSONL files, read and written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ttt_hf.atomic_files import atomic_write


Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Reads a table.

    Args:
        path: JSONL file.

    Returns:
        Its rows. A last line without its end, as an interrupted synthesis leaves it, is left out.

    Raises:
        FileNotFoundError: The data have not been made yet.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: make the data first (python -m recipes.tiny.synthesize).")
    # Not `splitlines`, which also splits at separators that JSON strings may hold. A complete last line ends with a
    # newline, so that what follows it is empty or cut.
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines if line.strip()]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes a table atomically.

    Args:
        path: JSONL file; its folder exists.
        rows: Its rows.
    """
    with atomic_write(path) as part:
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
