"""Speed and memory of training next to plain implementations, on the same weights, in one run.

    python benchmarks/training.py
    python benchmarks/training.py --rows 100 --padded-rows 8 --json training.json
    python benchmarks/training.py --device cuda --dtype bfloat16 --readme README.md

The official way is what the official training code does: every sample padded to 2048 tokens, one dense mask, logits
of the whole vocabulary at every position. It is written here a second time, from the algorithm alone, so that equal
losses are a check, too. Its steps cost the same whatever they hold, so that a few of them are enough; the
implementations alternate, and medians are compared.

The samples are questions and answers of the embedded model's domain, with its tasks in about the recipe's shares, and
with random codes instead of recordings, as many as speech of that length has.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from common import add_common_options, fill, machine, synchronize, timed
from torch.nn import functional
from transformers import AutoModelForCausalLM, Qwen2Config

from ttt_hf import TtTConfig, TtTForConditionalGeneration, TtTProcessor
from ttt_hf.data import LengthGroupedSampler, SampleBuilder, TtTDataCollator, training_length
from ttt_hf.loading import load_model_and_processor
from ttt_hf.names import EMBEDDED_NAME


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for recipes, which is not installed

from recipes.tiny.domain import build_domain


BEGIN, END = "<!-- training:begin -->", "<!-- training:end -->"
IGNORE = -100

SHARES = {"asr": 0.18, "chat": 0.32, "tts": 0.26, "text": 0.24}
CODES_PER_CHARACTER = 0.8  # 12.5 codes and about 16 characters a second

Batch = dict[str, torch.Tensor]


# -- data -------------------------------------------------------------------------------------------------------------


def domain_samples(count: int, tasks: dict[str, float], processor: TtTProcessor, config: TtTConfig) -> list[dict]:
    """Training samples of the embedded model's domain; the same ones at every call."""
    rng = random.Random(0)
    domain = build_domain()
    builder = SampleBuilder(processor, config)
    facts = domain.train_facts()

    def spoken(text: str) -> dict[str, Any]:
        codes = [rng.randrange(config.audio_vocab_size) for _ in range(round(CODES_PER_CHARACTER * len(text)))]
        return {"type": "audio", "codes": codes}

    samples = []
    for task in rng.choices(list(tasks), weights=list(tasks.values()), k=count):
        fact = rng.choice(facts)
        question, _ = domain.random_question(fact.id, rng)
        # Text or speech of the user, then text and (`chat`, `tts`) speech of the model.
        asked, said = (fact.answer if task == "tts" else question), (question if task == "asr" else fact.answer)
        user = spoken(asked) if task in ("asr", "chat") else {"type": "text", "text": asked}
        reply = [{"type": "text", "text": said}, *([spoken(said)] if task in ("chat", "tts") else [])]
        turns = [{"role": "user", "content": [user]}, {"role": "assistant", "content": reply}]
        samples.append(builder({"messages": turns, "task": task}))
    return samples


def batches_by_length(samples: Sequence[dict], batch_size: int, config: TtTConfig) -> list[list[dict]]:
    """Batches as `TtTTrainer` makes them."""
    lengths = [training_length(sample["labels"], config, noise_copies=1) for sample in samples]
    order = list(LengthGroupedSampler(lengths, batch_size, seed=0))
    return [[samples[i] for i in order[first : first + batch_size]] for first in range(0, len(order), batch_size)]


def padded(batch: Batch, length: int, pad_token_id: int) -> Batch:
    """The batch with rows of a fixed length."""
    fill_with = {"input_ids": pad_token_id, "labels": IGNORE}
    # All but ids and labels is padded with zero: no attention, no loss. `draws` has one dimension and is left out.
    missing = length - batch["input_ids"].shape[1]
    return {
        name: functional.pad(values, (0, missing), value=fill_with.get(name, 0))
        for name, values in batch.items()
        if values.ndim == 2
    }


# -- the two implementations ------------------------------------------------------------------------------------------


