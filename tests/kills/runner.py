"""Starts commands, kills them, runs them again, and compares what they made."""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub_server import Hub
from tests.forked import become_command

from .commands import Command, Result


TRIES = 5  # a command that has ended before it was killed is started anew
TIMEOUT = 120.0  # seconds


@dataclass
class Outcome:
    """How a case ended.

    Args:
        case: Its number.
        kills: Signals and the moments, in seconds from the start, at which they were sent.
        fault: What was wrong; empty if the result was that of a quiet run.
    """

    case: int
    kills: list[str]
    fault: str


def run_cases(variants: tuple[Command, ...], cases: list[int], seed: int, base: Path, hub: Hub) -> Iterator[Outcome]:
    """Runs cases of a verb.

    Args:
        variants: Commands of the verb, which the cases take in turn.
        cases: Numbers of the cases.
        seed: Seed of the moments.
        base: Folder of the material; beside it are the folders of the runs.
        hub: What takes the uploads.

    Yields:
        The outcome of each case.
    """
    quiet: dict[int, tuple[float, Result]] = {}
    for case in cases:
        number = case % len(variants)
        command = variants[number]
        for module in command.imports:
            importlib.import_module(module)
        if number not in quiet:
            quiet[number] = _run_quietly(command, base, base.parent / f"{command.verb}-{number}-quiet", hub)
        rng = random.Random(f"{seed}/{command.verb}/{case}")
        folder = base.parent / f"{command.verb}-{case}"
        yield _run_case(command, case, rng, base, folder, hub, *quiet[number])
        shutil.rmtree(folder, ignore_errors=True)


def _run_quietly(command: Command, base: Path, folder: Path, hub: Hub) -> tuple[float, Result]:
    """Seconds and result of a run that nothing interrupts. The second of two: the first one warms caches up."""
    for _ in range(2):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        _empty(hub)
        start = time.monotonic()
        code, stderr = _wait(_start(command, base, folder), folder)
        seconds = time.monotonic() - start
        if code:
            raise RuntimeError(f"{command.verb} fails without a kill, exit code {code}: {stderr}")
    return seconds, command.result(folder)


def _run_case(
    command: Command,
    case: int,
    rng: random.Random,
    base: Path,
    folder: Path,
    hub: Hub,
    seconds: float,
    expected: Result,
) -> Outcome:
    for _ in range(TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        _empty(hub)
        kills: list[str] = []
        for _ in range(rng.choice([1, 1, 2, 3])):
            number = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
            moment = rng.uniform(0.02, 0.95) * seconds
            pid = _start(command, base, folder)
            time.sleep(moment)
            # The process alone: what it has started is not told.
            os.kill(pid, number)
            code, stderr = _wait(pid, folder)
            if code == 0 or (kills and is_refused(code, stderr, expected, command.result(folder))):
                break
            kills.append(f"{number.name} at {moment:.2f} s")
            if "Traceback" in stderr or code not in (-number, 128 + number):
                return Outcome(case, kills, f"ended with {code} when it was killed: {stderr[-500:]}")
            if hub.files and command.result(folder).keys() != expected.keys() and command.verb == "push":
                return Outcome(case, kills, f"uploaded a part: {sorted(hub.files)}")
        if kills:
            break
    code, stderr = _wait(_start(command, base, folder), folder)
    found = command.result(folder)
    if code and not is_refused(code, stderr, expected, found):
        return Outcome(case, kills, f"does not continue, exit code {code}: {stderr[-500:]}")
    return Outcome(case, kills, _difference(expected, found))


def is_refused(code: int, stderr: str, expected: Result, found: Result) -> bool:
    """Whether a command that was killed when all was there says that it does not write it again."""
    return code == 1 and "Traceback" not in stderr and not _difference(expected, found)


def _start(command: Command, base: Path, folder: Path) -> int:
    """Starts the command in a process that has already imported what it needs."""
    pid = os.fork()
    if pid == 0:
        log = _log(folder)
        os.chdir(folder)
        become_command(lambda: command.arguments(base), log, 99)
    return pid


def _wait(pid: int, folder: Path) -> tuple[int, str]:
    """Exit code, negative for a signal, and what was printed on stderr."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return 124, f"does not end within {TIMEOUT:g} s"
        time.sleep(0.005)
    log = _log(folder)
    return os.waitstatus_to_exitcode(status), log.read_text(errors="replace") if log.is_file() else ""


def _log(folder: Path) -> Path:
    return folder.with_suffix(".stderr")


def _empty(hub: Hub) -> None:
    hub.files.clear()
    hub.created.clear()


def _difference(expected: Result, found: Result) -> str:
    """Says in a sentence where two results differ; empty if they are equal."""
    if missing := sorted(expected.keys() - found.keys()):
        return f"missing: {', '.join(missing)}"
    if more := sorted(found.keys() - expected.keys()):
        return f"left over: {', '.join(more)}"
    for name, content in expected.items():
        if content != found[name]:
            return f"{name} differs: {_first_difference(content, found[name])}"
    return ""


def _first_difference(expected: Any, found: Any, where: str = "") -> str:
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys():
        pairs = [(key, expected[key], found[key]) for key in expected]
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = [(index, *pair) for index, pair in enumerate(zip(expected, found))]
    else:
        return f"{where or 'it'} is {str(found)[:200]} instead of {str(expected)[:200]}"
    return next(_first_difference(old, new, f"{where}.{key}") for key, old, new in pairs if old != new)
