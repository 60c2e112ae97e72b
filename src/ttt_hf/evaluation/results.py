"""From what each sample adds to the metrics to `results.json`: corpus values, intervals, counts and speed."""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .. import __version__
from .concepts import DatasetSource, Judgement, Record, SampleScore, Task
from .folder import SCHEMA_VERSION
from .scoring.checks import is_empty
from .scoring.metrics import bootstrap_interval
from .scoring.scorers import SCORERS, MetricInfo, scorer_versions
from .store import Row
from .task_tables import local_path


# What a number may depend on. Those that are not installed have no part in it.
PACKAGES = (
    "torch",
    "transformers",
    "numpy",
    "datasets",
    "soundfile",
    "soxr",
    "faster-whisper",
    "ctranslate2",
    "funasr",
    "jiwer",
    "whisper-normalizer",
)


def package_versions() -> dict[str, str]:
    """Looks up what is installed.

    Returns:
        Versions of Python and of the packages that a number may depend on.
    """
    versions = {"python": platform.python_version(), "ttt-hf": __version__}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def make_results(
    settings: Mapping[str, Any],
    task: Task,
    replies: Sequence[Row],
    records: Sequence[Record],
    scores: Sequence[SampleScore],
) -> dict[str, Any]:
    """Adds up a task.

    Args:
        settings: Content of `settings.json`.
        task: The task, as it is scored.
        replies: Rows of `predictions.jsonl`.
        records: What was scored of each of them, in the same order.
        scores: What they are worth, in the same order.

    Returns:
        What `results.json` holds. The headline is null where `--limit` cut the set, and where samples are not answered
        yet or have no value: then the number would not be that of the benchmark.
    """
    entry, headline = SCORERS[task.scorer], SCORERS[task.scorer].headline_of(task.output)
    metrics = {
        name: metric(info, [score.values[name] for score in scores if name in score.values])
        for name, info in entry.metrics.items()
        if any(name in score.values for score in scores)
    }
    counts: Counter[str] = Counter()
    for score in scores:
        counts.update(score.counts)
    judgements = [judgement for record in records for judgement in record.judgements]
    n_scored = sum(headline in score.values for score in scores)
    is_whole = n_scored == settings["n_expected"] and not settings["limited"]
    return {
        "schema_version": SCHEMA_VERSION,
        "task": {
            "name": task.name,
            "version": task.version,
            "scorer": task.scorer,
            "scorer_options": dict(task.scorer_options),
            "output": task.output,
            "language": task.language,
            "description": task.description,
            "dataset": _dataset(task.source),
        },
        "model": settings["model"],
        "transcriber": settings["transcriber"] if task.output == "speech" else None,
        "judge": settings["judge"] if entry.needs_judge else None,
        "versions": {"run": settings["versions"], "scoring": scorer_versions()},
        "fingerprint": settings["fingerprint"],
        "n_expected": settings["n_expected"],
        "n_scored": n_scored,
        "n_failed": sum(row["finish_reason"] == "error" for row in replies),
        "first_failure": next((row["error"] for row in replies if row["finish_reason"] == "error"), None),
        # A reply that failed is empty, too; each is counted under one name.
        "n_empty": sum(row["finish_reason"] != "error" and is_empty(row["text"]) for row in replies),
        "n_truncated": sum(row["finish_reason"] == "length" for row in replies),
        "n_repetition": counts["repetitions"],
        "limited": settings["limited"],
        "headline": headline if is_whole else None,
        "metrics": metrics,
        "counts": dict(sorted(counts.items())),
        "speed": speed(task, replies),
        "judge_cost": judge_cost(judgements, settings.get("judge_price")) if entry.needs_judge else None,
    }


def metric(info: MetricInfo, values: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """One number with its 95 % interval.

    Args:
        info: Scale and unit.
        values: Numerator and denominator of each sample.

    Returns:
        `value`, `low`, `high`; null where no denominator is above zero.
    """
    numerator, denominator = (sum(column) for column in zip(*values))
    low, high = bootstrap_interval(values)
    return {
        "value": _finite(info.scale * numerator / denominator) if denominator else None,
        "low": _finite(info.scale * low),
        "high": _finite(info.scale * high),
        "unit": info.unit,
        "higher_is_better": info.higher_is_better,
        "n": len(values),
    }


def speed(task: Task, replies: Sequence[Row]) -> dict[str, Any]:
    """How fast the model was.

    Args:
        task: For spoken replies time is measured against what was said, else against what was heard.
        replies: Rows of `predictions.jsonl`.

    Returns:
        `seconds` of work, `audio_seconds` heard or said, and their ratio `real_time_factor` (below 1 is faster than
        real time); forward passes in all and by second of audio, null for models that do not count them.
    """
    key = "audio_seconds" if task.output == "speech" else "question_seconds"
    seconds = sum(row["seconds"] for row in replies)
    audio = sum(row[key] or 0.0 for row in replies)
    passes = sum(row["forward_passes"] for row in replies)
    return {
        "seconds": round(seconds, 3),
        "audio_seconds": round(audio, 3),
        "audio": "reply" if task.output == "speech" else "question",
        "real_time_factor": round(seconds / audio, 4) if audio else None,
        "forward_passes": passes or None,
        "forward_passes_per_audio_second": round(passes / audio, 4) if audio and passes else None,
        "tokens": sum(row["tokens"] for row in replies) or None,
    }


def judge_cost(judgements: Sequence[Judgement], price: Sequence[float] | None = None) -> dict[str, float | None]:
    """Adds up what judgements cost.

    Args:
        judgements: Recorded answers, those that could not be read included.
        price: What a million tokens cost that were read, and that were written.

    Returns:
        `judgements`; `prompt_tokens` and `completion_tokens`, 0 for servers that do not count; and `price` in the unit
        of the prices, null where they are not known.
    """
    read = sum(judgement.prompt_tokens for judgement in judgements)
    written = sum(judgement.completion_tokens for judgement in judgements)
    return {
        "judgements": len(judgements),
        "prompt_tokens": read,
        "completion_tokens": written,
        "price": None if price is None else round((price[0] * read + price[1] * written) / 1e6, 6),
    }


def _dataset(source: DatasetSource) -> dict[str, Any]:
    """The data without the places of this machine: results travel."""
    path = local_path(source)
    return {
        **{key: value for key, value in asdict(source).items() if value is not None and key != "hint"},
        "path": path.name if path is not None else source.path,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