def plain_loss(model: TtTForConditionalGeneration, batch: Batch) -> torch.Tensor:
    """The paper's loss of a batch noised in place, with logits at all positions."""
    ids, labels, weights = batch["input_ids"], batch["labels"], batch["audio_loss_weights"]
    length, start = ids.shape[1], model.config.audio_token_start_id
    is_audio = ids >= start
    # 1. Mask, (rows, length, length): causal, and both ways within a run of audio tokens, which share a number.
    run = (~is_audio).cumsum(1)
    same_run = is_audio[:, :, None] & is_audio[:, None] & (run[:, :, None] == run[:, None])
    causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
    visible = (causal | same_run) & batch["attention_mask"][:, None].bool()
    mask = torch.zeros(visible.shape, dtype=model.dtype, device=ids.device)
    mask.masked_fill_(~visible, torch.finfo(model.dtype).min)
    # 2. Logits at all positions, (rows, length, vocabulary).
    hidden = model.model(
        inputs_embeds=model.get_input_embeddings()(ids),
        attention_mask=mask[:, None],
        position_ids=torch.arange(length, device=ids.device)[None],
        use_cache=False,
    ).last_hidden_state
    logits = model.lm_head(hidden).float()
    # 3. Text: the next token, the mean over the tokens of each row. Audio ids are no targets here.
    targets = functional.pad(labels[:, 1:], (0, 1), value=IGNORE)
    targets = targets.masked_fill(targets >= start, IGNORE)
    text = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    text = text.sum(dim=1) / (targets != IGNORE).sum(dim=1).clamp(min=1)
    # 4. Audio: the token at the masked position itself, with the weights of the noise level.
    masked = weights > 0
    audio = functional.cross_entropy(logits[masked], labels[masked], reduction="none") * weights[masked]
    return text.mean() + audio.sum() / len(ids)


def our_loss(model: TtTForConditionalGeneration, batch: Batch) -> torch.Tensor:
    """The loss of a batch, as `TtTTrainer` computes it."""
    return model(**{name: values for name, values in batch.items() if name not in ("draws", "noise_levels")}).loss


class Stepper:
    """Runs and times training steps, collation included."""

    def __init__(self, model: TtTForConditionalGeneration, pad_token_id: int) -> None:
        self.model = model.train()
        self.pad_token_id = pad_token_id
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
        self.collators = {
            objective: TtTDataCollator(model.config, pad_token_id, objective) for objective in ("paper", "two_stream")
        }

    def seconds(self, samples: list[dict], objective: str, padded_to: int | None = None) -> float:
        """Seconds of a step; with `padded_to`, of a step in the official way."""
        return timed(lambda: self._step(samples, objective, padded_to), self.model.device)[0]

    def _step(self, samples: list[dict], objective: str, padded_to: int | None) -> None:
        batch = self.collators[objective](samples)
        if padded_to:
            batch = padded(batch, padded_to, self.pad_token_id)
        batch = {name: values.to(self.model.device) for name, values in batch.items()}
        loss = (plain_loss if padded_to else our_loss)(self.model, batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


# -- measurements -----------------------------------------------------------------------------------------------------


def measure_speed(stepper: Stepper, samples: list[dict], batch_size: int, padded_rows: int, length: int) -> dict:
    """Samples per second: the official way, and ours with both objectives, each on batches of similar length."""
    config = stepper.model.config
    ours = batches_by_length(samples, batch_size, config)
    # Rows of the official way all have the same length, so that their order does not matter.
    official = [samples[first : first + batch_size] for first in range(0, padded_rows, batch_size)]
    rates: dict[str, list[float]] = {"official": [], "paper": [], "two_stream": []}
    for objective in ("paper", "two_stream"):
        stepper.seconds(ours[0], objective)  # warms up
    for number, batch in enumerate(official):
        rates["official"].append(len(batch) / stepper.seconds(batch, "paper", length))
        # All batches of ours are divided among the rounds: each round has one rate per implementation.
        share = ours[number :: len(official)]
        for objective in ("paper", "two_stream"):
            seconds = sum(stepper.seconds(batch, objective) for batch in share)
            rates[objective].append(sum(map(len, share)) / seconds)
    return {
        "rows": len(samples),
        "padded_rows": padded_rows,
        "batch_size": batch_size,
        "mean_length": sum(sample["length"] for sample in samples) / len(samples),
        "samples_per_second": {name: median(values) for name, values in rates.items()},
    }


def measure_objectives(stepper: Stepper, samples: list[dict], batch_size: int, repeat: int) -> dict[str, float]:
    """Seconds of a step of both objectives on the same spoken replies; `two_stream` adds noised copies of them."""
    batch = batches_by_length(samples, batch_size, stepper.model.config)[0]
    return in_turn(
        {name: lambda name=name: stepper.seconds(batch, name) for name in ("paper", "two_stream")},
        repeat,
    )


def measure_overhead(model: TtTForConditionalGeneration, rows: int, length: int, repeat: int) -> dict[str, float]:
    """Seconds of forward and backward on text alone, of the plain backbone and of our model."""
    # The same weights under the same names; the tolerance below allows for another order of summation.
    backbone = AutoModelForCausalLM.from_config(model.config.text_config, dtype=model.dtype)
    backbone.load_state_dict(model.state_dict())
    backbone = backbone.to(model.device).train()
    ids = torch.randint(0, model.config.audio_token_start_id, (rows, length), device=model.device)
    batch = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}
    losses = [each(**batch).loss.item() for each in (backbone, model)]
    if abs(losses[0] - losses[1]) > 1e-2 * losses[0]:
        raise SystemExit(f"Two models of the same weights gave different losses: {losses}.")

    def seconds(each: torch.nn.Module) -> float:
        each.zero_grad()
        return timed(lambda: each(**batch).loss.backward(), each.device)[0]

    return in_turn({"backbone": lambda: seconds(backbone), "ours": lambda: seconds(model)}, repeat)


