"""A damaged file of a run is named with the line and the key that are wrong, by every command that reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recorded_run import Answer, write_questions, write_recognition
from ttt_hf.evaluation.compare import compare_runs
from ttt_hf.evaluation.folder import TaskFolder
from ttt_hf.evaluation.report import read_results, terminal_table, write_html, write_markdown
from ttt_hf.evaluation.stages.score import score_task, task_to_score


ANSWERS = [Answer("a", "one two", "one", speech="one"), Answer("b", "three", "three", speech="three")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for run in ("first", "second"):
        write_questions(tmp_path / run / "questions", ANSWERS)
        write_recognition(tmp_path / run / "reading", ANSWERS)
    return tmp_path


def show(folder: Path) -> None:
    terminal_table(read_results(folder / "first"))


def score(folder: Path) -> None:
    for task in ("questions", "reading"):
        files = TaskFolder(folder / "first" / task)
        score_task(files, task_to_score(files))


def report(folder: Path) -> None:
    write_markdown(folder / "first")
    write_html(folder / "first")


def compare(folder: Path) -> None:
    compare_runs(folder / "first", folder / "second")


def change(path: Path, key: str, value: Any) -> None:
    """Another value of a key; of a file of lines, in the last one. A key of None replaces everything."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    content: Any = json.loads(lines[-1])
    *parents, last = key.split(".")
    inner = content
    for parent in parents:
        inner = inner[parent]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    lines[-1] = json.dumps(content)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("file", "key", "value", "words", "reader"),
    [
        ("results.json", "n_failed", ..., "n_failed is missing", show),
        ("results.json", "n_failed", "one", 'n_failed is "one" and not a whole number', show),
        ("results.json", "n_failed", True, "n_failed is true and not a whole number", show),
        ("results.json", "metrics.accuracy_speech.value", 1e400, "Infinity is no number of JSON", show),
        ("results.json", "metrics.accuracy_speech.value", 1e30, "metrics.accuracy_speech.value is 1e+30", report),
        ("results.json", "metrics.accuracy_speech.unit", None, "metrics.accuracy_speech.unit is null", compare),
        (
            "results.json",
            "metrics",
            {},
            "headline is 'accuracy_speech', and there is no value of accuracy_speech",
            show,
        ),
        ("results.json", "headline", "other", "headline is 'other'", report),
        ("results.json", "task.scorer", "none", "task.scorer is 'none' and not one of wer", report),
        ("results.json", "counts", [], "counts is empty and not an object", report),
        ("results.json", "limited", {"n": 1}, "limited.of is missing", show),
        ("results.json", "model", "name", 'model is "name" and not an object', report),
        ("settings.json", "samples", {}, "samples is empty and not a list", score),
        ("settings.json", "task.source.columns", None, "task.source.columns is null", report),
        ("settings.json", "task", [], "task is empty and not an object", compare),
        ("settings.json", "judge_price", [1], "judge_price has 1 values and not 2", score),
        ("settings.json", "n_expected", -1, "n_expected is -1, less than 0", score),
        ("predictions.jsonl", "references", "one", 'references is "one" and not a list', score),
        ("predictions.jsonl", "text", ..., "text is missing", report),
        ("predictions.jsonl", "finish_reason", "bored", 'finish_reason is "bored" and not one of stop', score),
        ("predictions.jsonl", "seconds", None, "seconds is null and not a number", score),
        ("transcripts.jsonl", "text", 3, "text is 3 and not a text", score),
        ("scores.jsonl", "values.accuracy_speech", [1], "values.accuracy_speech has 1 values and not 2", report),
        ("scores.jsonl", "values.accuracy_speech", [1, "x"], "values.accuracy_speech[1] is", compare),
    ],
)
def test_a_wrong_value_is_named(
    folder: Path, file: str, key: str, value: Any, words: str, reader: Callable[[Path], None]
) -> None:
    path = folder / "first" / "questions" / file
    change(path, key, value)
    with pytest.raises(ValueError, match=re.escape(str(path))) as error:
        reader(folder)
    said = str(error.value)
    assert words in said and "is damaged" in said and "delete" in said and "\n" not in said
    assert (", line " in said) is file.endswith("l")


@pytest.mark.parametrize("reader", [show, score, report, compare])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{", b"[" * 100_000, b"9" * 5000, b"NaN", b"[]", b"null"])
def test_what_is_no_record_is_said(folder: Path, content: bytes, reader: Callable[[Path], None]) -> None:
    name = "settings.json" if reader is score else "results.json"
    (folder / "first" / "questions" / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} (is damaged|has schema_version)"):
        reader(folder)


def test_keys_of_another_version_are_left_out(folder: Path) -> None:
    change(folder / "first" / "questions" / "settings.json", "task.colour", "red")
    change(folder / "first" / "questions" / "results.json", "colour", "red")
    change(folder / "first" / "questions" / "predictions.jsonl", "colour", "red")
    for reader in (show, score, report, compare):
        reader(folder)


def test_a_score_without_its_reply_is_said(folder: Path) -> None:
    change(folder / "first" / "questions" / "predictions.jsonl", "id", "c")
    with pytest.raises(ValueError, match=r"holds a score of b, which .*predictions\.jsonl has no reply to"):
        compare(folder)


def test_recordings_elsewhere_are_not_transcribed(folder: Path) -> None:
    from ttt_hf.evaluation.stages.transcribe import read_speech

    files = TaskFolder(folder / "first" / "questions")
    for path in ("../../second/questions/audio/b.flac", str(folder / "second/questions/audio/b.flac")):
        change(files.predictions, "audio", path)
        with pytest.raises(ValueError, match="is not in"):
            read_speech(files, files.replies()[-1])
