"""Layout of a report's plots, in percent of their width; the template draws them as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..scoring.metrics import estimate
from .run_data import ReportedSample, TaskRun
from .terminal import count_samples, format_interval, format_number, in_printed_unit, metric_label


# Upper bounds of the ranges of reference lengths, in words or characters.
LENGTH_BOUNDS = (5, 10, 20, 40)
ERROR_KINDS = ("substitutions", "deletions", "insertions")


@dataclass(frozen=True)
class Segment:
    """A coloured part of a bar.

    Args:
        kind: CSS class of its colour.
        left, width: In percent of the plot's width.
    """

    kind: str
    left: float
    width: float


@dataclass(frozen=True)
class Bar:
    """One line of a plot.

    Args:
        label: Task, or range of lengths.
        note: The metric, or the number of samples.
        text: The value with its interval.
        interval: Ends of the 95 % interval in percent of the plot's width.
    """

    label: str
    note: str
    text: str
    segments: tuple[Segment, ...]
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Plot:
    """A plot of horizontal bars.

    Args:
        ticks: Positions in percent and labels of the axis.
        legend: CSS classes and names of the colours, where there are several.
    """

    title: str
    caption: str
    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]
    legend: tuple[tuple[str, str], ...] = ()


def summary_plots(runs: Sequence[TaskRun]) -> list[Plot]:
    """Plots over all tasks: one for each kind of metric (error rates, accuracies, scores), and one of the error kinds.

    Tasks without a headline are left out: beside a complete benchmark, part of one would look complete.
    """
    groups: dict[tuple[bool, str, str], list[tuple[str, str, Mapping[str, Any]]]] = {}
    for run in runs:
        for name, stored in run.results["metrics"].items():
            metric = in_printed_unit(stored)
            if run.results["headline"] is not None and _is_number(metric["value"]):
                # Only values of one kind and unit share an axis. False sorts first: error rates come first.
                group = (metric["higher_is_better"], _kind(name, metric), metric["unit"])
                groups.setdefault(group, []).append((run.name, name, metric))
    plots = []
    for (is_better, kind, unit), lines in sorted(groups.items(), key=lambda group: group[0]):
        caption = f"{'Higher' if is_better else 'Lower'} is better. Whiskers: 95 % bootstrap interval."
        plots.append(
            # Accuracies are drawn on the full scale. Error rates are mostly far below 100 %, and can exceed it.
            _interval_plot(f"{kind} by task", caption, unit, lines, 100.0 if is_better and unit == "%" else None)
        )
    errors = error_plot(runs)
    # Next to the error rates, which come first.
    return [*plots[:1], errors, *plots[1:]] if errors else plots


def length_plot(run: TaskRun) -> Plot | None:
    """The error rate of a task by length of the reference.

    Returns:
        None for tasks without an error rate or without errors, or with samples of one range of lengths only.
    """
    name = error_metric(run)
    if name is None:
        return None
    unit = run.results["metrics"][name]["unit"]
    length_unit = _unit_of_length(name)
    bars = []
    for label, samples in _by_length(run.samples, name):
        # Corpus rate and interval of this range, by the functions that score the task.
        rate = estimate([sample.values[name] for sample in samples])
        metric = in_printed_unit({"value": rate.value, "low": rate.low, "high": rate.high, "unit": unit})
        bars.append((f"{label} {length_unit}", count_samples(len(samples)), metric))
    # A single range says no more than the headline, nor does the length of the references where nothing is wrong.
    if len(bars) < 2 or not any(metric["value"] for _, _, metric in bars):
        return None
    of = "the reply's text" if name == "wer_speech_vs_text" else "the reference"
    caption = "Corpus rate of the samples in each range. Lower is better. Whiskers: 95 % bootstrap interval."
    printed = bars[0][2]["unit"]
    return _interval_plot(f"{metric_label(name, printed)} by length of {of}", caption, printed, bars)


def error_plot(runs: Sequence[TaskRun]) -> Plot | None:
    """Kinds of errors: substitutions, deletions and insertions in percent of the reference.

    Returns:
        None if no task with a headline has any.
    """
    lines = []
    for run in runs:
        name = error_metric(run) if run.results["headline"] is not None else None
        # Denominators of an error rate are lengths of references, in words or characters.
        length = sum(sample.values[name][1] for sample in run.samples if name in sample.values) if name else 0
        if length:
            shares = [100 * run.results["counts"][kind] / length for kind in ERROR_KINDS]
            lines.append((run, f"{name}, {length:.0f} {_unit_of_length(str(name))}", shares))
    if not any(sum(shares) for _, _, shares in lines):
        return None
    # The longest bar sets the scale of all.
    end, ticks = _axis(max(sum(shares) for _, _, shares in lines), "%")
    bars = []
    for run, note, shares in lines:
        # Segments are stacked: each begins where the ones before it end.
        starts = [sum(shares[:index]) for index in range(len(shares))]
        segments = tuple(
            Segment(kind, 100 * start / end, 100 * share / end)
            for kind, start, share in zip(ERROR_KINDS, starts, shares)
        )
        text = " · ".join(f"{kind[0].upper()} {format_number(share)}" for kind, share in zip(ERROR_KINDS, shares))
        bars.append(Bar(run.name, note, text, segments))
    return Plot(
        "Kinds of errors",
        "In percent of the length of all references together; a reply that fails counts as deletions.",
        tuple(bars),
        ticks,
        tuple((kind, kind) for kind in ERROR_KINDS),
    )


def error_metric(run: TaskRun) -> str | None:
    """The metric that a task's substitutions, deletions and insertions add up to; none if they are not counted."""
    counts = run.results["counts"]
    if not all(kind in counts for kind in ERROR_KINDS):
        return None
    errors = sum(counts[kind] for kind in ERROR_KINDS)
    for name, metric in run.results["metrics"].items():
        # Results do not say which metric the counts belong to: it is the one whose errors sum up to them.
        numerators = [sample.values[name][0] for sample in run.samples if name in sample.values]
        if not metric["higher_is_better"] and numerators and math.isclose(sum(numerators), errors):
            return str(name)
    return None


