"""One kill of each verb, and the comparison of the runner."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_server import Hub

from .commands import Command, files
from .runner import is_refused, run_cases


ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "cases"), [("encode", 4), ("train", 2), ("eval", 2), ("convert", 8), ("push", 2)])
def test_a_killed_command_continues(verb: str, cases: int) -> None:
    # A process of its own: the Hub's client reads its address when it is imported.
    command = [sys.executable, "-m", "tests.kills", "--verb", verb, "--cases", str(cases)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 faults" in done.stdout and " 0 kills" not in done.stdout


def test_other_results_are_a_fault(checkpoint: Path, tmp_path: Path, hub: Hub) -> None:
    numbers: Iterator[int] = itertools.count()

    def describe(base: Path) -> list[str]:
        return ["info", str(checkpoint)]

    changing = Command("info", (), describe, lambda folder: {"result": next(numbers)})
    (outcome,) = run_cases((changing,), [0], 0, tmp_path / "base", hub)
    assert outcome.fault == "result differs: it is 1 instead of 0"
    failing = Command("info", (), lambda base: ["info", "/nowhere"], files)
    with pytest.raises(RuntimeError, match="fails without a kill, exit code 1"):
        list(run_cases((failing,), [0], 0, tmp_path / "base", hub))


def test_a_refusal_is_right_only_when_all_is_there() -> None:
    whole = {"out/config.json": {"a": 1}}
    refusal = "ttt-hf: error: out exists and is not empty: name another folder, or remove it first."
    assert is_refused(1, refusal, whole, dict(whole))
    assert not is_refused(1, refusal, whole, {})
    assert not is_refused(1, "Traceback (most recent call last):", whole, dict(whole))
    assert not is_refused(-9, "", whole, dict(whole))


def test_what_tells_the_time_is_not_compared(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"wer": 0.5, "seconds": {"load": 1.0}, "rows": [{"id": 1, "runtime": 2}]}')
    (tmp_path / "rows.jsonl").write_text('{"id": 2}\n{"id": 1, "train_runtime": 3}\n')
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    found = files(tmp_path)
    assert found["results.json"] == {"wer": 0.5, "rows": [{"id": 1}]}
    assert found["rows.jsonl"] == ['{"id": 1}', '{"id": 2}']
    (tmp_path / "model.safetensors").write_bytes(b"other")
    assert files(tmp_path) != found and files(tmp_path).keys() == found.keys()
