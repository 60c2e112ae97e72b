"""The report as one self-contained HTML page: no network, no scripts, plots and recordings embedded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ... import __version__
from ...atomic_files import atomic_write_text
from .examples import Difference, choose_examples, differences, embedded_audio, question_recordings
from .method import description_of, method_of, settings_of
from .plots import error_metric, length_plot, summary_plots
from .run_data import ReportedSample, TaskRun, main_metric, read_runs
from .terminal import format_interval, format_number, in_printed_unit, is_shown, metric_rows, model_names, notes_of


HTML_FILE = "report.html"
QUESTION, REPLY = "Audio of the question", "Audio of the reply"
TEMPLATE = Path(__file__).with_name("report.html.jinja")
STYLE = Path(__file__).with_name("report.css")


def write_html(folder: Path) -> Path:
    """Writes `report.html` into the folder of a run: numbers, plots, and examples to listen to.

    Texts of models and data are escaped, and the page's content security policy forbids scripts and requests.

    Args:
        folder: The folder of one task, or of a run with a folder for each task.

    Returns:
        Path of the page.
    """
    runs = read_runs(folder)
    results = [run.results for run in runs]
    rows = metric_rows(results)
    # autoescape: texts of models and data cannot become markup. StrictUndefined: a wrong name is an error.
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        models=model_names(results),
        version=__version__,
        # Our own file, so it needs no escaping.
        style=Markup(STYLE.read_text(encoding="utf-8")),
        rows=rows,
        has_notes=any(row.note for row in rows),
        notes=notes_of(results),
        plots=summary_plots(runs),
        tasks=[_task(run) for run in runs],
    )
    atomic_write_text(folder / HTML_FILE, text)
    return folder / HTML_FILE


def _task(run: TaskRun) -> dict[str, Any]:
    results = run.results
    lengths = length_plot(run)
    groups = choose_examples(run)
    # For all groups at once, since the data of the task are opened for it.
    questions = question_recordings(run, [sample for group in groups for sample in group.samples])
    return {
        "name": run.name,
        "results": results,
        "description": description_of(results),
        "headline": _headline(results),
        "method": method_of(results),
        "plots": [lengths] if lengths else [],
        "examples": [
            {
                "title": group.title,
                "samples": [_example(sample, run, questions.get(sample.id)) for sample in group.samples],
            }
            for group in groups
        ],
        "settings": settings_of(results),
    }


def _headline(results: Mapping[str, Any]) -> dict[str, str] | None:
    if not is_shown(results):
        return None
    name = main_metric(results)
    metric = in_printed_unit(results["metrics"][name])
    return {
        "metric": name,
        "value": format_number(metric["value"]),
        "unit": metric["unit"],
        "interval": format_interval(metric),
        "direction": "higher is better" if metric["higher_is_better"] else "lower is better",
        "note": results["limited"]["note"] if results["limited"] else "",
    }


def _sample_scores(sample: ReportedSample) -> list[tuple[str, str]]:
    return [(name, f"{numerator:g} of {total:g}") for name, (numerator, total) in sample.values.items()]


def _example(sample: ReportedSample, run: TaskRun, question: str | None) -> dict[str, Any]:
    reply = embedded_audio(sample.audio) if sample.audio else None
    compared: list[Difference] = []
    # Marked words explain an error rate. They would mislead where other rules decide, or any of several answers is
    # right.
    if run.main_metric == error_metric(run) and len(sample.references) == 1:
        # Of spoken replies, the transcript is what the headline metric scores.
        hypothesis = sample.text if sample.transcript is None else sample.transcript
        compared = differences(sample.references[0], hypothesis) if hypothesis else []
    return {
        "sample": sample,
        "scores": _sample_scores(sample),
        "differences": compared,
        "players": [(name, address) for name, address in ((QUESTION, question), (REPLY, reply)) if address],
        # Not embedded, since the file is too large.
        "left_out": f"listen to {sample.audio.name}." if sample.audio and not reply else None,
    }
