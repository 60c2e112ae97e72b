"""`ttt-hf serve` as a process: how it starts, and how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from ttt_hf.cli.main import main


def start(checkpoint: Path, log: Path, *arguments: str, **environment: str) -> tuple[subprocess.Popen, str]:
    """A server and its address."""
    command = [sys.executable, "-m", "ttt_hf", "serve", str(checkpoint), "--port", "0", *arguments]
    with log.open("w") as file:
        process = subprocess.Popen(command, stderr=file, env={**os.environ, **environment})
    while not (found := re.search(r"http://\S+(?=/v1)", log.read_text())):
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    return process, found[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_finishes_what_runs_and_ends_well(number: int, checkpoint: Path, tmp_path: Path) -> None:
    process, url = start(checkpoint, tmp_path / "log", TTT_HF_API_KEY="se-cret")
    name = checkpoint.name
    headers = {"Authorization": "Bearer se-cret"}
    assert httpx.get(f"{url}/v1/models").status_code == 401
    assert httpx.get(f"{url}/v1/models", headers=headers).json()["data"][0]["id"] == name
    body = {"model": name, "messages": [{"role": "user", "content": "Hello."}], "stream": True}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60) as response:
        lines = response.iter_lines()
        next(lines)
        process.send_signal(number)
        rest = list(lines)
    assert "data: [DONE]" in rest and any('"finish_reason": "' in line for line in rest)
    assert process.wait(timeout=60) == 0
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log and "se-cret" not in log and "Hello" not in log


def test_other_addresses_need_a_key(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(checkpoint), "--host", "0.0.0.0"]) == 2
    assert "set TTT_HF_API_KEY" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--slots", "0"], "slots must be above 0"), (["--max-body-mib", "0"], "--max-body-mib must be at least 1")],
)
def test_limits_that_cannot_be(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_port_that_is_taken_is_one_sentence(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert main(["serve", str(checkpoint), "--port", str(other.getsockname()[1])]) == 1
    assert re.fullmatch(r"ttt-hf: error: .* cannot be listened at .*\n", capsys.readouterr().err)


def test_without_its_packages_it_names_the_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.startswith("ttt_hf.serving.api")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert main(["serve"]) == 1
    assert "pip install 'ttt-hf[serve]'" in capsys.readouterr().err


def test_replicas_without_ray_name_the_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "ttt_hf.serving.ray_app", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["serve", "--replicas", "2"]) == 1
    assert "pip install 'ttt-hf[ray]'" in capsys.readouterr().err
