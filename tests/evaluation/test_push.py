"""Results go to the Hub in one commit: a server that takes what the Hub's client sends stands in for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from recorded_run import Answer, write_recognition

from hub_server import Hub, hub_environment
from ttt_hf.evaluation.report import write_markdown
from ttt_hf.evaluation.store import write_json


pytestmark = pytest.mark.slow  # processes of their own: the Hub's client reads its address when it is imported


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_recognition(
        tmp_path / "run" / "speech", [Answer("a", "hello there", "hello there"), Answer("b", "bye", "by")]
    )
    return tmp_path / "run"


def push(hub_url: str, folder: Path, home: Path) -> subprocess.CompletedProcess[str]:
    environment = hub_environment(hub_url, home)
    command = [sys.executable, "-m", "ttt_hf.cli", "eval", "push", str(folder), "--repo", "me/model", "--json"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("has_card", [True, False])
def test_scores_go_into_the_card_and_results_beside_it(hub: Hub, folder: Path, tmp_path: Path, has_card: bool) -> None:
    hub.has_card = has_card
    result = push(hub.url, folder, tmp_path / "home")
    assert result.returncode == 0, result.stderr
    pushed = json.loads(result.stdout)
    assert pushed["tasks"] == ["speech"] and pushed["url"].startswith(hub.url)
    assert sorted(hub.files) == [
        "README.md",
        "evaluation/report.md",
        "evaluation/speech/results.json",
        "evaluation/speech/scores.jsonl",
    ]
    card = hub.files["README.md"].decode()
    assert "model-index" in card and "33.3333" in card
    assert ("license: mit" in card and "# A model" in card) is has_card
    assert json.loads(hub.files["evaluation/speech/results.json"])["n_scored"] == 2
    # What was said and what should have been said stay on this machine.
    assert "bye" in write_markdown(folder).read_text(encoding="utf-8")
    assert b"bye" not in b"".join(hub.files.values())
    assert b"hf_of_this_test" not in b"".join(hub.files.values())
    assert [request["visibility"] for request in hub.created] == ["private"]


def test_a_token_that_may_not_write_is_said(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.is_refusing = True
    result = push(hub.url, folder, tmp_path / "home")
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
    assert "me/model cannot be written on the Hub" in result.stderr and "hf auth login" in result.stderr


def test_results_without_a_headline_are_not_pushed(hub: Hub, tmp_path: Path) -> None:
    write_recognition(tmp_path / "run" / "speech", [Answer("a", "hello", "hello")], limited=True)
    result = push(hub.url, tmp_path / "run", tmp_path / "home")
    assert result.returncode == 1 and "without --limit" in result.stderr
    assert "/api/repos/create" not in hub.requests and hub.files == {}


def test_tasks_that_are_not_scored_are_left_out(hub: Hub, folder: Path, tmp_path: Path) -> None:
    write_recognition(folder / "unscored", [Answer("a", "hello", "hello")])
    (folder / "unscored" / "results.json").unlink()
    result = push(hub.url, folder, tmp_path / "home")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["tasks"] == ["speech"]
    assert not [name for name in hub.files if "unscored" in name]


def test_no_hub_is_said(folder: Path, tmp_path: Path) -> None:
    result = push("http://127.0.0.1:9", folder, tmp_path / "home")
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
    assert "The Hub cannot be reached" in result.stderr


def test_a_damaged_result_is_said_before_anything_is_sent(hub: Hub, folder: Path, tmp_path: Path) -> None:
    write_json(folder / "speech" / "results.json", {"schema_version": 7})
    result = push(hub.url, folder, tmp_path / "home")
    assert result.returncode == 1 and "schema_version 7" in result.stderr and hub.requests == []
