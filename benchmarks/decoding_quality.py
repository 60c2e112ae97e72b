"""What spoken replies cost and how well they are spoken, over decoding settings of the embedded checkpoint.

    python -m recipes.tiny.score --model ttt-tiny --out build/tiny --limit 1       # makes the held-out recordings once
    python benchmarks/decoding_quality.py --json build/decoding_quality.json       # measures, an hour of a core
    python benchmarks/decoding_quality.py --json build/decoding_quality.json --docs docs

All spoken replies of the recipe's held-out splits (questions answered in speech, sentences read aloud) are generated
with every setting, and transcribed. Answers are compared with the reply's own text, so that a wrong answer that is
well spoken has no errors. Differences are against the schedule alone, over the same samples, with a paired bootstrap
over samples; all seeds of a sample stay together. What an earlier run has answered in OUT is not generated again.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import fill, machine

import ttt_hf
from ttt_hf.atomic_files import atomic_write, atomic_write_text
from ttt_hf.evaluation.compare import compare_metric
from ttt_hf.evaluation.concepts import Response
from ttt_hf.evaluation.folder import TaskFolder
from ttt_hf.evaluation.models import load_model
from ttt_hf.evaluation.models.ttt import TtTModel
from ttt_hf.evaluation.store import latest_lines


MARKS = ("<!-- decoding:begin -->", "<!-- decoding:end -->")
PLOT = "decoding.svg"
# The word error rate of each task: of answers against the reply's own text, as a wrong answer may be well spoken.
TASKS = {"wording_answers": "wer_speech_vs_text", "read_aloud": "wer_speech"}


@dataclass(frozen=True)
class Setting:
    """Decoding settings of a span.

    Attributes:
        steps: Denoising steps per block.
        bound: Entropy bound in nats; 0 is none.
        threshold: Confidence threshold; 1 is none.
    """

    steps: int
    bound: float = 0.0
    threshold: float = 1.0

    @property
    def name(self) -> str:
        """Name of its folder, and in the plot."""
        return ", ".join([f"{self.steps} steps", *self.rules])

    @property
    def rules(self) -> list[str]:
        """What commits positions beyond the schedule."""
        bounds = [f"bound {self.bound:g}"] if self.bound else []
        return [*bounds, f"threshold {self.threshold:g}"] if self.threshold < 1 else bounds

    @property
    def keys(self) -> dict[str, Any]:
        """Keyword arguments of `generate()`."""
        # Both are named, as the checkpoint has a threshold of its own.
        return {
            "audio_steps_per_block": self.steps,
            "audio_entropy_bound": self.bound,
            "audio_confidence_threshold": self.threshold,
        }


# The first is the schedule alone, with which the others are compared.
SETTINGS = (
    Setting(16),
    Setting(16, threshold=0.9),
    Setting(16, bound=8.0),
)


class SpanCounter(TtTModel):
    """Counts a reply's forwards in spans only: those in text are one a token with every setting."""

    def _response(self, request: Any, row: Any, speaks: bool) -> Response:
        response = super()._response(request, row, speaks)
        if isinstance(row, Exception):
            return response
        config = self.model.config
        texts = sum(
            token < config.audio_token_start_id or token in config.begin_audio_token_ids
            for token in row.ids[len(request.ids) :]
        )
        return replace(response, forward_passes=row.num_forward_passes - texts)


def answer(setting: Setting, seeds: int, data: Path, out: Path, batch_size: int, limit: int | None) -> dict[str, Any]:
    """Generates, transcribes and scores all spoken replies with one setting.

    Returns:
        `setting`, `forwards` in spans a second of speech, and `samples`: errors and words of each sample, summed over
        the seeds.
    """
    plain = load_model("ttt-tiny")
    samples: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
    forwards, seconds = 0, 0.0
    for seed in range(seeds):
        model = SpanCounter(plain.model, plain.processor, plain.identity, {**setting.keys, "seed": seed})
        folder = out / setting.name / str(seed)
        files = [data / "eval" / f"{task}.yaml" for task in TASKS]
        ttt_hf.evaluate(model, files, out=folder, batch_size=batch_size, limit=limit)
        for task, metric in TASKS.items():
            records = TaskFolder(folder / task)
            for reply in records.replies():
                forwards += reply["forward_passes"]
                seconds += reply["audio_seconds"] or 0.0
            for name, score in latest_lines(records.scores).items():
                samples[f"{task}/{name}"] += score["values"][metric]
    return {
        "setting": asdict(setting),
        "forwards": forwards / seconds,
        "samples": {name: values.tolist() for name, values in samples.items()},
    }


