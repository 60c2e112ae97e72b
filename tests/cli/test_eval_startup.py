"""What needs no model answers at once: `ttt-hf eval tasks`, `eval show` and every `--help` load no heavy library."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import ttt_hf
from ttt_hf.evaluation import Response, Sample, Task


HEAVY = ("torch", "transformers", "datasets", "evaluate", "pandas", "scipy", "soundfile", "jinja2", "huggingface_hub")
ACTIONS = ("run", "transcribe", "judge", "score", "compare", "show", "report", "tasks", "push")
PROGRAM = """
import contextlib, io, json, sys, time
sys.argv = ["ttt-hf", *sys.argv[1:]]
from ttt_hf.cli.main import main
output = io.StringIO()
with contextlib.redirect_stdout(output):
    try:
        code = main(sys.argv[1:])
    except SystemExit as end:
        code = end.code
print(json.dumps([code, output.getvalue(), sorted(sys.modules), time.process_time()]))
"""


class Parrot:
    """Repeats every question."""

    @property
    def description(self) -> dict[str, str]:
        return {"name": "parrot"}

    def respond(self, samples: Sequence[Sample], task: Task) -> list[Response]:
        return [Response(sample.question) for sample in samples]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("startup")
    rows = [{"question": word, "text": word} for word in ("one", "two")]
    (folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"question": "question", "references": "text"}
    task = {"version": 1, "source": {"path": "./words.jsonl", "columns": columns}}
    task |= {"prompt": "text", "output": "text", "scorer": "same_answer"}
    (folder / "words.yaml").write_text(json.dumps(task))
    ttt_hf.evaluate(Parrot(), folder / "words.yaml", out=folder / "out")
    return folder / "out"


def start(*words: object) -> tuple[int, str, set[str], float]:
    command = [sys.executable, "-c", PROGRAM, *map(str, words)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    code, output, modules, seconds = json.loads(result.stdout)
    return code, output, set(modules), seconds


def check_light(modules: set[str], seconds: float) -> None:
    assert not modules & set(HEAVY)
    # Of the processor, not of the wall: the machine that runs the tests may be busy.
    assert seconds < 1.0


def test_listing_tasks_loads_nothing_heavy() -> None:
    code, output, modules, seconds = start("eval", "tasks")
    assert code == 0 and "librispeech_clean" in output
    check_light(modules, seconds)


def test_showing_results_loads_nothing_heavy(scored: Path) -> None:
    code, output, modules, seconds = start("eval", "show", scored)
    assert code == 0 and "words" in output and "accuracy" in output
    check_light(modules, seconds)


@pytest.mark.parametrize("words", [["--help"], ["eval", "--help"], *(["eval", name, "--help"] for name in ACTIONS)])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    code, output, modules, seconds = start(*words)
    assert code == 0 and output.startswith("usage: ttt-hf") and "example" in output
    check_light(modules, seconds)


def test_a_wrong_task_is_said_without_loading_a_model() -> None:
    code, _, modules, seconds = start("eval", "run", "librispeech_cleen", "--out", "nowhere")
    assert code == 2
    check_light(modules, seconds)


def test_importing_the_package_does_not_load_the_harness() -> None:
    program = "import sys, ttt_hf; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {name for name in result.stdout.split() if name.startswith("ttt_hf.evaluation")}
