"""The plain algorithm of the speed benchmark is exact: it generates the ids of the official code."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ttt_hf.modeling import TtTForConditionalGeneration


ROOT = Path(__file__).resolve().parents[2]
CASES = json.loads((ROOT / "tests/golden/official-ttt/generation.json").read_text(encoding="utf-8"))["cases"]
IM_END = 500


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_generation", ROOT / "benchmarks" / "generation.py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "case", [case for case in CASES if case["args"]["cfg_scale"] == 0], ids=lambda case: case["name"]
)
def test_plain_algorithm_writes_the_official_ids(
    benchmark: ModuleType, golden_models: dict[str, TtTForConditionalGeneration], case: dict[str, Any]
) -> None:
    arguments = case["args"]
    settings = benchmark.Settings(
        block_length=arguments["block_length"],
        steps_per_block=case["steps_per_block"],
        max_span_length=arguments["diffusion_gen_length"],
        max_new_tokens=arguments["max_gen_len"],
        min_text_tokens_after_audio=arguments["min_text_tokens_after_audio"],
    )
    plain = benchmark.Plain(golden_models[case["weights"]], settings, IM_END)
    assert case["prompt"] + plain.generate(case["prompt"]) == case["output"]
    assert plain.num_forward_passes == case["forwards"]["total"]


def test_both_implementations_recite_the_script(
    benchmark: ModuleType, tiny_model: Callable[..., TtTForConditionalGeneration]
) -> None:
    model = tiny_model(text={"hidden_size": 64})
    model.generation_config.eos_token_id = 0
    prompt, script = [5, 6, 7], [8, 9, 36, 41, 42, 43, 58, 10, 37, 44, 45, 46, 47, 48, 59, 11, 0]
    benchmark.recite(model, prompt + script)
    settings = benchmark.Settings(4, 2, 40, 30, 0)
    report = benchmark.measure(benchmark.Scenario("script", model, [prompt], settings), 1, 3, bandwidth=1e9)
    assert benchmark.Plain(model, settings, 0).generate(prompt) == script
    assert report["same_ids"]
    assert report["same_ids_in_batch"]
    assert report["new_tokens"] == len(script)
    assert report["forward_passes"]["ours"] == report["forward_passes"]["plain"]


def test_table_goes_between_the_marks(benchmark: ModuleType, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- speed:begin -->\nold\n<!-- speed:end -->\nafter\n", encoding="utf-8")
    benchmark.fill(readme, "new")
    assert readme.read_text(encoding="utf-8") == ("before\n<!-- speed:begin -->\nnew\n<!-- speed:end -->\nafter\n")
    readme.write_text("no marks", encoding="utf-8")
    with pytest.raises(ValueError, match="lacks the line"):
        benchmark.fill(readme, "new")