def in_turn(ways: dict[str, Callable[[], float]], repeat: int) -> dict[str, float]:
    """Median seconds of each; they alternate, so that other load on the machine affects all of them."""
    rounds = [{name: way() for name, way in ways.items()} for _ in range(repeat + 1)]
    return {name: median(taken[name] for taken in rounds[1:]) for name in ways}  # the first round warms up


def measure_memory(vocabulary: int, rows: int, length: int, device: str) -> dict[str, float]:
    """Peak bytes of a step, of each implementation in a process of its own."""
    sizes = {}
    # The peak on a CPU is that since the start of a process, so that each implementation needs its own.
    for name in ("plain", "ours"):
        options = ["--memory-of", name, "--vocabulary", str(vocabulary), "--device", device]
        options += ["--memory-rows", str(rows), "--memory-length", str(length)]
        command = [sys.executable, str(Path(__file__).resolve()), *options]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        sizes[name] = json.loads(result.stdout)
    if abs(sizes["plain"]["loss"] - sizes["ours"]["loss"]) > 1e-4 * sizes["plain"]["loss"]:
        raise SystemExit(f"The two ways computed different losses: {sizes}.")
    sizes_of_case = {"vocabulary": vocabulary, "rows": rows, "length": length}
    return {**sizes_of_case, **{name: size["bytes"] for name, size in sizes.items()}}


def memory_of(way: str, vocabulary: int, rows: int, length: int, device: str) -> dict[str, float]:
    """Loss and additional peak memory of one step of a small model with a large vocabulary."""
    model, batch = memory_case(vocabulary, rows, length)
    model, batch = model.to(device), {name: values.to(device) for name, values in batch.items()}
    # Weights and batch are there already, and do not count.
    before = memory_now(device)
    loss = (plain_loss if way == "plain" else our_loss)(model, batch)
    loss.backward()
    synchronize(model.device)
    return {"loss": loss.item(), "bytes": memory_peak(device) - before}


def memory_case(vocabulary: int, rows: int, length: int) -> tuple[TtTForConditionalGeneration, Batch]:
    """A model whose logits are by far its largest tensors, and rows of spoken replies to short prompts."""
    torch.manual_seed(0)
    codes = 16384
    # Four ids are left for the start of audio, the mask and two end markers.
    start = vocabulary - codes - 4
    text_config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    config = TtTConfig(
        text_config=text_config,
        audio_token_start_id=start,
        audio_vocab_size=codes,
        mask_token_id=start + codes + 1,
        begin_audio_token_ids=[start - 2, start - 1],
        end_audio_token_ids=[start + codes + 2, start + codes + 3],
    )
    rng = random.Random(0)
    prompt = length // 8
    samples = []
    for _ in range(rows):
        ids = [rng.randrange(start - 2) for _ in range(prompt)]
        while len(ids) < length:
            ids += [*(rng.randrange(start - 2) for _ in range(13)), start - 2]
            ids += [*(rng.randrange(start + 1, start + codes) for _ in range(26)), start + codes + 2]
        # Only the reply is learned.
        samples.append({"input_ids": ids[:length], "labels": [IGNORE] * prompt + ids[prompt:length]})
    # Without the paper's clean batches and clean first spans, so that every span is noised.
    collator = TtTDataCollator(config, 0, "paper", clean_batch_probability=0.0, prefix_preservation=0.0)
    return TtTForConditionalGeneration(config).train(), collator(samples)


def memory_now(device: str) -> float:
    """Bytes in use."""
    if device.startswith("cuda"):
        # The peak is counted from here.
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize()


