"""Two runs of one task, sample by sample: what changed, and whether the difference is significant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .folder import TaskFolder, scored_folders
from .report.terminal import visible_line
from .scoring.scorers import printed_unit
from .store import JsonLine, latest_lines


RESAMPLES = 10_000
LEVEL = 0.95


def compare_runs(first: Path, second: Path) -> list[dict[str, Any]]:
    """Compares the scored tasks that two runs have in common.

    Args:
        first, second: Folder of a task, or of a run with a folder for each task.

    Returns:
        A comparison of each task, see `compare_tasks`.
    """
    # Tasks are matched by their names, because the folders of two runs may be called anything.
    ours, theirs = ({_name(task): task for task in scored_folders(folder)} for folder in (first, second))
    common = [name for name in ours if name in theirs]
    if not common:
        raise ValueError(
            f"{first} ({', '.join(ours)}) and {second} ({', '.join(theirs)}) have no task in common: name two runs of "
            "the same task."
        )
    return [compare_tasks(ours[name], theirs[name]) for name in common]


def compare_tasks(first: TaskFolder, second: TaskFolder) -> dict[str, Any]:
    """Compares two runs of a task on the samples that both have.

    Returns:
        `task`, `n` and, by metric, both values, their difference (second minus first) with its 95 % interval, a
        two-sided `p` and whether it is `significant`; metrics without a value in both runs are left out. `samples`
        are those whose value of the `headline` changed: the task's, else the first metric, null if there is none.
    """
    results = first.read_results(), second.read_results()
    # A difference means nothing if the two scores were not computed in the same way.
    check_comparable(first, second, *results)
    scores = _scores(first), _scores(second)
    # A limited run has only a part of the samples. Pairs need both values.
    common = [sample for sample in scores[0] if sample in scores[1]]
    if not common:
        raise ValueError(f"{first.path} and {second.path} have no sample in common: run both on the same data.")
    metrics = {}
    for name, info in results[0]["metrics"].items():
        pairs = [tuple(score[sample]["values"].get(name) for score in scores) for sample in common]
        # A sample may lack a metric, for example if its judgement failed.
        known = [pair for pair in pairs if None not in pair]
        if known:
            metrics[name] = {
                **compare_metric(known),
                "unit": info["unit"],
                "higher_is_better": info["higher_is_better"],
                "n": len(known),
            }
    # Limited runs have no headline, and no common sample may have its value: the first metric then takes its place.
    main = next((name for name in (*(result["headline"] for result in results), *metrics) if name in metrics), None)
    return {
        "task": results[0]["task"]["name"],
        "models": [result["model"] for result in results],
        "n": len(common),
        "n_first": len(scores[0]),
        "n_second": len(scores[1]),
        "headline": main,
        "metrics": metrics,
        "samples": _changed(first, second, common, scores, main, metrics) if main else [],
    }


def check_comparable(
    first: TaskFolder, second: TaskFolder, ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> None:
    """Checks that two results have the same task, scorer and normaliser, transcriber and judge, in the same versions.

    Args:
        ours, theirs: Contents of both `results.json`.
    """
    # Options of the scorer count, too: another normalizer alone changes an error rate.
    for key in ("name", "version", "scorer", "scorer_options", "output"):
        one, other = ours["task"][key], theirs["task"][key]
        if one != other:
            raise ValueError(
                f"{first.path} and {second.path} cannot be compared, the {key.replace('_', ' ')} of the task differs "
                f"({one} and {other}): "
                + ("score both alike with `ttt-hf eval score`." if "scorer" in key else "run one of them again.")
            )
    # Another release of a normaliser can change scores; scoring again takes seconds.
    one, other = (result["versions"].get("scoring") for result in (ours, theirs))
    if one != other:
        raise ValueError(
            f"{first.path} and {second.path} cannot be compared, they were scored by different versions "
            f"({one} and {other}): score both again with `ttt-hf eval score`."
        )
    # Both are part of how the score is measured, down to the revision of their weights.
    for key in ("transcriber", "judge"):
        if ours[key] != theirs[key]:
            raise ValueError(
                f"{first.path} and {second.path} cannot be compared, they differ in their {key}: take the same for "
                "both."
            )


def compare_metric(pairs: Sequence[Any], seed: int = 0) -> dict[str, Any]:
    """Paired bootstrap: each resample of the samples is evaluated for both runs.

    Args:
        pairs: For each sample the (numerator, denominator) of both runs.

    Returns:
        `first`, `second`, `difference`, `low`, `high`, `p`, `significant`. `p` is twice the smaller share of resamples
        on one side of zero, and at least one resample; where nothing differs it is 1.
    """
    values = np.asarray(pairs, dtype=np.float64)  # (samples, runs, 2)
    # A corpus metric is the ratio of sums, not a mean of ratios: (samples, runs, 2) -> (runs,).
    first, second = _ratio(values.sum(axis=0))
    rng = np.random.default_rng(seed)
    # 1. Resample. Both runs get the same samples, so that easy and hard ones cancel out in the difference.
    draws = []
    for _ in range(RESAMPLES):
        ratios = _ratio(values[rng.integers(0, len(values), len(values))].sum(axis=0))
        draws.append(ratios[1] - ratios[0])
    differences = np.asarray(draws)
    # 2. Drop resamples without a value: all samples that were drawn have the denominator 0.
    differences = differences[np.isfinite(differences)]
    if not len(differences):
        return {**dict.fromkeys(("first", "second", "difference", "low", "high", "p")), "significant": False}
    # 3. The percentile interval and the p-value of the same resamples.
    low, high = np.quantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    # A difference of zero is evidence for neither side, so it counts for both.
    one_sided = min(np.mean(differences <= 0), np.mean(differences >= 0))
    # No number of resamples can show that p is 0: it is at least the share of a single one.
    p = min(1.0, 2 * max(float(one_sided), 1 / RESAMPLES))
    return {
        "first": float(first),
        "second": float(second),
        "difference": float(second - first),
        "low": float(low),
        "high": float(high),
        "p": p,
        "significant": p < 1 - LEVEL,
    }


def comparison_text(comparison: Mapping[str, Any], samples: int = 10) -> str:
    """A comparison as lines of text for the terminal, fractions in percent.

    Args:
        comparison: As `compare_tasks` returns it.
        samples: Maximum number of changed samples to show, the largest losses first.
    """
    lines = [f"{comparison['task']}, {comparison['n']} samples in common"]
    if not comparison["metrics"]:
        lines.append("  cannot be compared, no sample has a score in both runs")
        return "\n".join(lines)
    for name, metric in comparison["metrics"].items():
        if metric["difference"] is None:
            lines.append(f"  {name}: cannot be compared, nothing to divide by")
            continue
        factor, unit = printed_unit(metric["unit"])
        first, second, difference, low, high = (
            factor * metric[key] for key in ("first", "second", "difference", "low", "high")
        )
        verdict = "significant" if metric["significant"] else "may be chance"
        lines.append(
            f"  {name}: {first:.2f} -> {second:.2f} {unit}, difference {difference:+.2f} [{low:+.2f}, {high:+.2f}], "
            f"p = {metric['p']:.4f}: {verdict}"
        )
    kinds = [row["change"] for row in comparison["samples"]]
    lines.append(
        f"  by {comparison['headline']}: {kinds.count('better')} samples better, {kinds.count('worse')} worse, "
        f"{comparison['n'] - len(kinds)} alike"
    )
    for row in comparison["samples"][:samples]:
        expected = visible_line(f"{row['id']}, expected: {' | '.join(row['references'][:3])}")
        lines.append(f"  {row['change']}: {expected}")
        lines += [f"    {side}: {visible_line(text)}" for side, text in zip(("first ", "second"), row["texts"])]
    if len(kinds) > samples:
        lines.append(f"  ... and {len(kinds) - samples} more changed samples (--samples)")
    return "\n".join(lines)


def _ratio(sums: np.ndarray) -> np.ndarray:
    """Numerators by denominators, shape `(runs, 2)`; NaN where a resample has no denominator."""
    return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)


def _changed(
    first: TaskFolder,
    second: TaskFolder,
    common: Sequence[str],
    scores: tuple[Mapping[str, JsonLine], Mapping[str, JsonLine]],
    main: str,
    metrics: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Samples whose value changed, the largest losses first."""
    replies = [{row["id"]: row for row in folder.replies()} for folder in (first, second)]
    better = 1 if metrics[main]["higher_is_better"] else -1
    changed = []
    for sample in common:
        one, other = (score[sample]["values"].get(main) for score in scores)
        if one is None or other is None or one == other:
            continue
        gain = better * (other[0] - one[0])
        changed.append(
            {
                "id": sample,
                "references": replies[0][sample]["references"],
                "texts": [reply[sample]["text"] for reply in replies],
                "values": [one, other],
                # A gain of 0 with unequal values means that only the denominators differ.
                "change": "better" if gain > 0 else "worse" if gain < 0 else "other",
                "gain": gain,
            }
        )
    # The id breaks ties, so that the order does not depend on the order of the files.
    changed.sort(key=lambda row: (row["gain"], row["id"]))
    return changed


def _scores(folder: TaskFolder) -> dict[str, JsonLine]:
    replies = {row["id"] for row in folder.replies()}
    scores = latest_lines(folder.scores)
    if strays := [sample for sample in scores if sample not in replies]:
        raise ValueError(
            f"{folder.scores} holds a score of {strays[0]}, which {folder.predictions} has no reply to: run "
            f"`ttt-hf eval score {folder.path}` again."
        )
    return scores


def _name(folder: TaskFolder) -> str:
    return str(folder.read_settings()["task"]["name"])