def _interval_plot(
    title: str, caption: str, unit: str, lines: Sequence[tuple[str, str, Mapping[str, Any]]], full: float | None = None
) -> Plot:
    # Whiskers have to fit, too. Without anything to draw, the axis is that of the whole.
    highest = full or max(max(metric["value"], _or_zero(metric["high"])) for _, _, metric in lines) or 100.0
    end, ticks = _axis(highest, unit)
    bars = []
    for label, note, metric in lines:
        interval = None
        text = format_number(metric["value"])
        if _is_number(metric["low"]) and _is_number(metric["high"]):
            interval = (100 * metric["low"] / end, 100 * metric["high"] / end)
            text = f"{text} {format_interval(metric)}"
        bars.append(Bar(label, note, text, (Segment("main", 0.0, 100 * metric["value"] / end),), interval))
    return Plot(title, caption, tuple(bars), ticks)


def _axis(highest: float, unit: str) -> tuple[float, tuple[tuple[float, str], ...]]:
    """The end of an axis from 0 to at least `highest` (above 0); ticks at 1, 2, 2.5 or 5 times a power of ten."""
    # The smallest step of the series that reaches the highest value in at most five steps.
    power = 10.0 ** math.floor(math.log10(highest / 4))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power * 5 >= highest)
    # Rounding errors of the division must not add a tick.
    count = max(1, math.ceil(highest / step - 1e-9))
    labels = [f"{index * step:g}" for index in range(count + 1)]
    labels[-1] += f" {unit}" if unit else ""
    return count * step, tuple((100 * index / count, label) for index, label in enumerate(labels))


def _by_length(samples: Sequence[ReportedSample], name: str) -> list[tuple[str, list[ReportedSample]]]:
    # Ranges such as 1 to 5, 6 to 10, and 41 or more. Empty references are in none.
    starts = (1, *(bound + 1 for bound in LENGTH_BOUNDS))
    ends = (*LENGTH_BOUNDS, math.inf)
    ranges = []
    for start, end in zip(starts, ends):
        # The denominator of an error rate is the length of its reference.
        members = [sample for sample in samples if name in sample.values and start <= sample.values[name][1] <= end]
        if members:
            ranges.append((f"{start} or more" if end == math.inf else f"{start} to {end}", members))
    return ranges


def _kind(name: str, metric: Mapping[str, Any]) -> str:
    """The plot that a metric is drawn in: one for all error rates, others for accuracies and a judge's scores."""
    return name.split("_")[0].capitalize() if metric["higher_is_better"] else "Error rates"


def _unit_of_length(metric: str) -> str:
    return {"cer": "characters", "mer": "words and characters"}.get(metric.split("_")[0], "words")


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _or_zero(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else 0.0
