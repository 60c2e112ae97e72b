"""Speed of `generate` next to a plain implementation of the official algorithm, on the same weights, in one run.

    python benchmarks/generation.py                                # all scenarios
    python benchmarks/generation.py --threads 1 --json speed.json
    python benchmarks/generation.py --scenarios embedded random_161 --repeat 5
    python benchmarks/generation.py --device cuda --dtype bfloat16 --readme README.md

Scenarios: `random_161` is a reply of 161 tokens by a random model, prefill included, `random_10` and `random_16` are
the same with 10 and 16 denoising steps a span; `decode_150` to `decode_2000` are replies after so many tokens of
context, decoding only; `embedded` is the embedded checkpoint, which answers a question. The random model chooses its
words and codes with the margins that random weights have, so that equal ids mean something; logits are compared, too.

On a CPU, ratios are of processor time, which other load on the machine changes little. The floor of a forward is the
time it takes to read the weights once, or to do its operations at the speed of large matrix products, whichever is
longer; PyTorch's products of one or a few positions are slower, so that they are measured alone, too. In the same
run, transformers generates with the bare backbone, token by token, and with a random DiffusionGemma of the same size,
step by step.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import torch
import transformers
from common import (
    Duration,
    add_common_options,
    best,
    clock,
    fill,
    least_seconds,
    machine,
    matmul_speed,
    memory_bandwidth,
    now,
)
from peers import peers
from plain import Plain
from scenarios import Scenario, embedded_scenario, random_scenario
from torch import nn

from ttt_hf import TtTForConditionalGeneration
from ttt_hf.modeling import TtTStreamer


BEGIN, END = "<!-- speed:begin -->", "<!-- speed:end -->"
RANDOM: dict[str, dict[str, Any]] = {
    "random_161": {"context": 150, "turns": 4, "steps": 2, "decoding_only": False},
    "random_10": {"context": 150, "turns": 4, "steps": 10, "decoding_only": False},
    "random_16": {"context": 150, "turns": 4, "steps": 16, "decoding_only": False},
    **{
        f"decode_{context}": {"context": context, "turns": 2, "steps": 2, "decoding_only": True}
        for context in (150, 500, 1000, 2000)
    },
}
SCENARIOS = ("embedded", *RANDOM)


class FirstTokenClock(TtTStreamer):
    """Notes when the first token and the first finished block come."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.has_prompt = False
        self.first_token: Duration | None = None
        self.first_block: tuple[Duration, list[int]] | None = None

    def put(self, value: torch.Tensor) -> None:
        if self.has_prompt and self.first_token is None:
            self.first_token = now(self.device)
        self.has_prompt = True

    def put_block(self, token_ids: list[int]) -> None:
        if self.first_block is None:
            self.first_block = (now(self.device), token_ids)


def ours(
    scenario: Scenario, prompts: list[list[int]], streamer: TtTStreamer | None = None
) -> tuple[list[list[int]], list[int]]:
    """Answers prompts with `generate` by the official algorithm, in one batch; returns new ids and forwards."""
    settings, model = scenario.settings, scenario.model
    eos_token_id = end_of_reply(model)
    # Padding is on the left, so that all replies begin at the same column.
    width = max(map(len, prompts))
    out = model.generate(
        input_ids=torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device),
        attention_mask=torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device),
        max_new_tokens=settings.max_new_tokens,
        do_sample=False,
        repetition_penalty=1.0,
        eos_token_id=eos_token_id,
        pad_token_id=0,
        audio_vocabulary="official",
        audio_block_length=settings.block_length,
        audio_steps_per_block=settings.steps_per_block,
        audio_max_span_length=settings.max_span_length,
        audio_temperature=0.0,
        audio_cfg_scale=0.0,
        audio_remasking="low_confidence",
        min_text_tokens_after_audio=settings.min_text_tokens_after_audio,
        return_dict_in_generate=True,
        streamer=streamer,
    )
    news = [row[len(prompt) :].tolist() for row, prompt in zip(out.sequences, prompts)]
    # Everything after a row's end of sequence is padding.
    news = [new[: new.index(eos_token_id) + 1] if eos_token_id in new else new for new in news]
    return news, out.num_forward_passes.tolist()


