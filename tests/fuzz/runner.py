"""Runs cases, each in a process of its own, and judges how they ended."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import re
import resource
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from tests.forked import become_command

from .mutations import Damage


KINDS = ("audio", "tables", "recipes", "tasks", "checkpoints", "codecs", "runs")
SECONDS = 10.0  # a case that computes longer hangs
PATIENCE = 6  # times that long a case may last, since it waits for a processor where others are busy
MEMORY = 2 * 2**30  # bytes beyond those of a process that has only imported what it needs
EXIT_CODES = (0, 1, 2)
UNDAMAGED = 5  # the first cases of each kind must succeed, or the others would show nothing
# What must not be printed: tracebacks, errors that nobody expected, panics of Rust.
FORBIDDEN = (r"Traceback \(most recent call last\)", r"error: Unexpected \w+:", r"panicked at")
EXIT_OF_THE_FUZZER = 99  # the case could not be made
POLL = 0.01


@dataclass
class Outcome:
    """How a case ended.

    Args:
        kind: Kind of the case.
        case: Its number, from which it can be made again.
        fault: What was wrong, in a few words; empty if it passed.
        command: The arguments of `ttt-hf`.
        exit_code: The exit code; negative for a signal.
        stderr: What the command printed.
        seconds: How long it computed.
    """

    kind: str
    case: int
    fault: str
    command: str
    exit_code: int
    stderr: str
    seconds: float


@dataclass
class _Running:
    pid: int
    kind: str
    case: int
    folder: Path
    start: float
    limit: int  # bytes
    fault: str = ""


def load_kind(name: str) -> ModuleType:
    """The module of a kind: `prepare(base)` writes sound files, `make(damage, base, folder)` gives a command."""
    return importlib.import_module(f"{__package__}.kinds.{name}")


def run_cases(
    kind: str, numbers: Iterable[int], seed: int, folder: Path, workers: int = 1, seconds: float = SECONDS
) -> Iterator[Outcome]:
    """Runs cases of a kind.

    Args:
        kind: One of `KINDS`.
        numbers: Numbers of the cases.
        seed: Seed of all cases.
        folder: Scratch folder; the sound files of the kind are written to it once.
        workers: Number of processes.
        seconds: How long a case may compute; it may last `PATIENCE` times that.

    Yields:
        The outcome of each case, in the order in which they end.
    """
    module = load_kind(kind)
    base = folder / kind
    if not base.exists():
        base.mkdir(parents=True)
        module.prepare(base)
    # Once for all cases: a fork has what this process has imported.
    for name in module.IMPORTS:
        importlib.import_module(name)
    waiting = iter(numbers)
    running: list[_Running] = []
    exhausted = False
    while running or not exhausted:
        while len(running) < workers and not exhausted:
            case = next(waiting, None)
            if case is None:
                exhausted = True
            else:
                running.append(_start(module, kind, case, seed, base, folder / f"{kind}-{case}"))
        for process in list(running):
            outcome = _watch(process, seconds)
            if outcome is not None:
                running.remove(process)
                yield outcome
        time.sleep(POLL)


def _start(module: ModuleType, kind: str, case: int, seed: int, base: Path, folder: Path) -> _Running:
    folder.mkdir()
    pid = os.fork()
    if pid == 0:
        _run(module, Damage(f"{seed}/{kind}/{case}", is_off=case < UNDAMAGED), base, folder)
    # What a fork has from the beginning is less than what its parent has: files are not mapped in yet.
    return _Running(pid, kind, case, folder, time.monotonic(), _resident(pid) + MEMORY)


def _run(module: ModuleType, damage: Damage, base: Path, folder: Path) -> None:
    """The child: makes the case, runs the command and exits with its code."""

    def arguments() -> list[str]:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (MEMORY, MEMORY))
        faulthandler.register(signal.SIGUSR1, file=2)
        work = folder / "work"
        work.mkdir()
        os.chdir(work)
        command = module.make(damage, base, work)
        (folder / "command").write_text(" ".join(map(repr, command)), errors="backslashreplace")
        return command

    become_command(arguments, folder / "stderr", EXIT_OF_THE_FUZZER)


def _watch(process: _Running, seconds: float) -> Outcome | None:
    """The outcome of a process that has ended; kills one that takes too much time or memory."""
    pid, status, usage = os.wait4(process.pid, os.WNOHANG)
    if pid == 0:
        is_late = time.monotonic() - process.start > PATIENCE * seconds
        if is_late or _computed(process.pid) > seconds:
            process.fault = f"ran longer than {seconds:g} s"
            os.kill(process.pid, signal.SIGUSR1)  # it prints where it is
            time.sleep(0.5)
        elif _resident(process.pid) > process.limit:
            process.fault = "took more than 2 GB"
        else:
            return None
        os.kill(process.pid, signal.SIGKILL)
        _, status, usage = os.wait4(process.pid, 0)
    # Children of the command, such as workers of a data loader.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(status)
    stderr = _read(process.folder / "stderr")
    fault = process.fault or _fault(code, stderr)
    if not fault and code and process.case < UNDAMAGED:
        fault = "failed without damage"
    if not fault and usage.ru_maxrss * 1024 > process.limit:
        fault = "took more than 2 GB"
    command = _read(process.folder / "command")
    shutil.rmtree(process.folder, ignore_errors=True)
    return Outcome(process.kind, process.case, fault, command, code, stderr, usage.ru_utime + usage.ru_stime)


def _fault(code: int, stderr: str) -> str:
    if code == EXIT_OF_THE_FUZZER:
        return "the fuzzer failed"
    for pattern in FORBIDDEN:
        if found := re.search(pattern, stderr):
            return f"printed {found[0]!r}"
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    if code not in EXIT_CODES:
        return f"exit code {code}"
    return "" if code == 0 or stderr.strip() else f"exit code {code} without a word"


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


def _computed(pid: int) -> float:
    """Seconds that a process has computed, 0 if it has ended."""
    try:
        # User and system time, counted from behind the name of the program, which may hold blanks.
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def _resident(pid: int) -> int:
    """Memory of a process in bytes, 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (FileNotFoundError, ProcessLookupError):
        return 0
