"""Folders of evaluations with a damaged file: read, scored, and continued."""

from __future__ import annotations

from pathlib import Path

from recorded_run import Answer, write_questions, write_recognition

from ..mutations import Damage
from .material import link, pick_file, write_checkpoint, write_jsonl, write_recordings
from .material import run as run_command


IMPORTS = ("ttt_hf.evaluation.harness", "ttt_hf.evaluation.report", "ttt_hf.evaluation.compare", "jiwer",
           "whisper_normalizer.english", "matplotlib.pyplot")  # fmt: skip


def prepare(base: Path) -> None:
    answers = [
        Answer("0", "hello there", "hello there", "Say hello.", "hello there"),
        Answer("1", "two plus three", "two plus tree", "What is it?", "two plus tree"),
        Answer("2", "five", "", "What is five?", finish_reason="error", error="The file is broken."),
    ]
    for run in ("first", "second"):
        write_recognition(base / run / "tiny_asr", answers)
        write_questions(base / run / "questions", answers)
    write_checkpoint(base / "checkpoint")
    write_jsonl(base / "data" / "rows.jsonl", write_recordings(base / "data", 3))
    run_command(*_evaluate(base), f"--out={base / 'unfinished'}")


def make(damage: Damage, base: Path, folder: Path) -> list[str]:
    if damage.random() < 0.3:
        unfinished = link(base / "unfinished", folder / "out")
        damage.file(pick_file(damage, unfinished, "*.json", "*.jsonl"))
        return [*_evaluate(base), "--out=out"]
    run = link(base / "first", folder / "first")
    damage.file(pick_file(damage, run, "*.json", "*.jsonl"))
    actions = [
        ["show", str(run)],
        ["show", str(run), "--json"],
        ["score", str(run)],
        ["score", str(run / "tiny_asr"), "scorer=cer"],
        ["report", str(run)],
        ["compare", str(base / "second"), str(run)],
        ["compare", str(run), str(base / "second"), "--json"],
    ]
    return ["eval", *damage.choice(actions)]


def _evaluate(base: Path) -> list[str]:
    return ["eval", "run", "local", f"path={base / 'data' / 'rows.jsonl'}", f"--model={base / 'checkpoint'}"]
