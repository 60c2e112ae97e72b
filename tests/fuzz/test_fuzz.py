"""Some cases of each kind, and the judgement of the runner."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from . import runner
from .mutations import Damage


@pytest.mark.slow
@pytest.mark.parametrize("kind", runner.KINDS)
def test_damaged_input_is_refused_in_a_sentence(kind: str, tmp_path: Path) -> None:
    outcomes = list(runner.run_cases(kind, range(20), 0, tmp_path))
    assert len(outcomes) == 20
    assert [f"case {outcome.case}: {outcome.fault}: {outcome.stderr}" for outcome in outcomes if outcome.fault] == []


def _print_a_traceback() -> list[str]:
    print("Traceback (most recent call last):\n  of a library", file=sys.stderr)
    return ["info", "/nowhere"]


def _compute() -> list[str]:
    while time.process_time() < 60:
        pass
    return ["--version"]


def _take_memory() -> list[str]:
    memory = bytearray(200 * 2**20)
    return ["info", f"/nowhere{len(memory)}"]


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: ["info", "/nowhere"], ""),
        (lambda: ["--version"], ""),
        (lambda: [][0], "the fuzzer failed"),
        (lambda: time.sleep(2) or ["--version"], ""),
        (lambda: time.sleep(60), "ran longer than 1 s"),
        (_compute, "ran longer than 1 s"),
        (_print_a_traceback, "printed 'Traceback (most recent call last)'"),
        (_take_memory, "took more than 2 GB"),
    ],
)
def test_faults_are_found(
    make: Callable[[], list[str]], fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = SimpleNamespace(IMPORTS=(), prepare=lambda base: None, make=lambda damage, base, folder: make())
    monkeypatch.setattr(runner, "load_kind", lambda name: kind)
    monkeypatch.setattr(runner, "MEMORY", 100 * 2**20)
    monkeypatch.setattr(runner, "PATIENCE", 4)
    (outcome,) = runner.run_cases("any", [runner.UNDAMAGED], 0, tmp_path, seconds=1.0)
    assert outcome.fault == fault


def test_a_case_is_made_again_from_its_number(tmp_path: Path) -> None:
    data = bytes(range(256)) * 4
    assert Damage("0/audio/7").bytes(data) == Damage("0/audio/7").bytes(data) != data
    tree = {"a": [1, {"b": 2}], "c": "d"}
    assert repr(Damage("0/tasks/7").tree(tree)) == repr(Damage("0/tasks/7").tree(tree))
    assert tree == {"a": [1, {"b": 2}], "c": "d"}
    off = Damage("0/tasks/7", is_off=True)
    assert off.bytes(data) == data and off.tree(tree) == tree