def end_of_reply(model: TtTForConditionalGeneration) -> int:
    """The id that ends a reply."""
    eos = model.generation_config.eos_token_id
    return eos[0] if isinstance(eos, list) else eos


def measure(scenario: Scenario, repeat: int, batch_sizes: list[int], speeds: dict[str, float]) -> dict[str, Any]:
    """Runs a scenario with both implementations, alternately, and reports the best times.

    Args:
        batch_sizes: Rows of the batches that are measured as well.
        speeds: The machine's `bandwidth` and `matmul` speed, in bytes and operations per second.
    """
    model, device = scenario.model, scenario.model.device
    expected, alone, plain_forwards = [], [], 0
    times: dict[str, list[Duration]] = defaultdict(list)
    together: dict[int, list[list[int]]] = {}
    own, plain = StateRecorder(scenario), StateRecorder(scenario)
    with own:
        ours(scenario, scenario.prompts[:1])  # warms up
    # In turn, so that other load on the machine affects both. A long context takes the plain way minutes.
    for index in range(repeat):
        if index == 0 or not scenario.decoding_only:
            # Keeping the states takes next to no time; only those of the first run are used.
            with plain:
                duration, answers = run(scenario, partial(plain_run, scenario))
            times["plain"].append(duration)
            expected, counts = map(list, zip(*answers))
            plain_forwards = sum(counts)
        duration, alone = run(scenario, lambda prompt, clock: ours(scenario, [prompt], clock))
        times["ours"].append(duration)
        for size in batch_sizes:
            batch = [scenario.prompts[index % len(scenario.prompts)] for index in range(size)]
            start = now(device)
            together[size], _ = ours(scenario, batch)
            times[f"batch_{size}"].append(now(device) - start)

    news = [new for (new,), _ in alone]
    tokens = sum(map(len, news))
    seconds = {name: best(durations) for name, durations in times.items()}
    rates = {name: tokens / clock(duration, device) for name, duration in seconds.items() if name in ("plain", "ours")}
    rates |= {
        f"batch_{size}": sum(map(len, rows)) / clock(seconds[f"batch_{size}"], device)
        for size, rows in together.items()
    }
    return {
        "name": scenario.name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "settings": asdict(scenario.settings),
        "decoding_only": scenario.decoding_only,
        "prompt_tokens": list(map(len, scenario.prompts)),
        "new_tokens": tokens,
        "same_ids": news == expected and scenario.length in (None, tokens),
        "same_ids_in_batch": all(
            row == news[index % len(news)] for rows in together.values() for index, row in enumerate(rows)
        ),
        "forward_passes": {"plain": plain_forwards, "ours": sum(count for _, (count,) in alone)},
        "seconds": {name: asdict(duration) for name, duration in seconds.items()},
        "tokens_per_second": rates,
        "times_plain": rates["ours"] / rates["plain"],
        **compare_states(model, own.states, plain.states),
        "forwards": forward_times(scenario, speeds),
    }


def run(scenario: Scenario, answer: Callable[[list[int], FirstTokenClock], Any]) -> tuple[Duration, list[Any]]:
    """Answers the prompts one by one; returns the time (from the first token with `decoding_only`) and the answers."""
    device = scenario.model.device
    total, answers = Duration(0.0, 0.0), []
    for prompt in scenario.prompts:
        streamer = FirstTokenClock(device)
        start = now(device)
        answers.append(answer(prompt, streamer))
        end = now(device)
        if scenario.decoding_only and streamer.first_token is not None:
            start = streamer.first_token
        total = Duration(total.wall + (end - start).wall, total.process + (end - start).process)
    return total, answers


def plain_run(scenario: Scenario, prompt: list[int], streamer: FirstTokenClock) -> tuple[list[int], int]:
    """Answers a prompt the plain way; returns new ids and forwards."""
    # The clock hears of the first token as from `generate`.
    streamer.has_prompt = True
    plain = Plain(
        scenario.model,
        scenario.settings,
        end_of_reply(scenario.model),
        on_token=lambda: streamer.put(torch.empty(0)),
    )
    return plain.generate(prompt), plain.num_forward_passes


