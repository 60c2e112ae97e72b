"""The report as Markdown, for a repository or an issue: numbers, the method behind them, and the worst replies."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2

from ... import __version__
from ...atomic_files import atomic_write_text
from .examples import choose_examples
from .method import description_of, method_of, settings_of
from .plots import error_plot, length_plot
from .run_data import TaskRun, read_runs
from .terminal import metric_rows, model_names, notes_of, visible_line


MARKDOWN_FILE = "report.md"
TEMPLATE = Path(__file__).with_name("report.md.jinja")
# Characters that are markup in Markdown, and those of HTML, tables and strikethrough, which some renderers do not let
# a backslash escape. At the beginning of a line, there are also marks of lists, headings and rules.
MARKUP = re.compile(r"[\\`*_{}\[\]#!<>&|~]|\A(?:[-+=]|\d+(?=[.)]))")
ENTITIES = "<>&|~"


def write_markdown(folder: Path) -> Path:
    """Writes `report.md` into the folder of a run.

    Args:
        folder: The folder of one task, or of a run with a folder for each task.

    Returns:
        Path of the report.
    """
    atomic_write_text(folder / MARKDOWN_FILE, render_markdown(folder))
    return folder / MARKDOWN_FILE


def render_markdown(folder: Path, with_replies: bool = True) -> str:
    """Renders the report.

    Args:
        folder: The folder of one task, or of a run with a folder for each task.
        with_replies: Whether to quote the worst replies with their references.
    """
    runs = read_runs(folder)
    results = [run.results for run in runs]
    rows = metric_rows(results)
    # StrictUndefined: a wrong name in the template is an error, not an empty cell. Escaping is left to `plain`, since
    # jinja2 can escape for HTML only.
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["plain"] = escape_markdown
    environment.filters["code"] = escape_json
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        models=model_names(results),
        version=__version__,
        rows=rows,
        has_notes=any(row.note for row in rows),
        notes=notes_of(results),
        errors=error_plot(runs),
        tasks=[_task(run, with_replies) for run in runs],
    )


def escape_markdown(text: str) -> str:
    """Text with markup characters escaped, on one line, so that Markdown shows it as it is, and HTML is none."""
    return MARKUP.sub(_escaped, visible_line(text))


def escape_json(text: str) -> str:
    """JSON without characters that end a code block or are HTML where code blocks are unknown; its values stay."""
    return "".join(f"\\u{ord(letter):04x}" if letter in "`<>&" else letter for letter in text)


def _escaped(match: re.Match[str]) -> str:
    mark = match[0]
    # A number needs its backslash before the full stop that follows it: an entity for its first digit does the same.
    return f"&#{ord(mark[0])};{mark[1:]}" if mark in ENTITIES or mark.isdigit() else f"\\{mark}"


def _task(run: TaskRun, with_replies: bool) -> dict[str, Any]:
    # Replies are left out of a report that is published: they may quote data that must not be.
    groups = choose_examples(run, count=5) if with_replies else []
    worst = [group.samples for group in groups if group.title == "Worst"]
    return {
        "name": run.name,
        "results": run.results,
        "description": description_of(run.results),
        "method": method_of(run.results),
        "lengths": length_plot(run),
        "worst": worst[0] if worst else (),
        "settings": settings_of(run.results),
    }
