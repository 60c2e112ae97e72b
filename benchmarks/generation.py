"""Speed of `generate` next to a plain implementation of the official algorithm, on the same weights, in one run.

    python benchmarks/generation.py                        # the embedded checkpoint and a random model
    python benchmarks/generation.py --models embedded --json
    python benchmarks/generation.py --device cuda --dtype bfloat16 --readme README.md

The plain implementation is what the official code does: batch 1, no cache, every token recomputed at every step,
logits of the whole vocabulary at every position. It is written here a second time, from the algorithm alone, so that
equal ids are a check, too. The lower bound for batch 1 is the time it takes to read the weights from memory once per
forward.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import Qwen2Config

from ttt_hf import TtTConfig, TtTForConditionalGeneration
from ttt_hf.atomic_files import atomic_write_text
from ttt_hf.loading import load_model_and_processor
from ttt_hf.names import EMBEDDED_NAME


QUESTION = Path(__file__).resolve().parents[1] / "examples" / "question.wav"
BEGIN, END = "<!-- speed:begin -->", "<!-- speed:end -->"


@dataclass(frozen=True)
class Settings:
    """Settings of greedy generation, for both implementations."""

    block_length: int
    steps_per_block: int
    max_span_length: int
    max_new_tokens: int
    min_text_tokens_after_audio: int


@dataclass(frozen=True)
class Scenario:
    """A model, its prompts and its settings."""

    name: str
    model: TtTForConditionalGeneration
    prompts: list[list[int]]
    settings: Settings


@dataclass
class Plain:
    """A plain implementation of the official algorithm."""

    model: TtTForConditionalGeneration
    settings: Settings
    eos_token_id: int
    num_forward_passes: int = 0

    @torch.inference_mode()
    def generate(self, prompt: list[int]) -> list[int]:
        """Answers one prompt, text token by token (1.) and audio span by span (2.); returns the new ids."""
        config, settings = self.model.config, self.settings
        # `texts_left` counts the text tokens that must follow a span before the reply may end.
        ids, texts_left = list(prompt), 0
        while len(ids) - len(prompt) < settings.max_new_tokens:
            # 1. Text is greedy, one token per forward.
            logits = self._logits(ids)[-1]
            if texts_left > 0:
                logits[self.eos_token_id] = -torch.inf
            token = int(logits.argmax())
            ids.append(token)
            texts_left = max(0, texts_left - 1)
            if token == self.eos_token_id:
                break
            # 2. A begin token opens a span, which only an end marker or the limit of the reply closes.
            if token in config.begin_audio_token_ids:
                while len(ids) - len(prompt) < settings.max_new_tokens and self._write_span(ids) is False:
                    pass
                texts_left = settings.min_text_tokens_after_audio
        return ids[len(prompt) :]

    def _write_span(self, ids: list[int]) -> bool:
        """Appends blocks up to an end marker or the span limit; returns whether there was an end marker."""
        settings, ends = self.settings, self.model.config.end_audio_token_ids
        for _ in range(settings.max_span_length // settings.block_length):
            block = self._denoise(ids)
            # What a block holds after its first end marker is dropped.
            end = next((index for index, token in enumerate(block) if token in ends), None)
            ids += block if end is None else block[: end + 1]
            if end is not None:
                return True
        return False

    def _denoise(self, ids: list[int]) -> list[int]:
        """Fills a block of mask tokens; each step keeps the most confident proposals."""
        length, steps, mask = (
            self.settings.block_length,
            self.settings.steps_per_block,
            self.model.config.mask_token_id,
        )
        block = [mask] * length
        for step in range(steps):
            # (block_length, vocabulary); a masked position proposes its own token, not the next one.
            logits = self._logits(ids + block)[-length:]
            logits[:, self.eos_token_id] = -torch.inf
            confidence, proposal = logits.softmax(dim=-1).max(dim=-1)
            # Positions that are filled already keep their token.
            confidence[torch.tensor([token != mask for token in block])] = -torch.inf
            # The first steps fill one more where the positions do not divide evenly.
            count = length // steps + (step < length % steps)
            for position in confidence.topk(count).indices.tolist():
                if block[position] == mask:
                    block[position] = int(proposal[position])
        return block

    def _logits(self, ids: list[int]) -> torch.Tensor:
        """One forward over all tokens: `(length, vocabulary)`."""
        self.num_forward_passes += 1
        input_ids = torch.tensor([ids], device=self.model.device)
        is_audio = input_ids[0] >= self.model.config.audio_token_start_id
        # Audio tokens with no text between them have the same number. They see each other, everything else is causal:
        # (length, length).
        run = (~is_audio).cumsum(0)
        same_run = is_audio[:, None] & is_audio[None, :] & (run[:, None] == run[None, :])
        visible = torch.ones_like(same_run).tril() | same_run
        mask = torch.zeros(visible.shape, dtype=self.model.dtype, device=visible.device)
        mask.masked_fill_(~visible, torch.finfo(self.model.dtype).min)
        embeds = self.model.get_input_embeddings()(input_ids)
        positions = torch.arange(len(ids), device=input_ids.device)[None]
        out = self.model.model(
            inputs_embeds=embeds, attention_mask=mask[None, None], position_ids=positions, use_cache=False
        )
        return self.model.lm_head(out.last_hidden_state)[0].float()


def ours(scenario: Scenario, prompts: list[list[int]], eos_token_id: int) -> tuple[list[list[int]], list[int]]:
    """Answers prompts with `generate`, all in one batch; returns the new ids and the forwards of every row."""
    settings, device = scenario.settings, scenario.model.device
    # Padding is on the left, so that all replies begin at the same column.
    width = max(map(len, prompts))
    out = scenario.model.generate(
        input_ids=torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=device),
        attention_mask=torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device),
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
    )
    news = [row[len(prompt) :].tolist() for row, prompt in zip(out.sequences, prompts)]
    # Everything after a row's end of sequence is padding.
    news = [new[: new.index(eos_token_id) + 1] if eos_token_id in new else new for new in news]
    return news, out.num_forward_passes.tolist()


def measure(scenario: Scenario, repeat: int, batch_size: int, bandwidth: float) -> dict[str, Any]:
    """Runs a scenario with both implementations, alternately, and reports the best times."""
    model = scenario.model
    eos = model.generation_config.eos_token_id
    eos = eos[0] if isinstance(eos, list) else eos
    seconds = {"plain": float("inf"), "ours": float("inf"), "batch": float("inf")}
    batch = [scenario.prompts[index % len(scenario.prompts)] for index in range(batch_size)]

    plain = Plain(model, scenario.settings, eos)
    ours(scenario, scenario.prompts[:1], eos)  # warms up
    # In turn, so that other load on the machine affects all three.
    for _ in range(repeat):
        plain.num_forward_passes = 0
        taken, expected = timed(model, lambda: [plain.generate(prompt) for prompt in scenario.prompts])
        seconds["plain"] = min(seconds["plain"], taken)
        taken, alone = timed(model, lambda: [ours(scenario, [prompt], eos) for prompt in scenario.prompts])
        seconds["ours"] = min(seconds["ours"], taken)
        taken, together = timed(model, lambda: ours(scenario, batch, eos))
        seconds["batch"] = min(seconds["batch"], taken)

    news = [new for (new,), _ in alone]
    forwards = sum(count for _, (count,) in alone)
    tokens = sum(map(len, news))
    batch_tokens = sum(map(len, together[0]))
    # Decoding one row has little arithmetic per weight: at best it takes as long as reading the weights.
    lower_bound = forwards * weight_bytes(model) / bandwidth
    speeds = {
        "plain": tokens / seconds["plain"],
        "ours": tokens / seconds["ours"],
        "batch": batch_tokens / seconds["batch"],
    }
    return {
        "name": scenario.name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "settings": asdict(scenario.settings),
        "prompt_tokens": list(map(len, scenario.prompts)),
        "new_tokens": tokens,
        "same_ids": news == expected,
        "same_ids_in_batch": all(row == news[index % len(news)] for index, row in enumerate(together[0])),
        "batch_size": batch_size,
        "forward_passes": {"plain": plain.num_forward_passes, "ours": forwards},
        "seconds": seconds,
        "tokens_per_second": speeds,
        "times_plain": {"ours": speeds["ours"] / speeds["plain"], "batch": speeds["batch"] / speeds["plain"]},
        "lower_bound_seconds": lower_bound,
        "times_lower_bound": seconds["ours"] / lower_bound,
    }


def timed(model: nn.Module, call: Callable[[], Any]) -> tuple[float, Any]:
    """Calls and returns (seconds, result)."""
    synchronize(model.device)
    start = time.perf_counter()
    result = call()
    synchronize(model.device)
    return time.perf_counter() - start, result


def synchronize(device: torch.device) -> None:
    """Waits until the device has finished, so that the time is complete."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def weight_bytes(model: TtTForConditionalGeneration) -> int:
    """Bytes of weights that a forward reads: all but the table of input embeddings."""
    # Of that table a forward reads only a few rows. A tied output layer is the same table, but is read in full.
    embeddings = {id(model.get_input_embeddings().weight)}
    read = [weight for weight in model.model.parameters() if id(weight) not in embeddings]
    return sum(weight.numel() * weight.element_size() for weight in [*read, model.lm_head.weight])


