"""Speed of compiled decoding on a GPU, next to the time that reading the weights takes, and to transformers' own.

    python benchmarks/gpu.py                                   # random models of 3B and 1.5B, bfloat16
    python benchmarks/gpu.py --size 3B --attention flex_attention --json gpu.json
    python benchmarks/gpu.py --size tiny --device cpu          # tries all of it at a small size, in a minute or two

A reply has turns of 13 words and 26 codes, as TtT writes them; where spans begin and end is laid out, words and codes
are the random model's own. Denoising takes the paper's 10 steps a block, or the 3 that an entropy bound leaves of
them, which is set for a model that is sure of nothing. There is neither guidance, nor a codec: first audio is the
first block of codes.

First the ids of compiled decoding are compared with those of eager decoding, in float32: if they differ, the exit code
is 1. In other data types, kernels of other shapes round differently, so that they agree up to the first near tie only.
The floor of a forward is the time that it takes to read what it needs of the weights and keys once, at the measured
bandwidth, or to multiply them at the measured speed, whichever is longer.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from common import machine, matmul_speed, memory_bandwidth, now, timed
from memory import qwen2
from scenarios import lay_out
from transformers import CompileConfig, Qwen2Config, Qwen2ForCausalLM

from ttt_hf import DecodingSession, TtTConfig, TtTForConditionalGeneration
from ttt_hf.modeling.compiled_ttt import static_capacity


BEGIN_AUDIO, END_OF_REPLY, END_AUDIO = 151673, 151645, 168070
WORDS, CODES, CODES_PER_SECOND, BLOCK = 13, 26, 12.5, 32
# A bound of 10 positions of which nothing is known commits 11 of a block of 32 at a step.
SCHEDULES: dict[str, dict[str, Any]] = {
    "paper": {"audio_steps_per_block": 10},
    "entropy_bound": {"audio_steps_per_block": 10, "audio_entropy_bound": 10 * math.log(16384)},
}
REPEAT = 3


@dataclass(frozen=True)
class Size:
    """What is measured.

    Attributes:
        backbone: Configuration of the backbone.
        context: Tokens of the prompt.
        turns: Turns of a reply.
        batch_sizes: Rows of the batches.
    """

    backbone: dict[str, Any]
    context: int
    turns: int
    batch_sizes: tuple[int, ...]


TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES = {
    "3B": Size(qwen2("3B"), 300, 4, (1, 8, 32)),
    "1.5B": Size(qwen2("1.5B"), 300, 4, (1, 8, 32)),
    "tiny": Size({**qwen2("1.5B"), **TINY}, 60, 2, (1, 2)),
}


class Bench:
    """A random model with a reply laid out, and its measures.

    Args:
        size: What is measured.
        device: Where.
        attention: Attention implementation.
        compile_config: For `torch.compile`.
    """

    def __init__(self, size: Size, device: torch.device, attention: str, compile_config: CompileConfig) -> None:
        torch.manual_seed(0)
        config = TtTConfig(
            text_config={**size.backbone, "attn_implementation": attention},
            begin_audio_token_ids=[BEGIN_AUDIO],
            end_audio_token_ids=[END_AUDIO, END_AUDIO + 1],
        )
        with device:
            self.model = TtTForConditionalGeneration(config).eval()
        self.size = size
        self.device = device
        self.prompt = torch.randint(0, 150_000, (1, size.context), device=device)
        turn: list[int | None] = [None] * WORDS + [BEGIN_AUDIO] + [None] * CODES + [END_AUDIO]
        self.layout = turn * size.turns
        self.length = len(self.layout)
        # That of `generate()`, for the same graphs.
        self.capacity = static_capacity(size.context + self.length)
        self._lay_out()
        self.static = {"cache_implementation": "static", "compile_config": compile_config}

    def _lay_out(self) -> None:
        # Texts and spans have columns of their own, so that only markers need a push.
        self._hook = lay_out(self.model, self.size.context, self.layout, modality_push=0.0)

    def to(self, dtype: torch.dtype) -> None:
        """Changes the data type of the model."""
        self._hook.remove()
        self.model.to(dtype)
        self._lay_out()

    def settings(self, schedule: str = "paper") -> dict[str, Any]:
        """Arguments of `generate()`."""
        return {
            "max_new_tokens": self.length,
            "do_sample": False,
            "eos_token_id": END_OF_REPLY,
            "pad_token_id": END_OF_REPLY,
            "audio_block_length": BLOCK,
            **SCHEDULES[schedule],
        }

    def generate(self, rows: int, schedule: str = "paper", **options: Any) -> list[list[int]]:
        """New ids of a batch of equal prompts."""
        prompts = self.prompt.expand(rows, -1)
        out = self.model.generate(
            prompts, attention_mask=torch.ones_like(prompts), **self.settings(schedule), **options
        )
        return out[:, self.size.context :].tolist()

    def same_ids(self, schedule: str = "paper") -> tuple[int, int]:
        """Number of leading ids that compiled and eager decoding agree on, and of all."""
        (eager,), (compiled,) = self.generate(1, schedule), self.generate(1, schedule, **self.static)
        equal = next((index for index, pair in enumerate(zip(eager, compiled)) if pair[0] != pair[1]), len(eager))
        return equal if len(eager) == len(compiled) else min(equal, len(compiled)), len(eager)

    def forwards(self, speeds: dict[str, float]) -> dict[str, Any]:
        """Time of a tick by kind: `text`, `span`, and `close`, which commits a span and chooses the text after it."""
        found: dict[str, list[float]] = defaultdict(list)
        lengths: dict[str, int] = {}
        for _ in range(2):  # the first one compiles
            found.clear()
            session = DecodingSession(self.model, slots=1, capacity=self.capacity, **self.static)
            row = session.row(session.admit(self.prompt, **self.settings()))
            session.tick()  # the prompt
            while session.is_active:
                is_closing = row.ids[-1] >= self.model.config.audio_token_start_id
                kind = "span" if row.canvas else "close" if is_closing else "text"
                seconds, _ = timed(session.tick, self.device)
                found[kind].append(seconds)
                lengths[kind] = len(row.ids)
            session.close()
        report = {}
        for kind, seconds in found.items():
            floor = self.floor(kind, lengths[kind], speeds)
            report[kind] = {
                "count": len(seconds),
                "milliseconds": 1e3 * median(seconds),
                "floor_milliseconds": 1e3 * floor,
                "times_floor": median(seconds) / floor,
            }
        return report

    def floor(self, kind: str, keys: int, speeds: dict[str, float]) -> float:
        """Seconds that a forward of one row takes at least."""
        model, config = self.model, self.model.config.get_text_config()
        embeddings = model.get_input_embeddings().weight
        layers = sum(weight.numel() for weight in model.model.parameters() if weight is not embeddings)
        # The head reads the columns of the modality.
        start = model.config.audio_token_start_id
        head = (config.vocab_size - start if kind == "span" else start) * config.hidden_size
        heads = config.num_key_value_heads * config.hidden_size // config.num_attention_heads
        read = layers + head + 2 * config.num_hidden_layers * heads * keys
        # Positions of the layers, and of the head.
        positions, chosen = {"text": (1, 1), "span": (BLOCK, BLOCK), "close": (CODES + 1, 1)}[kind]
        operations = 2 * (positions * layers + chosen * head)
        return max(read * embeddings.element_size() / speeds["bandwidth"], operations / speeds["matmul"])

    def reply(self, schedule: str) -> dict[str, float]:
        """Time to the first codes, and seconds of decoding for a second of speech."""
        firsts, totals = [], []
        for _ in range(1 + REPEAT):  # the first one compiles
            session = DecodingSession(self.model, slots=1, capacity=self.capacity, **self.static)
            start, first = now(self.device), None
            row = session.row(session.admit(self.prompt, **self.settings(schedule)))
            while session.is_active:
                session.tick()
                if first is None and any(event.kind == "block" for event in session.events()):
                    first = (now(self.device) - start).wall
            totals.append((now(self.device) - start).wall)
            firsts.append(first or totals[-1])
            session.close()
        speech = self.size.turns * CODES / CODES_PER_SECOND
        return {
            "forwards": row.num_forward_passes,
            "first_codes_milliseconds": 1e3 * min(firsts[1:]),
            "real_time_factor": min(totals[1:]) / speech,
        }

    def throughput(self, rows: int) -> dict[str, Any]:
        """New tokens a second of a batch, eager and compiled, prompts included; and how long compiling takes."""
        warm_up, _ = timed(lambda: self.generate(rows, **self.static), self.device)
        report: dict[str, Any] = {"rows": rows}
        for name, options in (("eager", {}), ("compiled", self.static)):
            runs = [timed(lambda options=options: self.generate(rows, **options), self.device) for _ in range(2)]
            tokens = sum(map(len, runs[0][1]))
            report[f"{name}_tokens_per_second"] = tokens / min(seconds for seconds, _ in runs)
        return {**report, "first_call_seconds": warm_up}


def yardstick(size: Size, device: torch.device, dtype: torch.dtype, compile_config: CompileConfig) -> dict[str, float]:
    """Milliseconds a token of transformers' `generate` with the bare backbone, compiled with a static cache."""
    torch.manual_seed(0)
    with device:
        model = Qwen2ForCausalLM(Qwen2Config(**size.backbone)).eval().to(dtype)
    prompt = torch.randint(0, 150_000, (1, size.context), device=device)

    def seconds(tokens: int, **options: Any) -> float:
        arguments = {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": None, **options}
        call = lambda: model.generate(prompt, attention_mask=torch.ones_like(prompt), **arguments)  # noqa: E731
        return min(timed(call, device)[0] for _ in range(REPEAT))

    count, report = 32, {}
    static = {"cache_implementation": "static", "compile_config": compile_config, "max_cache_len": 512}
    for name, options in (("dynamic_cache", {}), ("static_cache_compiled", static)):
        seconds(2, **options)
        report[name] = 1e3 * (seconds(1 + count, **options) - seconds(1, **options)) / count
    return report


def measure(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    attention: str,
    speeds: dict[str, float],
    compile_config: CompileConfig,
) -> dict[str, Any]:
    """All measures of a size."""
    size = SIZES[name]
    bench = Bench(size, device, attention, compile_config)
    equal, length = bench.same_ids()
    report: dict[str, Any] = {
        "name": name,
        "parameters": sum(weight.numel() for weight in bench.model.parameters()),
        "same_ids": equal == length,
        "new_tokens": length,
    }
    bench.to(dtype)
    report["equal_leading_ids"] = bench.same_ids()[0]
    report["forwards"] = bench.forwards(speeds)
    report["replies"] = {schedule: bench.reply(schedule) for schedule in SCHEDULES}
    report["batches"] = [bench.throughput(rows) for rows in size.batch_sizes]
    if device.type == "cuda":
        report["peak_bytes"] = torch.cuda.max_memory_allocated(device)
    del bench
    gc.collect()
    torch._dynamo.reset()
    report["transformers_milliseconds"] = yardstick(size, device, dtype, compile_config)
    torch._dynamo.reset()
    return report


def lines(report: dict[str, Any], dtype: str) -> list[str]:
    """The measures of a size as text."""
    same = "the same in float32" if report["same_ids"] else "DIFFERENT in float32"
    found = [
        f"{report['name']}, {report['parameters'] / 1e9:.2f} B parameters, {dtype}",
        f"  ids of compiled and eager decoding: {same}; the first {report['equal_leading_ids']} of "
        f"{report['new_tokens']} in {dtype}",
    ]
    for kind, each in report["forwards"].items():
        found.append(
            f"  a forward ({kind}): {each['milliseconds']:.2f} ms, {each['times_floor']:.2f} times its floor of "
            f"{each['floor_milliseconds']:.2f} ms"
        )
    for name, each in report["replies"].items():
        found.append(
            f"  a reply ({name.replace('_', ' ')}, {each['forwards']} forwards): first codes after "
            f"{each['first_codes_milliseconds']:.0f} ms, real-time factor {each['real_time_factor']:.4f}"
        )
    for each in report["batches"]:
        found.append(
            f"  {each['rows']} rows: {each['compiled_tokens_per_second']:.0f} tokens/s compiled, "
            f"{each['eager_tokens_per_second']:.0f} eager; first call {each['first_call_seconds']:.0f} s"
        )
    peers = report["transformers_milliseconds"]
    found.append(
        f"  transformers, the bare backbone: {peers['static_cache_compiled']:.2f} ms a token with a static cache and "
        f"torch.compile, {peers['dynamic_cache']:.2f} with a dynamic cache"
    )
    return found


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["3B", "1.5B"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--attention", choices=["sdpa", "flex_attention", "eager"], default="sdpa")
    parser.add_argument(
        "--dynamic", action="store_true", help="compile once for all widths and key lengths, in place of each"
    )
    parser.add_argument(
        "--skip-guards",
        action="store_true",
        help="do not test before each forward whether modules have changed since they were compiled",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the measurements to this file")
    args = parser.parse_args(arguments)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no GPU here: try the command with --size tiny --device cpu")

    transformers.utils.logging.set_verbosity_error()
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    speeds = {"bandwidth": memory_bandwidth(device), "matmul": matmul_speed(device, dtype)}
    options: dict[str, Any] = {"mode": "reduce-overhead"}
    if args.skip_guards:
        skip = torch.compiler.skip_guard_on_all_nn_modules_unsafe
        options = {"mode": None, "options": {"triton.cudagraphs": True, "guard_filter_fn": skip}}
    if device.type == "cpu":
        # A try, which says nothing of speed: graphs are traced, and run as they are.
        options = {"mode": None, "backend": "aot_eager"}
    compile_config = CompileConfig(fullgraph=True, dynamic=args.dynamic, **options)
    compile_config._compile_all_devices = device.type == "cpu"
    found = []
    for name in args.size:
        found.append(measure(name, device, dtype, args.attention, speeds, compile_config))
        print("\n".join(lines(found[-1], args.dtype)), flush=True)
    report = {
        "machine": {**machine(args.device), "gigabytes_per_second": speeds["bandwidth"] / 1e9},
        "dtype": args.dtype,
        "attention": args.attention,
        "dynamic": args.dynamic,
        "skip_guards": args.skip_guards,
        "same_ids": all(each["same_ids"] for each in found),
        "sizes": found,
    }
    where = report["machine"]
    print(
        f"{where['device']}, reads {where['gigabytes_per_second']:.0f} GB/s; torch {where['torch']}, transformers "
        f"{where['transformers']}."
    )
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if not report["same_ids"]:
        raise SystemExit("Compiled and eager decoding wrote different ids in float32.")


if __name__ == "__main__":
    main()
