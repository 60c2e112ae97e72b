"""What the tests of the command line share: a question, and a way to run commands."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from fixed_reply import tone, write_wav
from ttt_hf.cli.main import main


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def question(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of a tone with noise, 16 kHz mono."""
    path = tmp_path_factory.mktemp("question") / "question.wav"
    write_wav(path, tone(2.0, 16000), 16000)
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs the command line in this process."""

    def call(*arguments: object) -> Result:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call
