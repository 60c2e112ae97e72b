"""Speed of `generate` with weights in 8 bits on a CPU, next to float32, in one run.

    python benchmarks/int8.py
    python benchmarks/int8.py --page docs/decoding.md

Two ways: the one of `--bits 8`, and, where torchao is installed, its dynamic quantisation without compilation.
Processor time, so that other load on the machine changes little; the best of several runs, taken in turn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from common import Duration, best, fill, machine, now
from generation import RANDOM, ours
from scenarios import Scenario, embedded_scenario, random_scenario

from ttt_hf.loading.int8_weights import quantize


BEGIN, END = "<!-- int8:begin -->", "<!-- int8:end -->"
CPU = torch.device("cpu")
SCENARIOS: dict[str, Callable[[], Scenario]] = {
    "embedded model, a spoken answer and a transcript": lambda: embedded_scenario("cpu", torch.float32),
    "random model, 2 steps a span": lambda: random_scenario("", "cpu", torch.float32, **RANDOM["random_161"]),
    "random model, 16 steps a span": lambda: random_scenario("", "cpu", torch.float32, **RANDOM["random_16"]),
}


def quantize_by_torchao(model: torch.nn.Module) -> None:
    """Quantises all linear layers but the output layer, as `TorchAoConfig` does."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    def is_layer(module: torch.nn.Module, name: str) -> bool:
        return isinstance(module, torch.nn.Linear) and name != "lm_head"

    quantize_(model, Int8DynamicActivationInt8WeightConfig(), filter_fn=is_layer)


WAYS: dict[str, Callable[[Any], None]] = {
    "float32": lambda model: None,
    "8 bits": quantize,
    **({"8 bits by torchao": quantize_by_torchao} if find_spec("torchao") else {}),
}


def measure(make: Callable[[], Scenario], repeat: int) -> dict[str, dict[str, float]]:
    """Milliseconds of processor time of all replies of a scenario, and the number of tokens and forwards, by way."""
    scenarios = {way: make() for way in WAYS}
    for way, change in WAYS.items():
        change(scenarios[way].model)
    times: dict[str, list[Duration]] = {way: [] for way in WAYS}
    counts: dict[str, dict[str, float]] = {}
    for _ in range(repeat):
        for way, scenario in scenarios.items():
            start = now(CPU)
            replies = [ours(scenario, [prompt]) for prompt in scenario.prompts]
            times[way].append(now(CPU) - start)
            counts[way] = {
                "tokens": sum(len(new) for news, _ in replies for new in news),
                "forwards": sum(sum(forwards) for _, forwards in replies),
            }
    return {way: {"ms": 1000 * best(times[way]).process, **counts[way]} for way in WAYS}


def table(report: dict[str, dict[str, dict[str, float]]]) -> str:
    """The measurements in Markdown, the factors against float32 in brackets."""
    lines = ["| |" + "".join(f" {way} |" for way in next(iter(report.values()))), "|---|" + "---|" * len(WAYS)]
    for name, ways in report.items():
        plain = ways["float32"]["ms"]
        cells = (f" {each['ms']:,.0f} ms ({plain / each['ms']:.2f}x) |" for each in ways.values())
        lines.append(f"| {name} |" + "".join(cells))
    about = machine("cpu")
    lines.append(f"\n`python benchmarks/int8.py`: one thread of {about['device']}, torch {about['torch']}.")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5, help="runs, the best of which counts (default: 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--page", type=Path, help="page whose table is updated")
    args = parser.parse_args()
    torch.set_num_threads(1)
    report = {name: measure(make, args.repeat) for name, make in SCENARIOS.items()}
    print(json.dumps(report, indent=2) if args.json else table(report))
    if args.page:
        fill(args.page, table(report), (BEGIN, END))


if __name__ == "__main__":
    main()