def memory_bandwidth(device: torch.device) -> float:
    """Measured read bandwidth in bytes per second: a matrix-vector product with a matrix larger than any cache."""
    rows = 16384 if device.type == "cuda" else 8192
    matrix, vector = torch.ones(rows, rows, device=device), torch.ones(rows, device=device)
    # The best of several runs, since the bound must not be too high.
    best = float("inf")
    for _ in range(7):
        synchronize(device)
        start = time.perf_counter()
        torch.mv(matrix, vector)
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return matrix.numel() * matrix.element_size() / best


def embedded_scenario(device: str, dtype: torch.dtype) -> Scenario:
    """The embedded checkpoint answers the example question, and transcribes it."""
    model, processor = load_model_and_processor(EMBEDDED_NAME, device=device, dtype=dtype)
    conversation = [{"role": "user", "content": [{"type": "audio", "path": str(QUESTION)}]}]
    prompts = [
        processor.apply_chat_template(
            conversation, task=task, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )["input_ids"][0].tolist()
        for task in ("chat", "asr")
    ]
    shipped = model.generation_config
    block = shipped.audio_block_length
    # The plain implementation writes full blocks only, so the limit of a span has to be a multiple of a block.
    settings = Settings(
        block_length=block,
        steps_per_block=shipped.audio_steps_per_block,
        max_span_length=shipped.audio_max_span_length // block * block,
        max_new_tokens=512,
        min_text_tokens_after_audio=shipped.min_text_tokens_after_audio or 0,
    )
    return Scenario("embedded", model, prompts, settings)


