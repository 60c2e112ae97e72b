"""Results go to the Hub in one commit: a server that takes what the Hub's client sends stands in for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hub_server import Hub, hub_environment
from recorded_run import Answer, change_results, write_recognition
from ttt_hf.evaluation.report import write_markdown
from ttt_hf.evaluation.store import write_json


pytestmark = pytest.mark.slow  # processes of their own: the Hub's client reads its address when it is imported


# Scored from a local folder, whose weights the repository holds, too.
MODEL = {"name": "model", "revision": "sha256:0123", "weights": {"model.safetensors": "ab" * 32}}


@pytest.fixture(autouse=True)
def weights(hub: Hub) -> None:
    hub.weights = {"main": dict(MODEL["weights"])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_recognition(
        tmp_path / "run" / "speech", [Answer("a", "hello there", "hello there"), Answer("b", "bye", "by")]
    )
    change_results(tmp_path / "run" / "speech", model=MODEL)
    return tmp_path / "run"


def push(hub_url: str, folder: Path, home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = hub_environment(hub_url, home)
    command = [sys.executable, "-m", "ttt_hf.cli", "eval", "push", str(folder), "--repo", "me/model", "--json"]
    command += options
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


@pytest.mark.parametrize(
    "held",
    [
        {},
        {"main": {"model.safetensors": "cd" * 32}},
        {"main": {"model-00001-of-00002.safetensors": "ab" * 32}},
    ],
    ids=["no repository", "other weights", "other files"],
)
def test_scores_of_another_model_are_not_pushed(hub: Hub, folder: Path, tmp_path: Path, held: dict) -> None:
    hub.weights = held
    result = push(hub.url, folder, tmp_path / "home")
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1 and hub.files == {}
    assert "me/model" in result.stderr and "--unverified" in result.stderr and hub.created == []
    assert push(hub.url, folder, tmp_path / "home", "--unverified").returncode == 0
    assert "evaluation/speech/results.json" in hub.files


@pytest.mark.parametrize(("now", "is_right"), [("ab", True), ("cd", False)])
def test_a_commit_of_the_repository_counts_as_long_as_its_weights_are_the_current_ones(
    hub: Hub, folder: Path, tmp_path: Path, now: str, is_right: bool
) -> None:
    change_results(folder / "speech", model={"name": "me/model", "revision": "1" * 40})
    hub.weights = {"main": {"model.safetensors": now * 32}, "1" * 40: {"model.safetensors": "ab" * 32}}
    result = push(hub.url, folder, tmp_path / "home")
    assert (result.returncode == 0) is is_right, result.stderr
    assert bool(hub.files) is is_right


@pytest.mark.parametrize(
    "model", [{"name": "me/model", "revision": "2" * 40}, {"name": "model", "revision": "memory:01"}]
)
def test_a_model_that_cannot_be_told_is_not_pushed(hub: Hub, folder: Path, tmp_path: Path, model: dict) -> None:
    change_results(folder / "speech", model=model)
    result = push(hub.url, folder, tmp_path / "home")
    assert result.returncode == 1 and "is known neither by files nor by a commit of me/model" in result.stderr


@pytest.mark.parametrize("linked", ["speech/scores.jsonl", "speech/results.json", "speech"])
def test_no_link_out_of_the_folder_is_followed(hub: Hub, folder: Path, tmp_path: Path, linked: str) -> None:
    outside = tmp_path / "outside"
    (folder / linked).rename(outside)
    (folder / linked).symlink_to(outside)
    result = push(hub.url, folder, tmp_path / "home")
    assert result.returncode == 1 and "is a link to" in result.stderr and hub.files == {}


def test_secrets_of_older_results_stay_here(hub: Hub, folder: Path, tmp_path: Path) -> None:
    change_results(
        folder / "speech",
        model={**MODEL, "url": "http://me:pass-word@host/v1?api_key=sk-of-this-test"},
        first_failure="http://host/a.wav?sig=signature is no /home/me/b.wav, says hf_of_this_test.",
    )
    assert push(hub.url, folder, tmp_path / "home").returncode == 0
    sent = b"".join(hub.files.values())
    assert b"http://host/v1" in sent and b"http://host/a.wav" in sent
    assert not [
        secret for secret in (b"sk-of", b"pass-word", b"signature", b"hf_of_this_test", b"/home") if secret in sent
    ]
