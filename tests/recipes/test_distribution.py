"""The source distribution has the recipe; that the wheel has not is tested in tests/test_package.py."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[2]


def test_source_distribution_has_the_recipe_and_its_tests(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    source = {
        path.relative_to(ROOT).as_posix()
        for folder in ("recipes", "tests/recipes")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"recipes/tiny/__main__.py", "recipes/tiny/tiny.yaml", "recipes/tiny/tasks/wording_asr.yaml"} <= source
    assert source <= packed
    assert not [name for name in packed if name.startswith(("build/", ".venv/")) or "__pycache__" in name]
