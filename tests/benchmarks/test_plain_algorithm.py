"""The plain algorithm of the speed benchmark is exact: it generates the ids of the official code."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from ttt_hf.modeling import TtTForConditionalGeneration


ROOT = Path(__file__).resolve().parents[2]
CASES = json.loads((ROOT / "tests/golden/official-ttt/generation.json").read_text(encoding="utf-8"))["cases"]
IM_END = 500


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))  # as where a script is run
    import generation

    yield generation
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.mark.parametrize(
    "case", [case for case in CASES if case["args"]["cfg_scale"] == 0], ids=lambda case: case["name"]
)
def test_plain_algorithm_writes_the_official_ids(
    benchmark: ModuleType, golden_models: dict[str, TtTForConditionalGeneration], case: dict[str, Any]
) -> None:
    arguments = case["args"]
    import plain

    settings = plain.Settings(
        block_length=arguments["block_length"],
        steps_per_block=case["steps_per_block"],
        max_span_length=arguments["diffusion_gen_length"],
        max_new_tokens=arguments["max_gen_len"],
        min_text_tokens_after_audio=arguments["min_text_tokens_after_audio"],
    )
    algorithm = plain.Plain(golden_models[case["weights"]], settings, IM_END)
    assert case["prompt"] + algorithm.generate(case["prompt"]) == case["output"]
    assert algorithm.num_forward_passes == case["forwards"]["total"]


def test_scenarios_have_the_same_ids_and_logits(benchmark: ModuleType) -> None:
    """A small reply of the random model, by both implementations, alone and in a batch."""
    scenario = benchmark.random_scenario(
        "small", "cpu", torch.float32, context=20, turns=1, steps=3, decoding_only=False
    )
    report = benchmark.measure(scenario, 1, [3], {"bandwidth": 1e9, "matmul": 1e9})
    assert report["same_ids"] and report["same_ids_in_batch"]
    assert report["new_tokens"] == 13 + 1 + 26 + 1
    assert report["forward_passes"]["ours"] == report["forward_passes"]["plain"] == 14 + 3 + 1
    # The ids say something only as long as other logits would have given others.
    assert report["logit_difference"] < 1e-3
    assert report["logit_difference"] < report["smallest_margin"] < 1
    assert set(report["forwards"]) == {"text", "span"}


def test_table_goes_between_the_marks(benchmark: ModuleType, tmp_path: Path) -> None:
    readme, marks = tmp_path / "README.md", (benchmark.BEGIN, benchmark.END)
    readme.write_text("before\n<!-- speed:begin -->\nold\n<!-- speed:end -->\nafter\n", encoding="utf-8")
    benchmark.fill(readme, "new", marks)
    assert readme.read_text(encoding="utf-8") == ("before\n<!-- speed:begin -->\nnew\n<!-- speed:end -->\nafter\n")
    readme.write_text("no marks", encoding="utf-8")
    with pytest.raises(ValueError, match="lacks the line"):
        benchmark.fill(readme, "new", marks)
