"""The plain implementations of the training benchmark are exact, and the benchmark runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ttt_hf import TtTForConditionalGeneration, TtTProcessor, embedded_checkpoint


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))  # as where a script is run
    import training

    yield training
    sys.path.remove(str(ROOT / "benchmarks"))


def test_both_ways_compute_the_same_loss_and_gradients(benchmark: ModuleType) -> None:
    model, batch = benchmark.memory_case(vocabulary=16500, rows=2, length=64)
    padded = benchmark.padded(batch, 80, pad_token_id=0)
    assert padded["input_ids"].shape == (2, 80)
    losses = [benchmark.plain_loss(model, padded), benchmark.our_loss(model, batch)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    weights = dict(model.named_parameters())
    plain, ours = (torch.autograd.grad(loss, list(weights.values())) for loss in losses)
    for name, expected, found in zip(weights, plain, ours):
        assert torch.allclose(expected, found, atol=1e-4 * float(expected.abs().max())), name


def test_samples_are_as_long_as_the_embedded_domains(benchmark: ModuleType) -> None:
    processor = TtTProcessor.from_pretrained(embedded_checkpoint())
    config = TtTForConditionalGeneration.config_class.from_pretrained(embedded_checkpoint())
    samples = benchmark.domain_samples(200, benchmark.SHARES, processor, config)
    # The recipe's own samples are 66 to 70 tokens long on average.
    assert 60 < sum(sample["length"] for sample in samples) / len(samples) < 85
    assert samples == benchmark.domain_samples(200, benchmark.SHARES, processor, config)
    batches = benchmark.batches_by_length(samples, 8, config)
    assert sorted(map(id, samples)) == sorted(id(sample) for batch in batches for sample in batch)


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- training:begin -->\n<!-- training:end -->\n", encoding="utf-8")
    options = "--rows 4 --padded-rows 2 --padded-length 192 --batch-size 2 --repeat 1 --threads 1"
    options += " --vocabulary 60000 --memory-rows 2 --memory-length 128"
    command = [sys.executable, ROOT / "benchmarks" / "training.py", *options.split(), "--readme", readme]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    table = readme.read_text(encoding="utf-8")
    assert table.count(" x** |") == 5
    assert result.stdout.strip() in table
