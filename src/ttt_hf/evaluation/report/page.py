"""The report as one HTML page that needs nothing else: no network, no script, its plots and recordings inside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ... import __version__
from ...atomic_files import atomic_write_text
from .examples import Difference, choose_examples, differences, embedded_audio, question_recordings
from .facts import description_of, facts_of, settings_of
from .plots import error_metric, length_plot, summary_plots
from .run_data import ReportedSample, TaskRun, read_runs
from .terminal import format_interval, format_value, metric_rows, model_names, notes_of


HTML_FILE = "report.html"
HEARD, SAID = "What the model heard", "What the model said"
TEMPLATE = Path(__file__).with_name("report.html.jinja")
STYLE = Path(__file__).with_name("report.css")


def write_html(folder: Path) -> Path:
    """Writes `report.html` into the folder of a run: numbers, plots, and examples to listen to.

    Texts of models and data are escaped, and the page forbids scripts and requests by its own policy.

    Args:
        folder: The folder of one task, or of a run with a folder for each task.

    Returns:
        The page.

    Raises:
        FileNotFoundError: If there are no results.
        ValueError: If the results cannot be read.
        OSError: If the page cannot be written.
    """
    runs = read_runs(folder)
    results = [run.results for run in runs]
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        models=model_names(results),
        version=__version__,
        style=Markup(STYLE.read_text(encoding="utf-8")),
        rows=metric_rows(results),
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
    questions = question_recordings(run, [sample for group in groups for sample in group.samples])
    return {
        "name": run.name,
        "results": results,
        "description": description_of(results),
        "headline": _headline(results),
        "facts": facts_of(results),
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
    name = results["headline"]
    if name is None:
        return None
    metric = results["metrics"][name]
    return {
        "metric": name,
        "value": format_value(metric),
        "unit": metric["unit"],
        "interval": format_interval(metric),
        "direction": "higher is better" if metric["higher_is_better"] else "lower is better",
    }


def _measures(sample: ReportedSample) -> list[tuple[str, str]]:
    return [(name, f"{numerator:g} of {total:g}") for name, (numerator, total) in sample.values.items()]


def _example(sample: ReportedSample, run: TaskRun, question: str | None) -> dict[str, Any]:
    reply = embedded_audio(sample.audio) if sample.audio else None
    compared: list[Difference] = []
    if run.main_metric == error_metric(run) and len(sample.references) == 1:
        said = sample.text if sample.transcript is None else sample.transcript
        compared = differences(sample.references[0], said) if said else []
    return {
        "sample": sample,
        "measures": _measures(sample),
        "differences": compared,
        "players": [(name, address) for name, address in ((HEARD, question), (SAID, reply)) if address],
        "left_out": f"listen to {sample.audio.name}." if sample.audio and not reply else None,
    }
