"""Reports of an evaluation: a table for the terminal, Markdown, one HTML page, and scores in a model card.

Names are loaded on first use, so that the table for the terminal does not import what the pages need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .markdown import MARKDOWN_FILE, render_markdown, write_markdown
    from .model_index import update_model_card
    from .page import write_html
    from .run_data import read_results
    from .terminal import terminal_table

__all__ = [
    "MARKDOWN_FILE",
    "read_results",
    "render_markdown",
    "terminal_table",
    "update_model_card",
    "write_html",
    "write_markdown",
]

_MODULE_OF = {
    "MARKDOWN_FILE": "markdown",
    "read_results": "run_data",
    "render_markdown": "markdown",
    "terminal_table": "terminal",
    "update_model_card": "model_index",
    "write_html": "page",
    "write_markdown": "markdown",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
