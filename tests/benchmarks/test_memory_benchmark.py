"""The table of memory is what the script counts, and the script counts what models hold."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ttt_hf import TtTConfig, TtTForConditionalGeneration, TtTProcessor
from ttt_hf.processing import train_tokenizer


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))  # as where a script is run
    import memory

    yield memory
    sys.path.remove(str(ROOT / "benchmarks"))


def test_the_page_has_what_is_counted(benchmark: ModuleType) -> None:
    report = {name: benchmark.measure(name, 2048) for name in benchmark.SIZES}
    page = (ROOT / "docs" / "official.md").read_text(encoding="utf-8")
    table = page.split(benchmark.BEGIN)[1].split(benchmark.END)[0]
    assert table.strip() == benchmark.table(report, 2048, "python benchmarks/memory.py")


def test_counts_follow_from_the_shapes(benchmark: ModuleType) -> None:
    counts = benchmark.measure("3B", 1000)
    hidden, inner, layers = 2048, 11008, 36
    matrices = layers * (2 * hidden * hidden + 2 * hidden * 256 + 3 * hidden * inner)
    rest = 168072 * hidden + layers * (hidden + 2 * 256 + 2 * hidden) + hidden
    assert counts["parameters"] == matrices + rest
    assert counts["8 bits"] == matrices + 2 * rest
    assert counts["4 bits"] == pytest.approx(0.5625 * matrices + 2 * rest)
    # Keys and values of 2 heads of 128 channels in 36 layers, 2 bytes each.
    assert counts["cache"] == 1000 * 36 * 2 * 2 * 128 * 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_loading_makes_no_second_copy(benchmark: ModuleType, tmp_path: Path, dtype: str) -> None:
    text_config = {**benchmark.qwen2("1.5B"), "hidden_size": 128, "num_hidden_layers": 1}
    processor = TtTProcessor(train_tokenizer(["Hello there."], 270, 75))
    processor.save_pretrained(tmp_path)
    config = TtTConfig(text_config=text_config, **processor.token_ids.config_fields())
    with torch.random.fork_rng(devices=[]):
        TtTForConditionalGeneration(config).to(torch.bfloat16).save_pretrained(tmp_path, max_shard_size="20MB")
    benchmark.measure_loading(str(tmp_path), dtype)  # what is imported and allocated once
    loading = benchmark.measure_loading(str(tmp_path), dtype)
    assert loading["weights"] > 40e6
    assert loading["peak"] < 1.3 * loading["weights"]
