"""The benchmark of weights in 8 bits runs every way on the same scenario."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))  # as where a script is run
    import int8

    yield int8
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.mark.slow
def test_table(benchmark: ModuleType) -> None:
    name, make = next(iter(benchmark.SCENARIOS.items()))
    report = {name: benchmark.measure(make, 1)}
    assert list(report[name]) == list(benchmark.WAYS)
    assert all(way["ms"] > 0 and way["tokens"] > 20 and way["forwards"] > 10 for way in report[name].values())
    head, _, row, *_ = benchmark.table(report).splitlines()
    assert head.startswith("| | float32 | 8 bits |") and row.startswith(f"| {name} |") and "(1.00x)" in row
