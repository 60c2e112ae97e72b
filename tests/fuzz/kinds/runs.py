"""Folders of evaluations with a damaged file."""

from __future__ import annotations

import sys
from pathlib import Path

from ..mutations import Damage
from .material import link, pick_file


sys.path.append(str(Path(__file__).parents[2] / "evaluation"))  # tests/evaluation, which is no package
from recorded_run import Answer, write_questions, write_recognition


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
        write_questions(base / run / "tiny_spoken_qa", answers)


def make(damage: Damage, base: Path, folder: Path) -> list[str]:
    run = link(base / "first", folder / "first")
    for _ in range(damage.choice([1, 1, 2])):
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
