"""A local server that takes what the Hub's client sends, and lists what arrived."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


CARD = "---\nlicense: mit\n---\n# A model\n"


class Hub:
    """One repository that has a card, if it is told so."""

    def __init__(self) -> None:
        self.has_card = True
        self.is_refusing = False
        self.weights: dict[str, dict[str, str]] = {}  # revision -> file -> SHA-256; without any, there is no model
        self.requests: list[str] = []
        self.files: dict[str, bytes] = {}
        self.space: dict[str, bytes] = {}  # the Space of the same name
        self.commits: list[str] = []
        self.created: list[dict[str, Any]] = []
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
                    hub.created.append(json.loads(body))
                    place = "spaces/me/model" if hub.created[-1].get("type") == "space" else "me/model"
                    self._send(200, json.dumps({"url": f"{hub.url}/{place}"}).encode())
                elif "/preupload/" in self.path:
                    files = [
                        {**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
                    ]
                    self._send(200, json.dumps({"files": files}).encode())
                elif "/commit/" in self.path:
                    is_space = self.path.startswith("/api/spaces/")
                    for line in map(json.loads, body.splitlines()):
                        if line["key"] == "header":
                            hub.commits.append(line["value"]["summary"])
                        if line["key"] == "file":
                            content = base64.b64decode(line["value"]["content"])
                            (hub.space if is_space else hub.files)[line["value"]["path"]] = content
                    place = "spaces/me/model" if is_space else "me/model"
                    commit = {"commitOid": "0" * 40, "commitUrl": f"{hub.url}/{place}/commit/{'0' * 40}"}
                    self._send(200, json.dumps(commit).encode())
                else:
                    self._send(200, b"{}")

            def _file(self, with_body: bool) -> None:
                hub.requests.append(self.path)
                if self.path.startswith("/api/models/me/model") and hub.weights:
                    self._information(self.path.split("?")[0].partition("/revision/")[2] or "main")
                    return
                if "/resolve/" not in self.path or not hub.has_card:
                    missing = "EntryNotFound" if "/resolve/" in self.path else "RepoNotFound"
                    self._send(404, b"", {"X-Error-Code": missing})
                    return
                headers = {"ETag": '"card"', "X-Repo-Commit": "0" * 40, "Accept-Ranges": "bytes"}
                self._send(200, CARD.encode(), headers, with_body)

            def _information(self, revision: str) -> None:
                if revision not in hub.weights:
                    self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
                    return
                lfs = {
                    name: {"size": 1, "sha256": sha, "pointerSize": 1} for name, sha in hub.weights[revision].items()
                }
                siblings = [{"rfilename": name, "blobId": "0" * 40, "lfs": lfs[name]} for name in lfs]
                self._send(200, json.dumps({"id": "me/model", "siblings": siblings}).encode())

            def _send(
                self, status: int, content: bytes, headers: dict[str, str] | None = None, with_body: bool = True
            ) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                    self.send_header(name, value)
                with contextlib.suppress(ConnectionError):  # a client that was killed
                    self.end_headers()
                    if with_body:
                        self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def hub_environment(url: str, home: Path) -> dict[str, str]:
    """Environment of a process whose Hub is this server: the client reads its address when it is imported."""
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": url,
        "HF_TOKEN": "hf_of_this_test",
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
    }
