"""What a single row or reply does wrong is named and counted, and the others are answered and scored."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from scripted import ScriptedJudge, ScriptedModel, tone, write_task

from ttt_hf.evaluation import TaskFolder, answer_task, judge_task, load_task, score_task, task_to_score
from ttt_hf.evaluation.concepts import Judgement, Response
from ttt_hf.evaluation.report import terminal_table, write_html, write_markdown
from ttt_hf.evaluation.store import JsonLinesFile, latest_lines


BROKEN = "half \ud83d of a pair"


def run(folder: Path, model: ScriptedModel | None = None, rows: dict[int, dict[str, Any]] | None = None) -> TaskFolder:
    """Ten rows, some of them changed; answered and scored."""
    spec = write_task(folder)
    data = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    for index, change in (rows or {}).items():
        data[index] |= change
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    files = TaskFolder(folder / "run" / "numbers")
    answer_task(load_task(spec), model or ScriptedModel(), files, loaded_from=str(spec), batch_size=4)
    score_task(files, task_to_score(files))
    return files


def only_failure(files: TaskFolder) -> str:
    results = files.read_results()
    assert (results["n_scored"], results["n_failed"], results["n_expected"]) == (10, 1, 10)
    assert results["metrics"]["wer"]["value"] == pytest.approx(0.1), "nine are right, the failed one is deleted"
    assert "1 failed, counted in the denominator. The first failure: " in terminal_table([results])
    for write in (write_markdown, write_html):
        write(files.path)
    return results["first_failure"]


def flac_of_an_hour(path: Path) -> None:
    """A header alone that claims an hour of eight channels at 48 kHz."""
    samples = 48_000 * 3600
    rate_and_size = (48_000 << 44) | (7 << 41) | (15 << 36) | samples
    header = (4096).to_bytes(2, "big") * 2 + bytes(6) + rate_and_size.to_bytes(8, "big") + bytes(16)
    path.write_bytes(b"fLaC" + b"\x80\x00\x00\x22" + header)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("pipe.wav", "pipe.wav"),
        ("hour.flac", "hour.flac"),
        ("http://127.0.0.1:9/a file.wav", "127.0.0.1 is an address of this machine"),
        ("http://[::1", "[::1"),
        ("http://127.0.0.1:9/\x01", "127.0.0.1 is"),
        (BROKEN + ".wav", "half"),
        ("x" * 5000 + ".wav", "x"),
        ("nul\x00.wav", "nul"),
        ("/dev/zero", "/dev/zero"),
        ("audio", "folder"),
        ({"array": [[0.1], [0.2, 0.3]], "sampling_rate": 16000}, ""),
        ({"array": [0.1] * 9000, "sampling_rate": "fast"}, "fast"),
        (["audio/1.wav"], ""),
        (17, ""),
    ],
)
def test_a_recording_that_cannot_be_read_fails_alone(tmp_path: Path, source: object, words: str) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    flac_of_an_hour(tmp_path / "hour.flac")
    model = ScriptedModel()
    assert words in only_failure(run(tmp_path, model, {3: {"audio": source}}))
    assert sorted(model.asked) == sorted(f"s{number}" for number in range(10) if number != 3)


def test_a_header_does_not_take_memory(tmp_path: Path) -> None:
    flac_of_an_hour(tmp_path / "hour.flac")
    assert soundfile.info(tmp_path / "hour.flac").frames == 48_000 * 3600
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))\n"
        "from ttt_hf.processing.audio import read_audio\n"
        "try: read_audio(sys.argv[1])\nexcept ValueError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "hour.flac")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "hour.flac" in said


@pytest.mark.parametrize("change", [{"text": BROKEN}, {"id": BROKEN}], ids=["transcript", "id"])
def test_a_text_that_is_no_unicode_fails_alone(tmp_path: Path, change: dict[str, Any]) -> None:
    spec = write_task(tmp_path)
    data = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    data[3] |= change
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    files = TaskFolder(tmp_path / "run" / "numbers")
    model = ScriptedModel()
    answer_task(load_task(spec), model, files, loaded_from=str(spec))
    results = score_task(files, task_to_score(files))
    assert (results["n_scored"], results["n_failed"], len(model.asked)) == (10, 1, 9)
    assert (
        results["first_failure"] == f"{tmp_path / 'data.jsonl'}, line 4 holds broken Unicode, half of a surrogate "
        "pair: correct its text."
    )


def test_a_question_that_is_no_unicode_fails_alone(tmp_path: Path) -> None:
    rows = [{"question": "Who?", "answer": "me"}, {"question": BROKEN, "answer": "me"}]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"question": "question", "references": "answer"}
    spec = write_task(tmp_path / "task", source={"path": str(tmp_path / "data.jsonl"), "columns": columns})
    files = TaskFolder(tmp_path / "run" / "numbers")
    answer_task(load_task(spec), ScriptedModel(), files, loaded_from=str(spec))
    results = score_task(files, task_to_score(files))
    assert results["n_failed"] == 1 and "line 2 holds broken Unicode" in results["first_failure"]


@pytest.mark.parametrize(
    "response",
    [
        Response(BROKEN),
        Response("", finish_reason="error", error=BROKEN),
        Response(7),  # type: ignore[arg-type]
        Response("three", audio=np.full(800, np.nan)),
        Response("three", audio=tone(0.1).reshape(2, -1)),
        Response("three", audio=tone(0.1), sampling_rate=0),
        Response("three", audio=tone(0.1), sampling_rate=1_000_000),
    ],
    ids=["text", "error", "no text", "NaN", "two dimensions", "no rate", "too high a rate"],
)
def test_a_reply_that_cannot_be_recorded_fails_alone(tmp_path: Path, response: Response) -> None:
    assert only_failure(run(tmp_path, ScriptedModel({"s3": response})))


def test_what_nobody_noticed_is_written_without_its_broken_characters(tmp_path: Path) -> None:
    path = tmp_path / "transcripts.jsonl"
    with JsonLinesFile(path) as file:
        file.append(
            [{"id": id_, "fingerprint": "f", "text": text} for id_, text in {"a": "right", "b": BROKEN}.items()]
        )
    assert {key: line["text"] for key, line in latest_lines(path).items()} == {
        "a": "right",
        "b": "half ? of a pair",
    }


def test_a_judge_may_say_anything(tmp_path: Path) -> None:
    spec = write_task(tmp_path, prompt="chat", scorer="openaudiobench_judge")
    files = TaskFolder(tmp_path / "run" / "numbers")
    answer_task(load_task(spec), ScriptedModel(), files, loaded_from=str(spec))
    judge_task(files, ScriptedJudge({"s3": Judgement(None, BROKEN, f"The judge's answer is neither: {BROKEN}")}))
    results = score_task(files, task_to_score(files))
    assert (results["n_scored"], results["counts"]["judge_errors"]) == (9, 1)
