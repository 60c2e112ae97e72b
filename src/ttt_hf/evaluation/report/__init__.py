"""Reports of an evaluation: a table for the terminal, Markdown, one HTML page, and scores in a model card."""

from .markdown import write_markdown
from .model_index import update_model_card
from .page import write_html
from .run_data import read_results
from .terminal import terminal_table


__all__ = ["read_results", "terminal_table", "update_model_card", "write_html", "write_markdown"]
