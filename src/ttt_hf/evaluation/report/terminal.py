"""Results as tables of text: metric with interval, how many samples, and what became of those that failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .run_data import without_paths


WITHHELD = "withheld"
MISSING = "n/a"


@dataclass(frozen=True)
class MetricRow:
    """One line of a table of results, as text.

    Args:
        model, task, metric, value, interval: What was measured; `value` is "withheld" where the headline is.
        samples: Scored samples, and of how many if some are missing.
        failed, empty, truncated, loops: Samples that went wrong. They stay in the denominator.
        is_headline: Whether this is the number of the task.
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
    is_headline: bool


def metric_rows(results: Sequence[Mapping[str, Any]]) -> list[MetricRow]:
    """The lines of a table of results, the headline of each task first.

    A task without a headline, such as one that was cut short, gets one line that withholds its number: part of a
    benchmark is not the benchmark.

    Args:
        results: Content of each `results.json`.

    Returns:
        The lines.
    """
    return [row for entry in results for row in _rows_of_task(entry)]


def terminal_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Results as an aligned table in plain text.

    Args:
        results: Content of each `results.json`.

    Returns:
        The table, with a note for each task whose headline is withheld; no newline at the end.
    """
    rows = metric_rows(results)
    several = len({row.model for row in rows}) > 1
    head = ["task", "metric", "value", "95 % interval", "samples", "failed", "empty", "cut", "loops"]
    lines = [
        [
            row.task if row.is_headline else "",
            row.metric,
            row.value,
            row.interval,
            row.samples,
            row.failed,
            row.empty,
            row.truncated,
            row.loops,
        ]
        for row in rows
    ]
    if several:
        head.insert(0, "model")
        lines = [[row.model, *line] for row, line in zip(rows, lines)]
    names = 3 if several else 2
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    text = [
        "  ".join(
            cell.ljust(width) if column < names else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in [head, ["-" * width for width in widths], *lines]
    ]
    caption = [] if several or not rows else [f"model: {rows[0].model}", ""]
    notes = notes_of(results)
    return "\n".join([*caption, *text, *([""] if notes else []), *notes])


def note_of(results: Mapping[str, Any]) -> str | None:
    """What a reader has to know before the number of a task.

    Args:
        results: Content of `results.json`.

    Returns:
        One sentence, and why the first of failed samples failed; none if all went well.
    """
    expected, scored = results["n_expected"], results["n_scored"]
    of_all = f"{scored} of {expected}" if expected else str(scored)
    parts = []
    if results["limited"]:
        parts.append(f"limited to {of_all} samples, so there is no headline number")
    elif results["headline"] is None:
        parts.append(f"only {of_all} samples have a score so far, so there is no headline number; run it to its end")
    wrong = {
        "failed": results["n_failed"],
        "empty": results["n_empty"],
        "cut at the length limit": results["n_truncated"],
        "caught in a repetition": results["n_repetition"],
    }
    if any(wrong.values()):
        listed = ", ".join(f"{count} {what}" for what, count in wrong.items() if count)
        parts.append(f"{listed}, counted in the denominator")
    if not parts:
        return None
    first = f" The first failure: {without_paths(results['first_failure'])}" if results["n_failed"] else ""
    return f"{results['task']['name']}: {'; '.join(parts)}.{first}"


def notes_of(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The notes of several tasks, see [`note_of`]."""
    return [note for entry in results if (note := note_of(entry)) is not None]


def format_value(metric: Mapping[str, Any]) -> str:
    """A metric's value without its unit, two decimals."""
    return format_number(metric["value"])


def format_interval(metric: Mapping[str, Any]) -> str:
    """A metric's interval, such as `[3.10, 4.25]`."""
    return f"[{format_number(metric['low'])}, {format_number(metric['high'])}]"


def format_number(value: float | None) -> str:
    """A number with two decimals; "n/a" for none and for what is not a number."""
    return MISSING if value is None or value != value else f"{value:.2f}"


def count_samples(count: int) -> str:
    """A number of samples in words."""
    return f"{count} sample{'' if count == 1 else 's'}"


def metric_label(name: str, metric: Mapping[str, Any]) -> str:
    """A metric's name with its unit, such as `wer (%)`."""
    return f"{name} ({metric['unit']})" if metric["unit"] else name


def model_name(results: Mapping[str, Any]) -> str:
    """The model that was scored, without the path to it."""
    return str(without_paths(str(results["model"].get("name", "unnamed"))))


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
    names = {"model": model_name(results), "task": results["task"]["name"]}
    headline = results["headline"]
    if headline is None:
        yield MetricRow(metric="-", value=WITHHELD, interval="-", is_headline=True, **names, **counts)
        return
    blank = dict.fromkeys(counts, "")
    for name, metric in sorted(results["metrics"].items(), key=lambda item: item[0] != headline):
        first = name == headline
        yield MetricRow(
            metric=metric_label(name, metric),
            value=format_value(metric),
            interval=format_interval(metric),
            is_headline=first,
            **names,
            **(counts if first else blank),
        )
