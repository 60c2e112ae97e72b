"""Files that only grow: nothing is lost, nothing is glued together, nothing is made twice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from ttt_hf.evaluation.store import JsonLinesFile, digest, latest_lines, merge_parts, read_lines, write_json


def row(number: int, fingerprint: str = "a", **more: object) -> dict[str, object]:
    return {"id": f"s{number}", "fingerprint": fingerprint, **more}


def write(path: Path, *rows: dict[str, object], rank: int = 0) -> None:
    with JsonLinesFile(path, rank) as file:
        file.append(rows)


def test_rows_come_back_in_order_with_any_characters(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write(path, row(1, text="你好\u2028\n"), row(2))
    write(path, row(3))
    assert [entry["id"] for entry in read_lines(path)] == ["s1", "s2", "s3"]
    assert next(read_lines(path))["text"] == "你好\u2028\n"


def test_a_file_that_is_not_there_has_no_rows(tmp_path: Path) -> None:
    assert latest_lines(tmp_path / "rows.jsonl") == {}


def test_the_latest_row_of_an_id_and_fingerprint_counts(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write(path, row(1, text="old"), row(1, "b", text="of another"), row(1, text="new"), row(2))
    assert {key: entry.get("text") for key, entry in latest_lines(path, "a").items()} == {"s1": "new", "s2": None}
    assert len(list(read_lines(path))) == 4


@pytest.mark.parametrize("cut", range(1, 30, 4))
def test_half_a_line_is_no_row_and_is_overwritten(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "rows.jsonl"
    write(path, row(1), row(2, text="a longer line than the others"))
    path.write_bytes(path.read_bytes()[:-cut])
    assert list(latest_lines(path)) == ["s1"]
    write(path, row(3))
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["s1", "s3"]


def test_half_a_line_longer_than_a_block_is_found(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write(path, row(1))
    with path.open("a") as file:
        file.write('{"id": "' + "x" * 200_000)
    write(path, row(2))
    assert list(latest_lines(path)) == ["s1", "s2"]


@pytest.mark.parametrize("line", ["{broken}", "[1]", '{"text": "no id"}'])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"id": "s1"}}\n{line}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2 is damaged \(.+\): delete that line"):
        list(read_lines(path))


def test_parts_of_other_processes_are_read_and_moved(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write(path, row(1))
    write(path, row(2), rank=1)
    write(path, row(3), rank=2)
    with (tmp_path / "rows.part-2.jsonl").open("a") as file:
        file.write('{"id": "s4"')
    assert list(latest_lines(path)) == ["s1", "s2", "s3"]
    merge_parts(path)
    assert list(tmp_path.iterdir()) == [path]
    assert list(latest_lines(path)) == ["s1", "s2", "s3"]


def test_a_full_disk_is_said_and_costs_no_row(
    tmp_path: Path, limit_file_size: Callable[[int], AbstractContextManager[None]]
) -> None:
    path = tmp_path / "rows.jsonl"
    write(path, row(1))
    with limit_file_size(200), pytest.raises(OSError, match=r"rows\.jsonl cannot be written .* free some space"):
        write(path, row(2, text="x" * 500))
    assert list(latest_lines(path)) == ["s1"]
    write(path, row(3))
    assert list(latest_lines(path)) == ["s1", "s3"]


def test_fingerprints_tell_values_apart_and_not_orders() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": "1"})


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_json(path, {"value": 1})
    with pytest.raises(ValueError):
        write_json(path, {"value": float("nan")})
    assert json.loads(path.read_text()) == {"value": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "predictions.jsonl")
    with (
        pytest.raises(OSError, match=r"predictions\.jsonl is no file: delete it"),
        JsonLinesFile(tmp_path / "predictions.jsonl"),
    ):
        pass
