"""The measure of the GLM-4-Voice codec: it runs, and feeds the stream as the original's demonstration does."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))  # as where a script is run
    import glm4voice

    yield glm4voice
    sys.path.remove(str(ROOT / "benchmarks"))


def test_blocks_grow(benchmark: ModuleType) -> None:
    blocks = benchmark.split_as_spoken(torch.arange(600))
    assert [len(block) for block in blocks] == [25, 50, 100, 150, 200, 75]
    assert torch.equal(torch.cat(blocks), torch.arange(600))


def test_small_size_is_measured(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(["--size", "small", "--seconds", "0.8", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert min(result[name] for name in ("encode_rtf", "decode_rtf", "stream_rtf", "first_audio_seconds")) > 0
    assert result["parameters"] < 2_000_000
