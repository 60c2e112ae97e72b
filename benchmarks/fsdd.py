"""Fine-tuning on recorded speech: scores on spoken digits and on the model's own domain, before and after.

    python benchmarks/fsdd.py --domain build/tiny/data --out build/fsdd
    python benchmarks/fsdd.py --domain build/tiny/data --out build/fsdd --readme README.md --json

The digits are the Free Spoken Digit Dataset (six people, 8 kHz): 1,200 recordings to train on, 300 to test on. The
embedded model was trained on synthetic voices only. `ttt-hf train lora_asr` learns the digits from variants of the
recordings, mixed with rows of the embedded model's own domain against forgetting; the recordings of the domain are
those that `python -m recipes.tiny --stages data` makes. The reported minutes are those of all commands, encoding
included.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from common import fill, machine

import ttt_hf


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for recipes, which is not installed

from recipes.tiny.held_out import spoken_questions
from recipes.tiny.tables import read_rows, write_rows


BEGIN, END = "<!-- fsdd:begin -->", "<!-- fsdd:end -->"
DIGITS = Path(__file__).resolve().parents[2] / "shared" / "data" / "fsdd"

# Keys besides the data. The model learns no new sounds, so the rows of the audio tokens stay frozen: it forgets less,
# and a larger rank fits into the adapter.
KEYS = ("lora_audio_tokens=false", "lora_rank=16", "lora_alpha=32", "lora_dropout=0.05", "learning_rate=7e-4")
# Sampling weights of digits, of questions of the domain to transcribe, and of questions to answer.
RATIOS = {"digits": 0.4, "asr": 0.2, "chat": 0.4}
REPLAYED = {"asr": 900, "chat": 1800}
BATCH_SIZE = 24


# -- data -------------------------------------------------------------------------------------------------------------


def digit_rows(data: Path, split: str) -> list[dict[str, Any]]:
    """Rows of the digits' split, with absolute paths."""
    return [{**row, "audio": str((data / row["audio"]).resolve())} for row in read_rows(data / f"{split}.jsonl")]


def replay_rows(domain: Path, counts: dict[str, int], seed: int) -> dict[str, list[dict[str, Any]]]:
    """Rows of the embedded model's own training data: questions to transcribe, and questions to answer."""
    utterances = {row["id"]: row for row in read_rows(domain / "utterances.jsonl")}
    items = [row for row in read_rows(domain / "items.jsonl") if row["split"] == "train" and row["question_audio"]]
    # In the order of ids first, so that the draw does not depend on the order of the table.
    items.sort(key=lambda row: row["id"])
    random.Random(seed).shuffle(items)

    def path(name: str) -> str:
        return str((domain / utterances[name]["audio"]).resolve())

    # No item is both transcribed and answered.
    heard = [{"audio": path(item["question_audio"][0]), "text": item["question"]} for item in items[: counts["asr"]]]
    spoken = [
        {
            "question_audio": path(item["question_audio"][0]),
            "answer": item["answer"],
            "answer_audio": path(item["answer_audio"]),
        }
        for item in items[counts["asr"] :]
        if item["answer_audio"]
    ]
    return {"asr": heard, "chat": spoken[: counts["chat"]]}


def prepare(data: Path, domain: Path, out: Path, counts: dict[str, int], seed: int) -> None:
    """Writes the training rows (OUT/digits.jsonl, OUT/asr.jsonl, OUT/chat.jsonl) and the domain's held-out questions
    (OUT/domain.jsonl).
    """
    out.mkdir(parents=True, exist_ok=True)
    held_out = spoken_questions(domain, "wording")
    write_rows(out / "domain.jsonl", [{**row, "audio": str((domain / row["audio"]).resolve())} for row in held_out])
    digits = [{"audio": row["audio"], "text": row["text"]} for row in digit_rows(data, "train")]
    write_rows(out / "digits.jsonl", digits)
    for task, rows in replay_rows(domain, counts, seed).items():
        write_rows(out / f"{task}.jsonl", rows)


# -- training ---------------------------------------------------------------------------------------------------------


def commands(out: Path, workers: int, keys: Sequence[str]) -> list[list[str]]:
    """The commands of a user, from rows to an adapter; rows of the domain are known and encoded without variants."""
    # The digits are not encoded here: `train` encodes them itself, with variants.
    encode = [
        ["encode", f"{out}/{task}.jsonl", "--task", task, "--out", f"{out}/{task}", "--workers", str(workers)]
        for task in REPLAYED
    ]
    sources = [f"{{path: {out}/digits.jsonl, task: asr, ratio: {RATIOS['digits']}}}"]
    sources += [f"{{path: {out}/{task}, ratio: {RATIOS[task]}}}" for task in REPLAYED]
    train = ["train", "lora_asr", f"train_data=[{', '.join(sources)}]", f"output_dir={out}/adapter"]
    return [*encode, [*train, f"encoding_workers={workers}", *KEYS, *keys]]


@dataclass
class Effort:
    """Seconds of the commands: wall clock, and of all processors together."""

    clock: float
    processors: float