def compare(answered: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Word errors of each setting, and their difference from those of the first one, without the samples."""
    first = answered[0]["samples"]
    rows = []
    for each in answered:
        samples = each["samples"]
        of_task = {task: [samples[name] for name in samples if name.startswith(f"{task}/")] for task in TASKS}
        rows.append(
            {
                "setting": each["setting"],
                "forwards": each["forwards"],
                "word_error": {task: _ratio(values) for task, values in of_task.items()},
                # A pair are the (errors, words) of both.
                "both": compare_metric([(first[name], samples[name]) for name in samples]),
            }
        )
    return rows


def _ratio(values: list[list[float]]) -> float:
    errors, words = np.sum(values, axis=0)
    return float(errors / words)


def table(report: dict[str, Any]) -> str:
    """The report as a Markdown table, with the plot."""
    lines = [
        "| steps a block | committed at once | forwards a second of speech | word error: answers | sentences | both | "
        "difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, row in enumerate(report["settings"]):
        setting, both = Setting(**row["setting"]), row["both"]
        rules = ", ".join(setting.rules) or "schedule only"
        answers, sentences, together = (
            f"{100 * value:.1f} %" for value in (*row["word_error"].values(), both["second"])
        )
        difference, low, high = (f"{100 * both[key]:+.1f}" for key in ("difference", "low", "high"))
        lines.append(
            f"| {setting.steps} | {rules} | **{row['forwards']:.1f}** | {answers} | {sentences} "
            f"| **{together}** | " + (f"{difference} ({low} to {high}) |" if number else "|")
        )
    return "\n".join(
        [
            *lines,
            "",
            f"![Word error against forwards a second of speech]({PLOT})",
            "",
            f"The embedded model, {report['replies']} spoken replies, seeds: {report['seeds']}. Forwards are "
            "those in spans, to which each text token adds one. Answers are compared with their own text, sentences "
            "with what was to be read. The last column is the difference from the first row in points, with its "
            f"95 % interval; the plot has these intervals, too. Command: `{report['command']}`.",
        ]
    )


def draw(report: dict[str, Any], path: Path) -> None:
    """Plots the word error, with the interval of its difference, against forwards a second of speech (SVG)."""
    import matplotlib

    matplotlib.use("Agg")
    # Text stays text, and ids are the same in every run, so that the file is small and changes with its data alone.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "decoding"})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
    for row in report["settings"]:
        both, name = row["both"], Setting(**row["setting"]).name
        ends = [[100 * (both["difference"] - both["low"])], [100 * (both["high"] - both["difference"])]]
        axes.errorbar(row["forwards"], 100 * both["second"], ends, fmt="o", capsize=3, label=name)
    axes.legend(loc="lower right")
    axes.set(xlabel="forwards in spans a second of speech", ylabel="word error, %", xlim=(0, None), ylim=(0, None))
    axes.grid(alpha=0.3)
    with atomic_write(path) as part:
        figure.savefig(part, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("build/tiny/data"), help="data of the recipe")
    parser.add_argument("--out", type=Path, default=Path("build/decoding"), help="where the replies are recorded")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each setting (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="samples of a task (default: all)")
    parser.add_argument("--batch-size", type=int, default=24, help="replies generated together (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the measurements to this file")
    parser.add_argument("--docs", type=Path, metavar="DIR", help="also put them into this folder")
    args = parser.parse_args()

    if args.threads:
        torch.set_num_threads(args.threads)
    options = [f"--seeds {args.seeds}"] if args.seeds != parser.get_default("seeds") else []
    options += [f"--limit {args.limit}"] if args.limit else []
    answered = [answer(each, args.seeds, args.data, args.out, args.batch_size, args.limit) for each in SETTINGS]
    report = {
        "command": " ".join(["python benchmarks/decoding_quality.py", *options]),
        "machine": machine("cpu"),
        "seeds": args.seeds,
        "replies": len(answered[0]["samples"]),
        "settings": compare(answered),
    }
    print(table(report))
    if args.json:
        atomic_write_text(args.json, json.dumps(report, indent=2) + "\n")
    if args.docs:
        draw(report, args.docs / PLOT)
        fill(args.docs / "decoding.md", table(report), MARKS)


if __name__ == "__main__":
    main()