def random_scenario(device: str, dtype: torch.dtype) -> Scenario:
    """A random model of 41 million parameters that recites 13 words and 26 audio tokens, four times."""
    torch.manual_seed(0)
    text_config = Qwen2Config(
        vocab_size=20000,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        dtype=dtype,
    )
    # Ids in order: text (3,000 to 3,002 end the reply and begin audio), start of audio, codes, mask, end markers.
    start, codes = 3500, 16384
    config = TtTConfig(
        text_config=text_config,
        audio_token_start_id=start,
        audio_vocab_size=codes,
        mask_token_id=start + 1 + codes,
        begin_audio_token_ids=[3001, 3002],
        end_audio_token_ids=[start + 2 + codes, start + 3 + codes],
    )
    model = TtTForConditionalGeneration(config).to(device=device, dtype=dtype).eval()
    model.generation_config.eos_token_id = 3000
    prompt = torch.randint(0, 3000, (90,)).tolist() + torch.randint(start + 1, start + codes, (60,)).tolist()
    # Each span fills one block: 25 codes and the end marker.
    script: list[int] = []
    for _ in range(4):
        script += [*torch.randint(0, 3000, (13,)).tolist(), 3001]
        script += [*torch.randint(start + 1, start + codes, (25,)).tolist(), config.end_audio_token_ids[0]]
    recite(model, [*prompt, *script, 3000])
    settings = Settings(
        block_length=26, steps_per_block=2, max_span_length=2600, max_new_tokens=200, min_text_tokens_after_audio=0
    )
    return Scenario("random", model, [prompt], settings)


