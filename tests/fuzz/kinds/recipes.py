"""Recipes of trainings, damaged."""

from __future__ import annotations

from pathlib import Path

import yaml

from ..mutations import Damage
from .material import write_checkpoint, write_jsonl


IMPORTS = ("ttt_hf.training.finetuning", "ttt_hf.training.arguments", "peft", "datasets", "transformers.trainer",
           "transformers.models.qwen2.modeling_qwen2", "matplotlib.pyplot", "tensorboard")  # fmt: skip
# Last, so that they win: what a recipe asks for may take as long as it likes.
LIMITS = ("max_steps=1", "num_train_epochs=1", "per_device_train_batch_size=2", "gradient_accumulation_steps=1",
          "dataloader_num_workers=0", "noise_copies=1", "audio_variants=0")  # fmt: skip


def prepare(base: Path) -> None:
    write_checkpoint(base / "checkpoint")
    speech = {"type": "audio", "codes": list(range(8))}
    text = {"type": "text", "text": "Hello."}
    turns = [("asr", [speech], [text]), ("tts", [text], [text, speech]), ("text", [text], [text])]
    rows = [
        {"task": task, "messages": [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]}
        for task, user, reply in turns
    ]
    write_jsonl(base / "rows.jsonl", rows)
    recipe = {
        "model": str(base / "checkpoint"),
        "train_data": [
            {"path": str(base / "rows.jsonl"), "ratio": 0.5},
            {"path": str(base / "rows.jsonl"), "ratio": 0.5},
        ],
        "eval_data": {"path": str(base / "rows.jsonl")},
        "output_dir": "out",
        "objective": "two_stream",
        "lora_rank": 2,
        "lora_alpha": 4,
        "lora_dropout": 0.1,
        "span_truncation": 0.1,
        "learning_rate": 1.0e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0,
        "max_length": 256,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch",
        "seed": 1,
        "logging_steps": 1,
        "save_steps": 1,
        "eval_strategy": "steps",
        "report_to": "none",
        "gradient_checkpointing": False,
        "use_cpu": True,
    }
    (base / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")


def make(damage: Damage, base: Path, folder: Path) -> list[str]:
    recipe = folder / "recipe.yaml"
    recipe.write_bytes((base / "recipe.yaml").read_bytes())
    keys = [line.split(":")[0] for line in recipe.read_text().splitlines() if line[:1].isalpha()]
    changes: list[str] = []
    if damage.chance(0.3):
        changes = [f"{damage.choice(keys)}{damage.choice(['=', '.a=', '.0=', ''])}{damage.word()}"]
    else:
        damage.file(recipe)
    return ["train", str(recipe), *changes, *LIMITS]