def memory_peak(device: str) -> float:
    """Peak of the bytes in use."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    # The peak of getrusage includes the memory of the process that started this one; VmHWM does not.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


# -- report -----------------------------------------------------------------------------------------------------------


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Runs all four measurements."""
    model, processor = load_model_and_processor(EMBEDDED_NAME, device=args.device, dtype=args.dtype)
    stepper = Stepper(model, processor.tokenizer.pad_token_id)
    mixed = domain_samples(args.rows, SHARES, processor, model.config)
    spoken = {task: SHARES[task] for task in ("chat", "tts")}
    replies = domain_samples(args.batch_size, spoken, processor, model.config)
    return {
        "speed": measure_speed(stepper, mixed, args.batch_size, min(args.padded_rows, args.rows), args.padded_length),
        "memory": measure_memory(args.vocabulary, args.memory_rows, args.memory_length, args.device),
        "objectives": measure_objectives(stepper, replies, args.batch_size, args.repeat),
        "overhead": measure_overhead(model, args.batch_size, min(args.padded_length, 256), args.repeat),
    }


def table(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    speed, memory, objectives = report["speed"]["samples_per_second"], report["memory"], report["objectives"]
    overhead = report["overhead"]
    lines = ["| | plain | ours | | aim |", "|---|---|---|---|---|"]
    for objective in ("two_stream", "paper"):
        plain, ours = speed["official"], speed[objective]
        lines.append(
            f"| samples a second, `{objective}`, batches of similar length, next to the official way | {plain:.2f} "
            f"| {ours:.1f} | **{ours / plain:.1f} x** | >= 5 x |"
        )
    rows = [
        (
            f"memory of a step, {memory['vocabulary']:,} ids, {memory['rows']} x {memory['length']} tokens, next to "
            "logits at all positions",
            f"{memory['plain'] / 1e9:.2f} GB",
            f"{memory['ours'] / 1e9:.2f} GB",
            memory["ours"] / memory["plain"],
            "<= 0.33 x",
        ),
        (
            "step of `two_stream` next to `paper`, spoken replies",
            f"{1e3 * objectives['paper']:.0f} ms",
            f"{1e3 * objectives['two_stream']:.0f} ms",
            objectives["two_stream"] / objectives["paper"],
            "<= 1.6 x",
        ),
        (
            "forward and backward on text alone, next to `Qwen2ForCausalLM`",
            f"{1e3 * overhead['backbone']:.0f} ms",
            f"{1e3 * overhead['ours']:.0f} ms",
            overhead["ours"] / overhead["backbone"],
            "<= 1.1 x",
        ),
    ]
    lines += [f"| {what} | {plain} | {ours} | **{ratio:.2f} x** | {aim} |" for what, plain, ours, ratio, aim in rows]
    device, facts = report["machine"], report["speed"]
    lines += [
        "",
        f"{facts['rows']} samples of the embedded model's domain, {facts['mean_length']:.0f} tokens on average, "
        f"batches of {facts['batch_size']}; {facts['padded_rows']} of them the official way. {device['device']}, "
        f"{device['threads']} threads; torch {device['torch']}, transformers {device['transformers']}. "
        f"Command: `{report['command']}`.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500, help="samples (default: 500)")
    parser.add_argument("--padded-rows", type=int, default=24, help="samples the official way (default: 24)")
    parser.add_argument("--padded-length", type=int, default=2048, help="their length (default: 2048)")
    parser.add_argument("--batch-size", type=int, default=8, help="samples of a step (default: 8)")
    parser.add_argument("--repeat", type=int, default=9, help="steps of which the median counts (default: 9)")
    parser.add_argument(
        "--vocabulary", type=int, default=168072, help="vocabulary size of the memory measurement (168072)"
    )
    parser.add_argument("--memory-rows", type=int, default=4, help="rows there (default: 4)")
    parser.add_argument("--memory-length", type=int, default=512, help="their length (default: 512)")
    parser.add_argument("--memory-of", choices=["plain", "ours"], help=argparse.SUPPRESS)
    add_common_options(parser)
    args = parser.parse_args()

    if args.threads:
        torch.set_num_threads(args.threads)
    transformers.utils.logging.set_verbosity_error()
    # This process was started by `measure_memory`.
    if args.memory_of:
        case = (args.vocabulary, args.memory_rows, args.memory_length)
        print(json.dumps(memory_of(args.memory_of, *case, args.device)))
        return
    # The command in the report has only the options that differ from the defaults.
    shown = ("rows", "padded_rows", "batch_size", "device", "dtype")
    options = [
        f"--{name.replace('_', '-')} {getattr(args, name)}"
        for name in shown
        if getattr(args, name) != parser.get_default(name)
    ]
    report = {
        "command": " ".join(["python benchmarks/training.py", *options]),
        "machine": machine(args.device),
        **measure(args),
    }
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(table(report))
    if args.readme:
        fill(args.readme, table(report), (BEGIN, END))


if __name__ == "__main__":
    main()
