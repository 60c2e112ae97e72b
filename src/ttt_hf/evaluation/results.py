"""From per-sample scores to `results.json`: corpus metrics with intervals, counts and speed."""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .. import __version__
from ..data.reading import local_path
from .concepts import DatasetSource, Judgement, Record, SampleScore, Task
from .folder import SCHEMA_VERSION
from .scoring.checks import is_empty
from .scoring.metrics import Estimate
from .scoring.scorers import SCORERS, MetricInfo, aggregate, scorer_versions
from .store import JsonLine


# Packages that scores may depend on; those that are not installed are left out.
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
    """Versions of Python, of this package and of the installed packages that scores may depend on."""
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
    replies: Sequence[JsonLine],
    records: Sequence[Record],
    scores: Sequence[SampleScore],
) -> dict[str, Any]:
    """Makes the content of `results.json`.

    The headline is null where `--limit` cut the set, and where samples are not answered yet or have no value: the
    number would not be the benchmark's. Of a limited run, `limited` says so in words.

    Args:
        settings: Content of `settings.json`.
        task: The task as it is scored, which may differ from `settings` in its scorer.
        replies: Rows of `predictions.jsonl`.
        records: What was scored of each reply, in the same order.
        scores: Per-sample scores, in the same order.
    """
    entry, headline = SCORERS[task.scorer], SCORERS[task.scorer].headline_of(task.output)
    estimates, counts = aggregate(task.scorer, scores)
    judgements = [judgement for record in records for judgement in record.judgements]
    n_scored = sum(headline in score.values for score in scores)
    # A headline must be comparable with published numbers: every sample of the full set has a value.
    is_complete = n_scored == settings["n_expected"] and not settings["limited"]
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
        # Settings keep the transcriber and judge of earlier calls, which this output or scorer may not use.
        "transcriber": settings["transcriber"] if task.output == "speech" else None,
        "judge": settings["judge"] if entry.needs_judge else None,
        # Scoring may run later than the model, on another machine.
        "versions": {"run": settings["versions"], "scoring": scorer_versions()},
        "fingerprint": settings["fingerprint"],
        "n_expected": settings["n_expected"],
        "n_scored": n_scored,
        "n_failed": sum(row["finish_reason"] == "error" for row in replies),
        "first_failure": next((row["error"] for row in replies if row["finish_reason"] == "error"), None),
        # Failed replies are empty, too, but are counted as failed only.
        "n_empty": sum(row["finish_reason"] != "error" and is_empty(row["text"]) for row in replies),
        "n_truncated": sum(row["finish_reason"] == "length" for row in replies),
        "n_repetition": counts["repetitions"],
        "finish_reasons": dict(sorted(Counter(row["finish_reason"] for row in replies).items())),
        "limited": limited(settings),
        "headline": headline if is_complete else None,
        "metrics": {name: metric_content(entry.metrics[name], value) for name, value in estimates.items()},
        "counts": dict(sorted(counts.items())),
        "speed": speed(task, replies),
        "judge_cost": judge_cost(judgements, settings.get("judge_price")) if entry.needs_judge else None,
    }


def limited(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Describes a run with `--limit`: `n` samples `of` all, and a `note` to print beside every number; else null."""
    if not settings["limited"]:
        return None
    n, total = len(settings["samples"]), settings["n_expected"]
    return {"n": n, "of": total, "note": f"first {n} of {total}: not the benchmark's number"}


def metric_content(info: MetricInfo, estimate: Estimate) -> dict[str, Any]:
    """A metric as `results.json` holds it: `value`, `low` and `high` are null where the denominator is 0."""
    return {
        "value": _finite(estimate.value),
        "low": _finite(estimate.low),
        "high": _finite(estimate.high),
        "unit": info.unit,
        "higher_is_better": info.higher_is_better,
        "n": estimate.n,
    }


def speed(task: Task, replies: Sequence[JsonLine]) -> dict[str, Any]:
    """Speed of the model, relative to the audio of spoken replies, or of the questions where replies are text.

    Args:
        replies: Rows of `predictions.jsonl`.

    Returns:
        `seconds` of computation, `audio_seconds` and their ratio `real_time_factor` (below 1 is faster than real
        time); forward passes in total and per second of audio, null for models that do not count them.
    """
    key = "audio_seconds" if task.output == "speech" else "question_seconds"
    # Sums over all replies, failed ones included: their time was spent, too.
    seconds = sum(row["seconds"] for row in replies)
    audio = sum(row[key] or 0.0 for row in replies)
    passes = sum(row["forward_passes"] for row in replies)
    return {
        "seconds": round(seconds, 3),
        "audio_seconds": round(audio, 3),
        "audio": "reply" if task.output == "speech" else "question",
        "real_time_factor": round(seconds / audio, 4) if audio else None,
        # Models that do not count them record 0, which is unknown and not fast.
        "forward_passes": passes or None,
        "forward_passes_per_audio_second": round(passes / audio, 4) if audio and passes else None,
        "tokens": sum(row["tokens"] for row in replies) or None,
    }


def judge_cost(judgements: Sequence[Judgement], price: Sequence[float] | None = None) -> dict[str, float | None]:
    """Sums up the cost of judgements, unreadable ones included.

    Args:
        price: Price of a million prompt tokens, and of a million completion tokens.

    Returns:
        `judgements`; `prompt_tokens` and `completion_tokens`, 0 for servers that do not count; and `price` in the
        currency of the prices, null where they are not known.
    """
    prompt = sum(judgement.prompt_tokens for judgement in judgements)
    completion = sum(judgement.completion_tokens for judgement in judgements)
    return {
        "judgements": len(judgements),
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "price": None if price is None else round((price[0] * prompt + price[1] * completion) / 1e6, 6),
    }


def _dataset(source: DatasetSource) -> dict[str, Any]:
    """The data set without paths of this machine, because results are shared."""
    # A local folder is reduced to its name; a Hub id is public and stays.
    path = local_path(source.path)
    return {
        **{
            key: value
            for key, value in asdict(source).items()
            if value is not None and key not in ("hint", "allow_private")
        },
        "path": path.name if path is not None else source.path,
    }


def _finite(value: float) -> float | None:
    # JSON has neither NaN nor infinity.
    return value if math.isfinite(value) else None
