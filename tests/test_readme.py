"""What the documents promise is run: the README's Python examples, the example script, and every command they name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from documents import blocks, commands


ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md"]


def shell_commands() -> list[str]:
    return [command for path in DOCUMENTS for block in blocks(path, "bash") for command in commands(block)]


def test_there_are_examples() -> None:
    assert blocks(ROOT / "README.md", "python")
    assert any(command.startswith("make demo") for command in shell_commands())
    assert any(command.startswith("ttt-hf talk") for command in shell_commands())


def test_python_examples_run_in_order(tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples" / "question.wav", tmp_path)
    program = "\n".join(block.text for block in blocks(ROOT / "README.md", "python"))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "reply.wav").stat().st_size > 10_000


def test_example_script_runs(tmp_path: Path) -> None:
    script, question, reply = ROOT / "examples" / "talk.py", ROOT / "examples" / "question.wav", tmp_path / "reply.wav"
    result = subprocess.run(
        [sys.executable, script, question, reply], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert reply.stat().st_size > 10_000


@pytest.mark.parametrize("command", sorted({c for c in shell_commands() if c.startswith("make ")}))
def test_make_targets_of_the_documents_exist(command: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    target = command.split()[1]
    assert re.search(rf"^{re.escape(target)}:", makefile, re.M) or target.startswith(".venv/")


def test_commands_of_the_documents_are_understood() -> None:
    """Every `ttt-hf VERB --option` in the documents is one that the command line's own help names."""
    for command in {c for c in shell_commands() if c.startswith("ttt-hf ")}:
        verb, options = command.split()[1], re.findall(r"--[a-z-]+", command)
        program = "import sys; from ttt_hf.cli.main import main; sys.exit(main())"
        result = subprocess.run(
            [sys.executable, "-c", program, verb, "--help"], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, f"{command}: {result.stderr}"
        assert all(option in result.stdout for option in options), command


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"