# Embeddings and hidden states of the positions that tokens are chosen from, at a forward.
States = tuple[torch.Tensor, torch.Tensor]


def compare_states(model: TtTForConditionalGeneration, own: list[States], plain: list[States]) -> dict[str, float]:
    """Compares the logits of both implementations, forward by forward, where tokens are chosen.

    Args:
        own: States of the forwards of `generate` for the first prompt.
        plain: Those of the plain way, which may go on with other prompts.

    Returns:
        `logit_difference`, the largest one, and `smallest_margin`, that between the two most likely tokens of a
        position: equal ids show that the logits are equal if the margin is small.
    """
    difference, margin = 0.0, float("inf")
    with torch.inference_mode():
        for (my_inputs, mine), (their_inputs, theirs) in zip(own, plain):
            # Positions that the model is equally sure of may be committed in another order.
            if not torch.equal(my_inputs, their_inputs):
                continue
            logits = model.lm_head(theirs).float()
            difference = max(difference, float((model.lm_head(mine).float() - logits).abs().max()))
            first, second = logits.topk(2, dim=-1).values.unbind(-1)
            margin = min(margin, float((first - second).min()))
    return {"logit_difference": difference, "smallest_margin": margin}


class StateRecorder:
    """Keeps the hidden states that tokens are chosen from: of the last position in text, of the block in a span."""

    def __init__(self, scenario: Scenario) -> None:
        self.model, self.block_length = scenario.model, scenario.settings.block_length
        self.states: list[States] = []

    def __enter__(self) -> StateRecorder:
        self.handle = self.model.model.register_forward_hook(self._keep, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.remove()

    def _keep(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        mask_embedding = self.model.get_input_embeddings().weight[self.model.config.mask_token_id]
        is_span = bool((kwargs["inputs_embeds"][0, -self.block_length :] == mask_embedding).all(dim=-1).any())
        kept = slice(-self.block_length if is_span else -1, None)
        self.states.append((kwargs["inputs_embeds"][0, kept].clone(), output.last_hidden_state[0, kept].clone()))


def forward_times(scenario: Scenario, speeds: dict[str, float]) -> dict[str, Any]:
    """Time from one forward of `generate` to the next, by the number of its positions, next to its floor.

    Returns:
        Per kind, `text` (one position) and `span` (one block): their `count`, median `milliseconds`,
        `floor_milliseconds` and `times_floor`, and the time that the layers' matrix products take alone,
        `product_milliseconds` and `times_products`.
    """
    model, device = scenario.model, scenario.model.device
    starts: list[tuple[int, float]] = []

    def note(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        starts.append((kwargs["inputs_embeds"].shape[1], clock(now(device), device)))

    handle = model.model.register_forward_pre_hook(note, with_kwargs=True)
    ours(scenario, scenario.prompts[:1])
    handle.remove()
    found = defaultdict(list)
    for (positions, start), (_, end) in pairwise(starts):
        found[positions].append(end - start)
    report = {}
    for kind, positions in (("text", 1), ("span", scenario.settings.block_length)):
        if positions in found:
            seconds, lowest = median(found[positions]), floor(model, positions, speeds)
            products = product_seconds(model, positions)
            report[kind] = {
                "count": len(found[positions]),
                "milliseconds": 1e3 * seconds,
                "floor_milliseconds": 1e3 * lowest,
                "times_floor": seconds / lowest,
                "product_milliseconds": 1e3 * products,
                "times_products": seconds / products,
            }
    return report


def floor(model: TtTForConditionalGeneration, positions: int, speeds: dict[str, float]) -> float:
    """Seconds that a forward takes at least: reading the weights once, or its operations, whichever is longer."""
    # Of the table of input embeddings a forward reads only a few rows. A tied output layer is the same table, but is
    # read in full.
    embeddings = {id(model.get_input_embeddings().weight)}
    weights = [weight for weight in model.model.parameters() if id(weight) not in embeddings]
    weights.append(model.lm_head.weight)
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    operations = 2 * positions * sum(weight.numel() for weight in weights)
    return max(size / speeds["bandwidth"], operations / speeds["matmul"])


@torch.inference_mode()
def product_seconds(model: TtTForConditionalGeneration, positions: int) -> float:
    """Seconds that PyTorch takes for the matrix products of a forward alone: every layer's, and the output layer's of
    the columns that `generate` computes, text at one position and else audio."""
    device, first = model.device, model.config.audio_token_start_id
    weights = [module.weight for module in model.model.modules() if isinstance(module, nn.Linear)]
    weights.append(model.lm_head.weight[:first] if positions == 1 else model.lm_head.weight[first:])
    sizes = {weight.shape[1] for weight in weights}
    inputs = {size: torch.randn(positions, size, device=device, dtype=model.dtype) for size in sizes}
    return least_seconds(lambda: [nn.functional.linear(inputs[w.shape[1]], w) for w in weights], device, 10)


def measure_shipped(scenario: Scenario, report: dict[str, Any], repeat: int) -> dict[str, Any]:
    """The embedded model as it is shipped, with a spoken reply, next to the plain way with as many steps a block.

    The ids differ: the shipped settings sample, and commit what the model is sure of early.
    """
    model, device, prompt = scenario.model, scenario.model.device, scenario.prompts[0]
    spoken = Scenario(scenario.name, model, [prompt], scenario.settings)
    times: dict[str, list[Duration]] = defaultdict(list)
    for _ in range(repeat):
        taken, ((expected, plain_forwards),) = run(spoken, partial(plain_run, spoken))
        times["plain"].append(taken)
        streamer, start = FirstTokenClock(device), now(device)
        out = model.generate(
            input_ids=torch.tensor([prompt], device=device),
            max_new_tokens=scenario.settings.max_new_tokens,
            seed=0,
            return_dict_in_generate=True,
            streamer=streamer,
        )
        times["ours"].append(now(device) - start)
        # Speech starts when the first block is decoded to a waveform.
        moment, block = streamer.first_block or (now(device), [])
        offset = model.config.audio_code_offset
        codes = [token - offset for token in block if 0 <= token - offset < model.config.audio_vocab_size]
        before = now(device)
        scenario.processor.codec.decode(torch.tensor([codes], device=device))
        decoding = now(device) - before
        first = moment - start
        times["first_audio"].append(Duration(first.wall + decoding.wall, first.process + decoding.process))
    seconds = {name: best(durations) for name, durations in times.items()}
    tokens = out.sequences.shape[1] - len(prompt)
    rates = {"plain": len(expected) / clock(seconds["plain"], device), "ours": tokens / clock(seconds["ours"], device)}
    return {
        **report,
        "shipped": {
            "new_tokens": {"plain": len(expected), "ours": tokens},
            "forward_passes": {"plain": plain_forwards, "ours": int(out.num_forward_passes[0])},
            "seconds": {name: asdict(duration) for name, duration in seconds.items()},
            "tokens_per_second": rates,
            "times_plain": rates["ours"] / rates["plain"],
        },
    }


def table(report: dict[str, Any]) -> str:
    """The report as Markdown tables."""
    rows = []
    for scenario in report["scenarios"]:
        rates = scenario["tokens_per_second"]
        same = "yes" if scenario["same_ids"] and scenario["same_ids_in_batch"] else "NO"
        kind = "decoding only" if scenario["decoding_only"] else "prefill included"
        name, forwards = f"`{scenario['name']}`, {kind}", scenario["forward_passes"]["ours"]
        figures = f"{rates['plain']:.1f} | {rates['ours']:.1f} | **{scenario['times_plain']:.1f} x**"
        rows.append(f"| {name} | {scenario['new_tokens']}, {forwards} | {figures} | {same} |")
        if "shipped" in scenario:
            shipped = scenario["shipped"]
            rates, forwards = shipped["tokens_per_second"], shipped["forward_passes"]["ours"]
            figures = f"{rates['plain']:.1f} | {rates['ours']:.1f} | **{shipped['times_plain']:.1f} x**"
            rows.append(
                f"| `{scenario['name']}`, spoken reply as shipped | {shipped['new_tokens']['ours']}, {forwards} | "
                f"{figures} | sampled |"
            )
    lines = [
        "| scenario | new tokens, forwards | plain, tokens/s | `generate`, tokens/s | | same ids |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        *batch_and_forward_lines(report),
    ]
    lines += [f"- {name}: {text}" for name, text in report["peers"]["lines"].items()]
    machine = report["machine"]
    lines += [
        "",
        f"{machine['device']}, {machine['threads']} threads, reads {machine['gigabytes_per_second']:.1f} GB/s, "
        f"multiplies at {machine['gigaflops_per_second']:.0f} GFLOP/s; torch {machine['torch']}, transformers "
        f"{machine['transformers']}. Command: `{report['command']}`.",
    ]
    return "\n".join(lines)


def batch_and_forward_lines(report: dict[str, Any]) -> list[str]:
    """Lines on batches, on forwards next to their floor, and on the first audio."""
    lines = []
    for scenario in report["scenarios"]:
        rates = scenario["tokens_per_second"]
        batches = [
            f"{rates[name] / rates['ours']:.1f} x with {name.removeprefix('batch_')} rows"
            for name in rates
            if name.startswith("batch_")
        ]
        forwards = [
            f"{kind} {each['milliseconds']:.1f} ms ({each['times_floor']:.1f} times its floor, "
            f"{each['times_products']:.1f} times its matrix products alone)"
            for kind, each in scenario["forwards"].items()
        ]
        text = [f"a forward in {', in '.join(forwards)}"] if forwards else []
        text += [f"batches: {', '.join(batches)}"] if batches else []
        if "shipped" in scenario:
            text.append(
                f"first audio after {scenario['shipped']['seconds']['first_audio']['process']:.2f} s of process time"
            )
        if scenario["name"] in ("embedded", "random_161"):
            lines.append(f"- `{scenario['name']}`: {'; '.join(text)}.")
    return lines


def make_scenario(name: str, device: str, dtype: torch.dtype) -> Scenario:
    """The scenario of a name."""
    if name == "embedded":
        return embedded_scenario(device, dtype)
    return random_scenario(name, device, dtype, **RANDOM[name])


def ratios(scenarios: list[dict[str, Any]]) -> dict[str, float]:
    """How many times faster than the plain way; `embedded` as it is shipped."""
    return {each["name"]: each.get("shipped", each)["times_plain"] for each in scenarios}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--repeat", type=int, default=3, help="runs; the best time of each counts (default: 3)")
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[8, 32], help="for embedded and random_161")
    add_common_options(parser)
    args = parser.parse_args()

    if args.threads:
        torch.set_num_threads(args.threads)
    transformers.utils.logging.set_verbosity_error()
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    speeds = {"bandwidth": memory_bandwidth(device), "matmul": matmul_speed(device, dtype)}
    found = []
    for name in args.scenarios:
        scenario = make_scenario(name, args.device, dtype)
        sizes = args.batch_sizes if name in ("embedded", "random_161") else []
        report = measure(scenario, args.repeat, sizes, speeds)
        found.append(measure_shipped(scenario, report, args.repeat) if name == "embedded" else report)
    options = [f"--scenarios {' '.join(args.scenarios)}"] if len(args.scenarios) < len(SCENARIOS) else []
    options += [f"--threads {args.threads}"] if args.threads else []
    options += [f"--device {args.device}"] if args.device != "cpu" else []
    options += [f"--dtype {args.dtype}"] if args.dtype != "float32" else []
    same = all(each["same_ids"] and each["same_ids_in_batch"] for each in found)
    report = {
        "command": " ".join(["python benchmarks/generation.py", *options]),
        "machine": {
            **machine(args.device),
            "gigabytes_per_second": speeds["bandwidth"] / 1e9,
            "gigaflops_per_second": speeds["matmul"] / 1e9,
        },
        "ratios": ratios(found),
        "same_ids": same,
        "scenarios": found,
        "peers": peers(device, dtype),
    }
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(table(report))
    if args.readme:
        fill(args.readme, table(report), (BEGIN, END))
    # After the report, which shows what differs.
    if not same:
        raise SystemExit("The implementations wrote different ids.")


if __name__ == "__main__":
    main()
