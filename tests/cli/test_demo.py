"""`ttt-hf demo`: serves the page on this machine until it is interrupted; what it cannot do is said in a sentence."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ttt_hf.loading import load_checkpoint


def test_the_page_is_served_until_it_is_interrupted(checkpoint: Path) -> None:
    command = [sys.executable, "-m", "ttt_hf", "demo", checkpoint, "--port", "0"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline().strip()
        said, _, url = line.rpartition(" ")
        assert said == f"ttt-hf: talk to {checkpoint.name} at" and url.startswith("http://127.0.0.1:")
        assert httpx.get(url).text.startswith("<!doctype html>")
        assert httpx.get(f"{url}/about.json").json()["has_dialogues"] is True
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        assert "Traceback" not in process.stderr.read()


def test_other_machines_only_if_wanted(run: Callable[..., Any], checkpoint: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        public = run("demo", checkpoint, "--host", "0.0.0.0", "--port", port)
        private = run("demo", checkpoint, "--port", port)
    assert f"whoever reaches 0.0.0.0 port {port} may talk to the model" in public.err
    assert "whoever" not in private.err


def test_a_port_that_is_taken(run: Callable[..., Any], checkpoint: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("demo", checkpoint, "--port", taken.getsockname()[1])
    assert result.code == 1 and result.err.count("\n") == 1
    assert "cannot be listened at" in result.err and "--port" in result.err


def test_a_model_without_a_codec(run: Callable[..., Any], checkpoint: Path, tmp_path: Path) -> None:
    model, processor = load_checkpoint(checkpoint)
    processor.codec = None
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    result = run("demo", tmp_path, "--port", 0)
    assert (result.code, result.out) == (1, "")
    assert result.err.endswith(
        "This model has no codec, so that it cannot be talked to: name its codec with --codec.\n"
    )


def test_without_the_packages_of_the_server(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("ttt_hf.serving.api")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    result = run("demo")
    assert result.code == 1
    assert "needs the package fastapi: pip install 'ttt-hf[serve]'" in result.err
