"""Results go to the Hub in one commit: a server that takes what the Hub's client sends stands in for it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from recorded_run import Answer, write_recognition

from ttt_hf.evaluation.report import write_markdown
from ttt_hf.evaluation.store import write_json


pytestmark = pytest.mark.slow  # processes of their own: the Hub's client reads its address when it is imported

CARD = "---\nlicense: mit\n---\n# A model\n"


class Hub:
    """One repository that has a card, if it is told so."""

    def __init__(self) -> None:
        self.has_card = True
        self.is_refusing = False
        self.requests: list[str] = []
        self.files: dict[str, str] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._file(with_body=False)

            def do_GET(self) -> None:
                self._file(with_body=True)

            def do_POST(self) -> None:
                hub.requests.append(self.path)
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                if hub.is_refusing:
                    self._send(403, b'{"error": "You may not write here."}')
                elif self.path == "/api/repos/create":
                    self._send(200, json.dumps({"url": f"{hub.url}/me/model"}).encode())
                elif "/preupload/" in self.path:
                    files = [
                        {**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
                    ]
                    self._send(200, json.dumps({"files": files}).encode())
                elif "/commit/" in self.path:
                    for line in map(json.loads, body.splitlines()):
                        if line["key"] == "file":
                            content = base64.b64decode(line["value"]["content"]).decode()
                            hub.files[line["value"]["path"]] = content
                    commit = {"commitOid": "0" * 40, "commitUrl": f"{hub.url}/me/model/commit/{'0' * 40}"}
                    self._send(200, json.dumps(commit).encode())
                else:
                    self._send(200, b"{}")

            def _file(self, with_body: bool) -> None:
                hub.requests.append(self.path)
                if "/resolve/" not in self.path or not hub.has_card:
                    self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
                    return
                headers = {"ETag": '"card"', "X-Repo-Commit": "0" * 40, "Accept-Ranges": "bytes"}
                self._send(200, CARD.encode(), headers, with_body)

            def _send(
                self, status: int, content: bytes, headers: dict[str, str] | None = None, with_body: bool = True
            ) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                if with_body:
                    self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_recognition(
        tmp_path / "run" / "speech", [Answer("a", "hello there", "hello there"), Answer("b", "bye", "by")]
    )
    return tmp_path / "run"


def push(hub_url: str, folder: Path, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": hub_url,
        "HF_TOKEN": "hf_of_this_test",
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
    }
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
    card = hub.files["README.md"]
    assert "model-index" in card and "33.3333" in card
    assert ("license: mit" in card and "# A model" in card) is has_card
    assert json.loads(hub.files["evaluation/speech/results.json"])["n_scored"] == 2
    # What was said and what should have been said stay on this machine.
    assert "bye" in write_markdown(folder).read_text(encoding="utf-8")
    assert "bye" not in "".join(hub.files.values())
    assert "hf_of_this_test" not in "".join(hub.files.values())


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
