"""The table of recipe keys in the documentation."""

from pathlib import Path

from ttt_hf.training.keys import table


def test_the_documentation_is_up_to_date():
    page = Path(__file__).parents[2] / "docs" / "recipe-keys.md"
    assert page.read_text(encoding="utf-8") == table()
