"""Task files of evaluations, damaged."""

from __future__ import annotations

from pathlib import Path

import yaml

from ..mutations import Damage
from .material import write_checkpoint, write_jsonl, write_recordings


IMPORTS = ("datasets", "ttt_hf.evaluation.harness", "ttt_hf.evaluation.scoring.scorers", "jiwer",
           "whisper_normalizer.english",
           "transformers.models.qwen2.modeling_qwen2")  # fmt: skip


def prepare(base: Path) -> None:
    write_checkpoint(base / "checkpoint")
    write_jsonl(base / "data" / "rows.jsonl", write_recordings(base / "data", 2))
    task = {
        "version": 1,
        "description": "recordings",
        "source": {
            "path": str(base / "data" / "rows.jsonl"),
            "columns": {"id": "id", "audio": "audio", "references": "text"},
            "expected": 2,
        },
        "prompt": "asr",
        "output": "text",
        "scorer": "wer",
        "scorer_options": {"normalizer": "whisper_english"},
        "language": "en",
        "generation": {"max_new_tokens": 4},
    }
    (base / "task.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")


def make(damage: Damage, base: Path, folder: Path) -> list[str]:
    task = folder / "task.yaml"
    task.write_bytes((base / "task.yaml").read_bytes())
    changes: list[str] = []
    if damage.chance(0.2):
        keys = ["path", "columns", "columns.references", "expected", "scorer", "scorer_options.normalizer",
                "language", "prompt",
                "output", "max_new_tokens", "audio_block_length", "temperature", "do_sample", "unknown"]  # fmt: skip
        changes = [f"{damage.choice(keys)}={damage.word()}"]
    else:
        damage.file(task)
    return ["eval", "run", str(task), f"--model={base / 'checkpoint'}", "--out=out", "--limit=1", *changes]
