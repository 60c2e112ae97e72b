"""The report in Markdown: texts of models and data are shown as they are, whatever they hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from recorded_run import Answer, change_results, write_questions, write_recognition
from ttt_hf.evaluation.report.markdown import escape_json, escape_markdown, render_markdown


HOSTILE = "<script>alert(1)</script> <img src=x> a|b `c` *d* ~~e~~ [f](g) &lt; # h\n- i\n\n```\n<b>j</b>"


@pytest.mark.parametrize("renderer", ["markdown", "markdown_it"])
def test_texts_of_models_and_data_are_no_markup(tmp_path: Path, renderer: str) -> None:
    module = pytest.importorskip(renderer)
    folder = tmp_path / "run" / "questions"
    write_questions(folder, [Answer("1", HOSTILE, HOSTILE, HOSTILE, speech=HOSTILE)])
    write_recognition(tmp_path / "run" / "reading", [Answer("1", HOSTILE, "1. first", error=HOSTILE)])
    for task in ("questions", "reading"):
        change_results(tmp_path / "run" / task, model={"name": HOSTILE, "revision": HOSTILE}, first_failure=HOSTILE)
    text = render_markdown(tmp_path / "run")
    # Only the two tags of the report's own.
    assert set(re.findall("<[^>]*>", text)) == {"<details>", "<summary>", "</summary>", "</details>"}
    page = (
        module.markdown(text, extensions=["tables", "fenced_code"])
        if renderer == "markdown"
        else module.MarkdownIt("gfm-like", {"linkify": False}).render(text)
    )
    plain = re.sub("<(/?)([a-z0-9]+)[^>]*>", r"<\1\2>", page)
    assert not {"<script>", "<img>", "<b>", "<em>", "<s>", "<del>", "<a>", "<h1>"} & set(
        re.findall("<[a-z0-9]+>", plain.partition("</h1>")[2])
    )
    # One cell stays one cell.
    assert {row.count("<td>") for row in re.findall(r"<tr>.*?</tr>", plain, re.S)} <= {0, 3, 9}


@pytest.mark.parametrize("text", ["1. first", "2) second", "- item", "+ item", "# title", "> quote", "=== x", "--- x"])
def test_a_text_at_the_beginning_of_a_line_is_a_paragraph(text: str) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    page = markdown_it.MarkdownIt().render("above\n\n" + escape_markdown(text))
    assert page == f"<p>above</p>\n<p>{text.replace('>', '&gt;')}</p>\n"


def test_settings_in_a_code_block_are_the_same_json() -> None:
    settings = json.dumps({"a": HOSTILE})
    assert "`" not in escape_json(settings) and "<" not in escape_json(settings)
    assert json.loads(escape_json(settings)) == {"a": HOSTILE}
