"""What README and CONTRIBUTING promise holds: Python and commands run, make targets and links are there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from documents import blocks, commands
from ttt_hf.cli.main import build_parser, main


ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "docs" / "architecture.md"]
QUESTION = ROOT / "examples" / "question.wav"
# What makes the README's training short.
SHORT = {"train": ["max_steps=1", "audio_variants=0"]}


def shell_commands(*paths: Path) -> list[str]:
    return [command for path in paths for block in blocks(path, "bash") for command in commands(block)]


def test_the_first_screen_shows_all_ways_in() -> None:
    beginning = README.read_text(encoding="utf-8").partition("## ")[0]
    for way in ("make demo", "make test", "ttt-hf talk ", "ttt-hf train ", "ttt-hf eval run ", "ttt_hf.evaluate("):
        assert way in beginning


def test_python_examples_run_in_order(tmp_path: Path) -> None:
    shutil.copy(QUESTION, tmp_path)
    program = "\n".join(block.text for block in blocks(README, "python"))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    reply, word_error_rate = result.stdout.strip().splitlines()[-2:]
    assert reply and 0 <= float(word_error_rate) < 0.5
    assert (tmp_path / "reply.wav").stat().st_size > 10_000


def test_commands_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("examples", "recordings"):
        (tmp_path / folder).mkdir()
        shutil.copy(QUESTION, tmp_path / folder)
    (tmp_path / "recordings" / "metadata.csv").write_text("file_name,text\nquestion.wav,Is this a question?\n")
    for command in shell_commands(README):
        program, *words = shlex.split(command)
        if program == "ttt-hf":
            assert main([*words, *SHORT.get(words[0], [])]) == 0, command
    assert (tmp_path / "reply.wav").stat().st_size > 10_000
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert json.loads((tmp_path / "scores" / "tiny_asr" / "results.json").read_text())["n_scored"] == 8


@pytest.mark.parametrize("command", sorted({c for c in shell_commands(*DOCUMENTS) if c.startswith("make ")}))
def test_make_targets_of_the_documents_exist(command: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    target = command.split()[1]
    assert re.search(rf"^{re.escape(target)}:", makefile, re.M) or target.startswith(".venv/")


def test_commands_of_the_documents_are_understood() -> None:
    for command in (c for c in shell_commands(*DOCUMENTS) if c.startswith("ttt-hf ")):
        build_parser().parse_args(shlex.split(command)[1:])  # exits where it cannot be read


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_every_example_is_in_the_readme() -> None:
    listed = re.findall(r"\]\((examples/[\w.]+)\)", README.read_text(encoding="utf-8"))
    there = [f"examples/{path.name}" for path in ROOT.glob("examples/*") if path.suffix in (".py", ".ipynb")]
    assert sorted(listed) == sorted(there)
