"""What the benchmarks share: clocks, the machine and its limits, options, tables inside Markdown files."""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from ttt_hf.atomic_files import atomic_write_text


@dataclass(frozen=True)
class Duration:
    """A duration in seconds.

    Attributes:
        wall: Time that passed.
        process: Processor time of this process, all threads together. Other load on the machine does not count, and
            work that is queued on a GPU does not either.
    """

    wall: float
    process: float

    def __sub__(self, other: Duration) -> Duration:
        return Duration(self.wall - other.wall, self.process - other.process)


def now(device: torch.device) -> Duration:
    """Both clocks, after the device has finished what is queued."""
    synchronize(device)
    return Duration(time.perf_counter(), time.process_time())


def best(durations: list[Duration]) -> Duration:
    """The shortest of several runs, by each clock."""
    return Duration(min(each.wall for each in durations), min(each.process for each in durations))


def timed(call: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Calls and returns (seconds, result)."""
    start = now(device)
    result = call()
    return (now(device) - start).wall, result


def clock(duration: Duration, device: torch.device) -> float:
    """Seconds of the clock that ratios are taken from: processor time on a CPU, wall-clock time on a GPU."""
    return duration.process if device.type == "cpu" else duration.wall


def least_seconds(call: Callable[[], Any], device: torch.device, repeat: int) -> float:
    """Seconds that a call takes, the least of several; a bound must not be too high."""
    durations = []
    for _ in range(repeat):
        start = now(device)
        call()
        durations.append(clock(now(device) - start, device))
    return min(durations)


def synchronize(device: torch.device) -> None:
    """Waits until the device has finished, so that the time is complete."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory_bandwidth(device: torch.device) -> float:
    """Measured read bandwidth in bytes per second: a matrix-vector product with a matrix larger than any cache."""
    rows = 16384 if device.type == "cuda" else 8192
    matrix, vector = torch.ones(rows, rows, device=device), torch.ones(rows, device=device)
    return matrix.numel() * matrix.element_size() / least_seconds(lambda: matrix @ vector, device, 7)


def matmul_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Measured operations per second of a product of large square matrices, the fastest thing that a matmul can be."""
    rows = 8192 if device.type == "cuda" else 1024
    matrix = torch.randn(rows, rows, device=device, dtype=dtype)
    return 2 * rows**3 / least_seconds(lambda: matrix @ matrix, device, 7)


def fill(readme: Path, block: str, marks: tuple[str, str]) -> None:
    """Writes a block between the marks in a Markdown file, in place of what is there."""
    first, last = marks
    text = readme.read_text(encoding="utf-8")
    head, begin, rest = text.partition(first)
    _, end, tail = rest.partition(last)
    if not (begin and end):
        raise ValueError(f"{readme} lacks the line {first} or, after it, {last}: add them where the table belongs.")
    atomic_write_text(readme, f"{head}{first}\n{block}\n{last}{tail}")


def device_name(device: str) -> str:
    """Name of the GPU, or of the processor and its number of CPUs."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name} ({os.cpu_count()} CPUs)"


def machine(device: str) -> dict[str, Any]:
    """Hardware and versions."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that the benchmarks of generation and training share."""
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the measurements to this file")
    parser.add_argument("--readme", type=Path, help="also put the table between its marks in this file")