def run(arguments: Sequence[Sequence[str]], threads: int) -> Effort:
    """Runs `ttt-hf` once for each list of arguments."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    # Processor time depends less than the wall clock on other load on the machine.
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    for words in arguments:
        subprocess.run([sys.executable, "-m", "ttt_hf.cli", *words], check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Effort(time.monotonic() - started, spent)


# -- scores -----------------------------------------------------------------------------------------------------------


def score(model: str, data: Path, out: Path, digits: int | None, questions: int) -> dict[str, dict[str, Any]]:
    """Scores transcripts of the digits (`digits_wer`) and of the domain's questions (`domain_wer`), and the answers to
    those questions (`domain_answers`); returns the metrics of `results.json`.
    """
    # Other data than those of the presets, whose expected number of samples does not apply.
    own = {"path": str(data / "test.jsonl"), "expected": None}
    domain = {"path": str(out / "domain.jsonl"), "expected": None, "output": "text"}
    of_digits = ttt_hf.evaluate(model, "fsdd", overrides=own, limit=digits, batch_size=BATCH_SIZE)
    of_domain = ttt_hf.evaluate(
        model, ["tiny_asr", "tiny_spoken_qa"], overrides=domain, limit=questions, batch_size=BATCH_SIZE
    )
    return {
        "digits_wer": of_digits["fsdd"]["metrics"]["wer"],
        "domain_wer": of_domain["tiny_asr"]["metrics"]["wer"],
        "domain_answers": of_domain["tiny_spoken_qa"]["metrics"]["accuracy"],
    }


# -- report -----------------------------------------------------------------------------------------------------------


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Scores the model before training, trains, and scores the adapter."""
    prepare(args.data, args.domain, args.out, dict(zip(REPLAYED, args.replay)), args.seed)
    training = commands(args.out, args.workers, args.keys)
    before = score("ttt-tiny", args.data, args.out, args.limit, args.questions)
    effort = run(training, args.threads)
    adapter = args.out / "adapter"
    return {
        "before": before,
        "after": score(str(adapter), args.data, args.out, args.limit, args.questions),
        "adapter_bytes": (adapter / "adapter_model.safetensors").stat().st_size,
        "minutes": {"clock": effort.clock / 60, "processors": effort.processors / 60},
        "training": [["ttt-hf", *words] for words in training],
    }


def table(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    before, after, device = report["before"], report["after"], report["machine"]
    minutes = report["minutes"]
    rows = [
        (f"word error rate, {before['digits_wer']['n']} digits said by six people", "digits_wer", "<= 8 %"),
        ("word error rate, the embedded model's own held-out questions", "domain_wer", "at most 3 points worse"),
        ("right answers to them", "domain_answers", "at most 3 points worse"),
    ]
    lines = ["| | before | after | aim |", "|---|---|---|---|"]
    lines += [
        f"| {what} | {100 * before[key]['value']:.1f} % | **{100 * after[key]['value']:.1f} %** | {aim} |"
        for what, key, aim in rows
    ]
    lines += [
        f"| size of the adapter | | **{report['adapter_bytes'] / 1e6:.2f} MB** | <= 3 MB |",
        f"| encoding and training | | **{minutes['clock']:.1f} minutes**, {minutes['processors']:.1f} of processors "
        "| <= 20 minutes |",
        "",
        "Free Spoken Digit Dataset, 8 kHz; 1,200 recordings to learn from. "
        f"{before['domain_wer']['n']} questions of the embedded model's own domain. {device['device']}, "
        f"{device['threads']} threads; torch {device['torch']}, transformers {device['transformers']}. "
        f"Command: `{report['command']}`.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DIGITS, help="folder of the digits: train.jsonl and test.jsonl")
    parser.add_argument("--domain", type=Path, required=True, help="folder of the tiny recipe's stage data")
    parser.add_argument("--out", type=Path, required=True, help="folder for rows, codes and adapter; a new one")
    parser.add_argument("--questions", type=int, default=360, help="questions of the domain (default: 360)")
    parser.add_argument("--limit", type=int, help="test recordings that are scored (default: all)")
    parser.add_argument(
        "--replay",
        type=int,
        nargs=2,
        default=list(REPLAYED.values()),
        metavar=("ASR", "CHAT"),
        help=f"rows of the domain that are trained on besides (default: {' '.join(map(str, REPLAYED.values()))})",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads (default: all cores)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that encode (all cores)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the rows that are replayed (default: 0)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--readme", type=Path, help=f"Markdown file in which to fill the table in, at {BEGIN}")
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE", help="keys of the recipe that differ")
    args = parser.parse_args()

    if (args.out / "adapter").exists():
        raise SystemExit(f"{args.out} holds an adapter already, whose training would not be timed: name a new folder.")
    torch.set_num_threads(args.threads)
    transformers.utils.logging.set_verbosity_error()
    report = {
        "command": " ".join(["python benchmarks/fsdd.py --domain DATA --out OUT", *args.keys]),
        "machine": machine("cpu"),
        **measure(args),
    }
    (args.out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2) if args.json else table(report))
    if args.readme:
        fill(args.readme, table(report), (BEGIN, END))


if __name__ == "__main__":
    main()
