"""The commands that are killed, and what counts as their result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet
from transformers import LlamaConfig, LlamaForCausalLM

from hub_server import Hub
from official_layout import text_tokenizer, write_official
from tests.fuzz.kinds.material import make_codec, run, write_checkpoint, write_jsonl, write_recordings


# Parts of the names of fields that tell when and how fast something was made, or where.
VOLATILE = ("seconds", "runtime", "per_second", "time", "date", "path", "dir", "duration", "speed", "factor", "memory")
# Files that hold nothing else, and drawings of what is compared anyway.
LEFT_OUT = ("events.out.tfevents*", "training_args.bin", "*.png", "*.html", "rng_state*.pth")
REPOSITORY = "me/model"
Result = dict[str, Any]


@dataclass(frozen=True)
class Command:
    """A command of the command line.

    Args:
        verb: Name of what is tested.
        imports: Modules that it imports, so that kills fall into its work.
        arguments: Its arguments, given the folder of material; it writes to `out` in the current folder.
        result: What it has made, given the current folder.
    """

    verb: str
    imports: tuple[str, ...]
    arguments: Callable[[Path], list[str]]
    result: Callable[[Path], Result]


def prepare(base: Path) -> None:
    """Writes what the commands work on: recordings, models, and the scores of a model."""
    write_checkpoint(base / "checkpoint")
    write_jsonl(base / "data" / "rows.jsonl", write_recordings(base / "data", 12))
    make_codec().save_pretrained(base / "codec")
    write_official(base / "official")
    tokenizer = text_tokenizer()
    tokenizer.save_pretrained(base / "text")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(base / "text")
    run("eval", "run", *_task(base), f"--model={base / 'checkpoint'}", f"--out={base / 'scores'}")


def commands(hub: Hub) -> dict[str, tuple[Command, ...]]:
    """Verb -> its commands, which the cases take in turn."""
    model = "transformers.models.qwen2.modeling_qwen2"
    training = ("ttt_hf.training.finetuning", "peft", "datasets", "transformers.trainer", "matplotlib.pyplot", model)
    evaluation = ("ttt_hf.evaluation.harness", "ttt_hf.evaluation.report", "datasets", "jiwer", model)

    def encode(base: Path) -> list[str]:
        rows = str(base / "data" / "rows.jsonl")
        return ["encode", rows, "--task=asr", f"--model={base / 'checkpoint'}", "--out=out", "--workers=1",
                "--shard-size=2", "--variants=2"]  # fmt: skip

    def train(base: Path, *more: str) -> list[str]:
        data = f"train_data={{path: {base / 'data' / 'rows.jsonl'}, task: asr}}"
        return ["train", "lora_asr", data, f"model={base / 'checkpoint'}", "output_dir=out", "max_steps=8",
                "save_steps=1", "save_total_limit=2", "logging_steps=1", "use_cpu=true", "audio_variants=1",
                "per_device_train_batch_size=2", "lora_dropout=0.2", *more]  # fmt: skip

    def eval(base: Path) -> list[str]:
        return ["eval", "run", *_task(base), f"--model={base / 'checkpoint'}", "--out=out", "--batch-size=2"]

    def official(base: Path) -> list[str]:
        return ["convert", "official", str(base / "official"), "out", f"--codec={base / 'codec'}"]

    def from_text(base: Path) -> list[str]:
        return ["convert", "from-text", str(base / "text"), "out", f"--codec={base / 'codec'}"]

    def eval_push(base: Path) -> list[str]:
        return ["eval", "push", str(base / "scores"), f"--repo={REPOSITORY}", "--unverified"]

    def train_push(base: Path) -> list[str]:
        return train(base, "push_to_hub=true", f"hub_model_id={REPOSITORY}", "max_steps=2")

    return {
        "encode": (Command("encode", ("ttt_hf.data.encoding", "datasets"), encode, files),),
        "train": (Command("train", training, train, files),),
        "eval": (Command("eval", evaluation, eval, files),),
        "convert": (
            Command("convert", ("ttt_hf.converting.official_checkpoint", model), official, files),
            Command("convert", ("ttt_hf.converting.text_model",), from_text, files),
        ),
        "push": (
            Command("push", evaluation, eval_push, lambda folder: _contents(hub.files)),
            Command("push", training, train_push, lambda folder: _contents(hub.files)),
        ),
    }


def files(folder: Path) -> Result:
    """What lies below a folder, hidden and temporary files included, without what changes from run to run."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return _contents({path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})


def _contents(files: dict[str, bytes]) -> Result:
    return {name: _content(name, data) for name, data in sorted(files.items()) if not _is_left_out(name)}


def _is_left_out(name: str) -> bool:
    return any(Path(name).match(pattern) for pattern in LEFT_OUT)


def _content(name: str, data: bytes) -> Any:
    """What is compared of a file."""
    suffix = Path(name).suffix
    if suffix == ".json":
        return _stable(json.loads(data))
    if suffix == ".jsonl":
        # Lines of a run that was continued may be in another order; each has its id.
        return sorted(json.dumps(_stable(json.loads(line)), sort_keys=True) for line in data.decode().splitlines())
    if suffix == ".parquet":
        return pyarrow.parquet.read_table(pyarrow.BufferReader(data)).to_pylist()
    if suffix == ".md":
        return [line for line in data.decode().splitlines() if not any(word in line.lower() for word in VOLATILE)]
    return hashlib.sha256(data).hexdigest()


def _stable(tree: Any) -> Any:
    """A tree of JSON without volatile fields."""
    if isinstance(tree, dict):
        return {key: _stable(value) for key, value in tree.items() if not any(word in key for word in VOLATILE)}
    return [_stable(item) for item in tree] if isinstance(tree, list) else tree


def _task(base: Path) -> list[str]:
    return ["local", f"path={base / 'data' / 'rows.jsonl'}"]
