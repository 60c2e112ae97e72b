"""Marks the tests of transformers that TtT fails for a reason."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import fetch
import pytest
from expected_failures import EXPECTED_FAILURES


def pytest_configure(config: pytest.Config) -> None:
    # Their markers, which our strict settings would refuse.
    helpers = importlib.util.find_spec("transformers.testing_utils").origin
    for path in (Path(helpers), *(fetch.FOLDER / fetch.PACKAGE).glob("*.py")):
        for name in set(re.findall(r"\bmark\.(\w+)", path.read_text(encoding="utf-8"))):
            config.addinivalue_line("markers", f"{name}: of transformers' tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # `test_name_3_what` is one of several that `test_name` is expanded to.
        reason = EXPECTED_FAILURES.get(item.name)
        if reason is not None:
            # Strict: a test that passes again leaves the list.
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