def recite(model: TtTForConditionalGeneration, script: list[int]) -> None:
    """Makes a random model recite a script: its last hidden states are pushed towards the right output rows.

    Random weights never end a span. The push is a hook on the backbone, which both implementations call, so that both
    do the same work on the same weights.
    """
    target = torch.tensor([*script, script[-1]], device=model.device)
    embeddings = model.get_input_embeddings().weight

    def push(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        # The backbone gets no ids, so masked positions are recognized by their embedding.
        is_mask = (kwargs["inputs_embeds"] == embeddings[model.config.mask_token_id]).all(dim=-1)
        # A masked position writes its own token, any other position the next one.
        index = (kwargs["position_ids"] + (~is_mask).long()).clamp(max=len(script))
        output.last_hidden_state = output.last_hidden_state + 200 * model.lm_head.weight[target[index]]
        return output

    model.model.register_forward_hook(push, with_kwargs=True)


def table(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    names = [scenario["name"] for scenario in report["scenarios"]]
    rows: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("parameters", lambda s: f"{s['parameters'] / 1e6:.1f} M, {s['dtype']}"),
        ("new tokens, forwards", lambda s: f"{s['new_tokens']}, {s['forward_passes']['ours']}"),
        ("plain official algorithm", lambda s: f"{s['tokens_per_second']['plain']:.1f} tokens/s"),
        ("`generate`, batch 1", lambda s: times(s, "ours")),
        (f"`generate`, batch {report['scenarios'][0]['batch_size']}", lambda s: times(s, "batch")),
        ("same ids, alone and in the batch", lambda s: "yes" if s["same_ids"] and s["same_ids_in_batch"] else "NO"),
        ("batch 1, times the lower bound", lambda s: f"{s['times_lower_bound']:.1f}"),
    ]
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {what} | " + " | ".join(show(s) for s in report["scenarios"]) + " |" for what, show in rows]
    machine = report["machine"]
    lines += [
        "",
        f"{machine['device']}, {machine['threads']} threads, reads {machine['gigabytes_per_second']:.1f} GB/s; ",
    ]
    lines[-1] += f"torch {machine['torch']}, transformers {machine['transformers']}. Command: `{report['command']}`."
    return "\n".join(lines)


def times(scenario: dict[str, Any], which: str) -> str:
    """A speed, also as a multiple of the plain one."""
    return f"{scenario['tokens_per_second'][which]:.1f} tokens/s, **{scenario['times_plain'][which]:.1f} x**"


def fill(readme: Path, block: str, marks: tuple[str, str] = (BEGIN, END)) -> None:
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
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.add_argument("--readme", type=Path, help="also put the table between its marks in this file")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=["embedded", "random"], default=["embedded", "random"])
    parser.add_argument("--repeat", type=int, default=3, help="runs; the best time of each counts (default: 3)")
    parser.add_argument("--batch-size", type=int, default=8, help="rows of the batch (default: 8)")
    add_common_options(parser)
    args = parser.parse_args()

    if args.threads:
        torch.set_num_threads(args.threads)
    transformers.utils.logging.set_verbosity_error()
    bandwidth = memory_bandwidth(torch.device(args.device))
    make = {"embedded": embedded_scenario, "random": random_scenario}
    scenarios = [
        measure(make[name](args.device, getattr(torch, args.dtype)), args.repeat, args.batch_size, bandwidth)
        for name in args.models
    ]
    options = [f"--models {' '.join(args.models)}"] if len(args.models) < len(make) else []
    options += [f"--device {args.device}"] if args.device != "cpu" else []
    options += [f"--dtype {args.dtype}"] if args.dtype != "float32" else []
    report = {
        "command": " ".join(["python benchmarks/generation.py", *options]),
        "machine": {**machine(args.device), "gigabytes_per_second": bandwidth / 1e9},
        "scenarios": scenarios,
    }
    print(json.dumps(report, indent=2) if args.json else table(report))
    if args.readme:
        fill(args.readme, table(report))
    # After the report, which shows what differs.
    if not all(scenario["same_ids"] and scenario["same_ids_in_batch"] for scenario in scenarios):
        raise SystemExit("The implementations wrote different ids.")


if __name__ == "__main__":
    main()
