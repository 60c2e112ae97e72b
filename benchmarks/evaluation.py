"""Speed of `ttt-hf eval` with the embedded checkpoint: how long a run takes, and how much faster batches are.

    python benchmarks/evaluation.py
    python benchmarks/evaluation.py --parts batches --json
    python benchmarks/evaluation.py --readme README.md

`run` times the command `ttt-hf eval run tiny` from outside: loading, generation, transcription, report. `batches`
generates the same replies one by one and in batches, in turn; they must be equal. The quality of the answers is scored
elsewhere, on more questions: `python -m recipes.tiny.score`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import fill, machine

from ttt_hf.evaluation.concepts import SpeechModel
from ttt_hf.evaluation.folder import TaskFolder
from ttt_hf.evaluation.models import load_model
from ttt_hf.evaluation.stages.answer import answer_task
from ttt_hf.evaluation.tasks import load_task


MARKS = ("<!-- evaluation:begin -->", "<!-- evaluation:end -->")
PRESET = "tiny"
BATCH_TASKS = ("tiny_asr", "tiny_qa", "tiny_spoken_qa")
AIM_SECONDS, AIM_TIMES = 360, 2.0


def time_run(preset: str, limit: int | None) -> dict[str, float]:
    """Seconds that the command takes: wall clock, and processor time of all cores together."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "ttt_hf.cli", "eval", "run", preset, "--out", out]
        command += ["--limit", str(limit)] if limit else []
        start, used = time.perf_counter(), _processor_seconds()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        # The time of the processors does not depend on what else the machine does.
        return {"seconds": time.perf_counter() - start, "processor_seconds": _processor_seconds() - used}


def _processor_seconds() -> float:
    # Of the processes that have ended: the command is one when it is read the second time.
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def compare_batches(model: SpeechModel, name: str, limit: int, batch_size: int, repeat: int) -> dict[str, Any]:
    """Answers the samples of a task one by one and in batches, in turn; reports the best time of each."""
    seconds = {1: float("inf"), batch_size: float("inf")}
    said: dict[int, list[dict[str, Any]]] = {}
    task = load_task(name)
    for _ in range(repeat):
        for size in seconds:
            # A new folder each time, because recorded replies would not be generated again.
            with tempfile.TemporaryDirectory() as place:
                folder = TaskFolder(Path(place))
                start = time.perf_counter()
                answer_task(task, model, folder, limit=limit, batch_size=size)
                seconds[size] = min(seconds[size], time.perf_counter() - start)
                # The time of a reply differs in every run; all else has to be equal.
                said[size] = [{**row, "seconds": None} for row in folder.replies()]
    return {
        "task": name,
        "samples": len(said[1]),
        "batch_size": batch_size,
        "samples_per_second": {str(size): len(said[size]) / taken for size, taken in seconds.items()},
        "times": seconds[1] / seconds[batch_size],
        "same_replies": said[1] == said[batch_size],
    }


def total_times(batches: list[dict[str, Any]]) -> float:
    """Speed-up by batches over all tasks together."""
    # A dictionary keeps its order: one by one, then in batches.
    single, batched = (
        sum(entry["samples"] / list(entry["samples_per_second"].values())[place] for entry in batches)
        for place in (0, 1)
    )
    return single / batched


def table(report: dict[str, Any]) -> str:
    """The report as Markdown tables."""
    blocks = []
    if "run" in report:
        minutes, used = (report["run"][key] / 60 for key in ("seconds", "processor_seconds"))
        blocks.append(
            f"`ttt-hf eval run {PRESET}` takes {minutes:.1f} minutes (aim: {AIM_SECONDS // 60}), "
            f"{used:.1f} minutes of processor time."
        )
    if "batches" in report:
        size = report["batches"][0]["batch_size"]
        lines = [
            f"| task | one by one | batches of {size} | | same replies |",
            "|---|---|---|---|---|",
        ]
        for entry in report["batches"]:
            single, batched = entry["samples_per_second"].values()
            lines.append(
                f"| {entry['task']}, {entry['samples']} samples | {single:.2f} a second | {batched:.2f} a second "
                f"| **{entry['times']:.1f} x** | {'yes' if entry['same_replies'] else 'NO'} |"
            )
        lines.append(f"| together | | | **{total_times(report['batches']):.1f} x** (aim: {AIM_TIMES:g} x) | |")
        blocks.append("\n".join(lines))
    made = report["machine"]
    return "\n\n".join(
        [
            *blocks,
            f"{made['device']}, {made['threads']} threads; torch {made['torch']}, transformers "
            f"{made['transformers']}. Command: `{report['command']}`.",
        ]
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["run", "batches"], default=["run", "batches"])
    parser.add_argument("--limit", type=int, help="samples of a task (default: all, and 32 for the batches)")
    parser.add_argument("--batch-size", type=int, default=8, help="size of the batches (default: 8)")
    parser.add_argument("--repeat", type=int, default=2, help="runs; the best time of each counts (default: 2)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own)")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the tables")
    parser.add_argument("--readme", type=Path, help="also put the tables between their marks in this file")
    args = parser.parse_args()

    if args.threads:
        torch.set_num_threads(args.threads)
    options = [f"--parts {' '.join(args.parts)}"] if len(args.parts) < 2 else []
    report: dict[str, Any] = {
        "command": " ".join(["python benchmarks/evaluation.py", *options]),
        "machine": machine("cpu"),
    }
    if "run" in args.parts:
        report["run"] = time_run(PRESET, args.limit)
    if "batches" in args.parts:
        model = load_model("ttt-tiny")
        report["batches"] = [
            compare_batches(model, name, args.limit or 32, args.batch_size, args.repeat) for name in BATCH_TASKS
        ]
    print(json.dumps(report, indent=2) if args.json else table(report))
    if args.readme:
        fill(args.readme, table(report), MARKS)
    # After the report, which shows the task that differs.
    if not all(entry["same_replies"] for entry in report.get("batches", [])):
        raise SystemExit("Batches say something else than single samples.")


if __name__ == "__main__":
    main()
