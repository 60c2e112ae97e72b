"""The measure of decoding on a GPU: what it measures is what it says, tried on the CPU without compiling."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import CompileConfig


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))  # as where a script is run
    import gpu

    yield gpu
    sys.path.remove(str(ROOT / "benchmarks"))


def test_small_size_is_measured(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "REPEAT", 1)
    speeds = {"bandwidth": 1e10, "matmul": 1e11}
    with torch.random.fork_rng(devices=[]):
        report = benchmark.measure("tiny", torch.device("cpu"), torch.float32, "sdpa", speeds, CompileConfig())
    assert report["same_ids"]
    # The reply is the one that is laid out, twice 13 words, a marker, 26 codes, a marker.
    assert report["new_tokens"] == 82
    counts = {kind: each["count"] for kind, each in report["forwards"].items()}
    # The first word comes with the prompt, that of the second turn with the span that it closes.
    assert counts["text"] == 26
    assert counts["close"] == 1
    assert 2 <= counts["span"] <= 20
    assert all(each["milliseconds"] > 0 for each in report["forwards"].values())
    schedule, bound = report["replies"].values()
    assert 0 < schedule["first_codes_milliseconds"] / 1e3 < schedule["real_time_factor"] * 52 / 12.5
    # 28 in text, and at most 3 a block.
    assert bound["forwards"] <= 28 + 6 < schedule["forwards"]
    assert [each["rows"] for each in report["batches"]] == [1, 2]
    text = "\n".join(benchmark.lines(report, "float32"))
    assert "the same in float32" in text
    assert "first codes after" in text


def test_the_floor_counts_what_is_read(benchmark: ModuleType) -> None:
    bench = benchmark.Bench(benchmark.SIZES["tiny"], torch.device("cpu"), "sdpa", CompileConfig())
    hidden, inner, layers = 64, 128, 2
    # 4 heads of 16 channels, 2 of keys and values.
    attention = 2 * hidden * hidden + 2 * hidden * 32 + hidden + 2 * 32
    weights = layers * (attention + 3 * hidden * inner + 2 * hidden) + hidden
    keys = 2 * layers * 32 * 100
    slow_memory = {"bandwidth": 1.0, "matmul": 1e30}
    assert bench.floor("text", 100, slow_memory) == 4 * (weights + 151684 * hidden + keys)
    assert bench.floor("span", 100, slow_memory) == 4 * (weights + (168072 - 151684) * hidden + keys)
    slow_processor = {"bandwidth": 1e30, "matmul": 1.0}
    assert bench.floor("span", 100, slow_processor) == 2 * 32 * (weights + (168072 - 151684) * hidden)


def test_without_a_gpu_the_command_says_so(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit) as caught:
        benchmark.main([])
    assert caught.value.code == 2
    assert "--size tiny --device cpu" in capsys.readouterr().err
