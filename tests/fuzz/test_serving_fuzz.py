"""Some damaged requests of each kind."""

from pathlib import Path

import pytest

from . import serving


@pytest.mark.parametrize("kind", serving.KINDS)
def test_damaged_requests_are_refused_in_a_sentence(kind: str, tmp_path: Path) -> None:
    outcomes = list(serving.run_cases((kind,), range(30), 0, tmp_path))
    assert len(outcomes) == 31
    assert [f"{outcome.case}: {outcome.status} {outcome.fault}" for outcome in outcomes if outcome.fault] == []
    assert {outcome.status for outcome in outcomes} >= {200, 400}
