"""Results as tables of text: metrics with intervals, numbers of samples, and counts of failed replies."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..scoring.scorers import printed_unit
from .run_data import main_metric, without_paths


# Control characters, which a terminal obeys, and marks that change the direction of the text around them.
INVISIBLE = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
WITHHELD = "withheld"
MISSING = "n/a"


@dataclass(frozen=True)
class MetricRow:
    """One line of a table of results, as text.

    Args:
        value, interval: Fractions in percent. `value` is "withheld" where samples have no score yet.
        samples: Number of scored samples, and of how many if some are missing.
        failed, empty, truncated, loops: Numbers of defective replies. They stay in the denominator.
        note: Remark on the value: that of a limited run is not the benchmark's number.
        is_headline: Whether this is the first line of a task, its headline metric.
    """

    model: str
    task: str
    metric: str
    value: str
    interval: str
    samples: str
    failed: str
    empty: str
    truncated: str
    loops: str
    note: str
    is_headline: bool


def metric_rows(results: Sequence[Mapping[str, Any]]) -> list[MetricRow]:
    """The lines of a table of results, the headline metric of each task first.

    A limited run shows its values with a note. A task with unscored samples gets one line that withholds its number.

    Args:
        results: Content of each `results.json`.
    """
    return [row for entry in results for row in _rows_of_task(entry)]


def terminal_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Results as an aligned table in plain text, with notes on failed and missing samples below it.

    Args:
        results: Content of each `results.json`.
    """
    rows = metric_rows(results)
    columns = {
        "model": [row.model for row in rows],
        "task": [row.task if row.is_headline else "" for row in rows],
        "metric": [row.metric for row in rows],
        "value": [row.value for row in rows],
        "95 % interval": [row.interval for row in rows],
        "samples": [row.samples for row in rows],
        "failed": [row.failed for row in rows],
        "empty": [row.empty for row in rows],
        "cut": [row.truncated for row in rows],
        "loops": [row.loops for row in rows],
        "note": [row.note for row in rows],
    }
    # A column in which all cells are equal or empty is left out; a single model is named above the table.
    several = len(set(columns["model"])) > 1
    if not several:
        del columns["model"]
    if not any(columns["note"]):
        del columns["note"]
    cells = []
    for name, texts in columns.items():
        width = max(map(len, [name, *texts]))
        # Numbers are aligned at their right end.
        align = str.ljust if name in ("model", "task", "metric", "note") else str.rjust
        cells.append([align(text, width) for text in [name, "-" * width, *texts]])
    lines = ["  ".join(line).rstrip() for line in zip(*cells)]
    caption = [] if several or not rows else [f"model: {rows[0].model}", ""]
    notes = notes_of(results)
    return "\n".join([*caption, *lines, *([""] if notes else []), *notes])


def note_of(results: Mapping[str, Any]) -> str | None:
    """A note on missing and defective samples of a task, with the first failure; none if there are no such samples."""
    expected, scored = results["n_expected"], results["n_scored"]
    parts = []
    if not is_shown(results):
        # A limited run is complete when its own samples are scored.
        wanted = results["limited"]["n"] if results["limited"] else expected
        parts.append(
            f"only {scored} of {wanted} samples have a score so far, so there is no headline number; run it to its end"
        )
    defects = {
        "failed": results["n_failed"],
        "empty": results["n_empty"],
        "cut at the length limit": results["n_truncated"],
        "caught in a repetition": results["n_repetition"],
    }
    if any(defects.values()):
        listed = ", ".join(f"{count} {defect}" for defect, count in defects.items() if count)
        parts.append(f"{listed}, counted in the denominator")
    if not parts:
        return None
    failure = visible_line(str(without_paths(results["first_failure"])))
    first = f" The first failure: {failure}" if results["n_failed"] else ""
    return f"{visible_line(results['task']['name'])}: {'; '.join(parts)}.{first}"


def notes_of(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The notes of several tasks, see [`note_of`]."""
    return [note for entry in results if (note := note_of(entry)) is not None]


def is_shown(results: Mapping[str, Any]) -> bool:
    """Whether the values of a task are shown: all of its samples, or all that `--limit` left, have a score."""
    limited = results["limited"]
    # Part of a benchmark would look like the benchmark's number.
    return results["headline"] is not None or bool(limited and results["n_scored"] == limited["n"])


def in_printed_unit(metric: Mapping[str, Any]) -> dict[str, Any]:
    """A metric of `results.json` as it is printed, fractions in percent."""
    factor, unit = printed_unit(metric["unit"])
    ends = {key: None if metric[key] is None else factor * metric[key] for key in ("value", "low", "high")}
    return {**metric, **ends, "unit": unit}


def format_interval(metric: Mapping[str, Any]) -> str:
    """The interval of a metric in its printed unit, such as `[3.10, 4.25]`."""
    return f"[{format_number(metric['low'])}, {format_number(metric['high'])}]"


def format_number(value: float | None) -> str:
    """A number with two decimals; "n/a" for none and NaN."""
    # Only NaN differs from itself.
    return MISSING if value is None or value != value else f"{value:.2f}"


def count_samples(count: int) -> str:
    """A number of samples in words."""
    return f"{count} sample{'' if count == 1 else 's'}"


def metric_label(name: str, unit: str) -> str:
    """A metric's name with its printed unit, such as `wer (%)`."""
    return f"{name} ({unit})" if unit else name


def visible_line(text: str) -> str:
    """A text of a model or of data on one line, with U+FFFD for characters that cannot be seen."""
    return " ".join(INVISIBLE.sub("\ufffd", text).split())


def model_name(results: Mapping[str, Any]) -> str:
    """The model that was scored, without the path to it."""
    return visible_line(str(without_paths(str(results["model"].get("name", "unnamed")))))


def model_names(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The models that were scored, each once."""
    return list(dict.fromkeys(model_name(entry) for entry in results))


def _rows_of_task(results: Mapping[str, Any]) -> Iterator[MetricRow]:
    expected, scored = results["n_expected"], results["n_scored"]
    counts = {
        "samples": f"{scored}/{expected}" if expected and scored != expected else str(scored),
        "failed": str(results["n_failed"]),
        "empty": str(results["n_empty"]),
        "truncated": str(results["n_truncated"]),
        "loops": str(results["n_repetition"]),
    }
    names = {"model": model_name(results), "task": visible_line(results["task"]["name"])}
    if not is_shown(results):
        # One row without numbers, so that the task is seen to be missing.
        yield MetricRow(metric="-", value=WITHHELD, interval="-", note="", is_headline=True, **names, **counts)
        return
    headline = main_metric(results)
    note = results["limited"]["note"] if results["limited"] else ""
    # Counts belong to the task, not to a metric: only its first row shows them.
    blank = dict.fromkeys(counts, "")
    for name, stored in sorted(results["metrics"].items(), key=lambda item: item[0] != headline):
        metric = in_printed_unit(stored)
        yield MetricRow(
            metric=metric_label(name, metric["unit"]),
            value=format_number(metric["value"]),
            interval=format_interval(metric),
            note=note,
            is_headline=name == headline,
            **names,
            **(counts if name == headline else blank),
        )
