"""Scores a checkpoint in Python, by the same call that `ttt-hf eval run` makes.

python examples/evaluate_checkpoint.py tiny_asr tiny_qa --out scores --limit 20
"""

from __future__ import annotations

import argparse

import ttt_hf


def main(model: str, tasks: list[str], out: str, limit: int | None) -> None:
    # Replies, transcripts and scores are kept in `out`: the same call continues an interrupted run, and a finished one
    # is scored again without generating anything. Generation settings may follow, e.g. audio_steps_per_block=8.
    results = ttt_hf.evaluate(model, tasks, out=out, limit=limit)
    for task, result in results.items():
        for name, metric in result["metrics"].items():
            interval = f"{metric['low']:.4f} to {metric['high']:.4f}"  # error and accuracy rates are fractions
            print(f"{task}: {name} {metric['value']:.4f} (95 % interval {interval}, n = {metric['n']})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", help="names of tasks or presets (`ttt-hf eval tasks` lists them)")
    parser.add_argument("--out", default="scores", help="folder of the run")
    parser.add_argument("--limit", type=int, help="first samples of each task; not the benchmark's number")
    parser.add_argument("--model", default="embedded", help="folder or Hub id")
    arguments = parser.parse_args()
    main(arguments.model, arguments.tasks, arguments.out, arguments.limit)
