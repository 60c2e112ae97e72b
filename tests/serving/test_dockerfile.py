"""The Dockerfile, as far as it can be checked without building it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from local_server import LocalServer

from ttt_hf.cli.main import build_parser, main


ROOT = Path(__file__).resolve().parents[2]
# Lines that go on with a backslash are one.
STEPS = [
    line.split(maxsplit=1)
    for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]


def arguments(name: str) -> list[str]:
    return [rest for step, rest in STEPS if step == name]


def test_what_it_copies_is_there_and_sent_to_the_builder() -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    copied = {source for rest in arguments("COPY") for source in rest.split()[:-1]}
    assert copied == {line[1:] for line in ignore if line.startswith("!")}
    assert all((ROOT / source).exists() for source in copied)
    # What the build of the package reads.
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert {"pyproject.toml", re.search(r'readme = "(.*)"', project)[1], *json.loads(
        re.search(r"license-files = (.*)", project)[1]
    )} <= copied  # fmt: skip


def test_it_does_not_run_as_root() -> None:
    names = [step for step, _ in STEPS]
    assert arguments("USER") == ["ttt"] and names.index("USER") < names.index("ENTRYPOINT")
    assert "useradd --create-home ttt" in arguments("RUN")


def test_its_command_needs_a_key(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("TTT_HF_API_KEY", raising=False)
    (command,) = map(json.loads, arguments("CMD"))
    assert arguments("ENTRYPOINT") == ['["ttt-hf"]']
    assert arguments("EXPOSE") == [str(build_parser().parse_args(command).port)]
    assert main(command) == 2
    assert "set TTT_HF_API_KEY" in capsys.readouterr().err


def test_its_health_check_tells_whether_the_server_answers(server: LocalServer) -> None:
    (check,) = arguments("HEALTHCHECK")
    _, flag, code = json.loads(check.partition("CMD ")[2])
    assert ":8000/" in code
    for port, is_well in ((server.port, True), (1, False)):
        done = subprocess.run([sys.executable, flag, code.replace(":8000/", f":{port}/")], capture_output=True)
        assert (done.returncode == 0) is is_well
