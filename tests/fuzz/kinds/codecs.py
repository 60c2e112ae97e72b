"""Checkpoints whose codec or processor is damaged."""

from __future__ import annotations

from pathlib import Path

from ..mutations import Damage
from .material import RATE, link, pick_file, tone, write_checkpoint, write_wav


IMPORTS = (
    "ttt_hf.loading",
    "ttt_hf.processing",
    "ttt_hf.codecs",
    "soundfile",
    "transformers.models.qwen2.modeling_qwen2",
)


def prepare(base: Path) -> None:
    write_checkpoint(base / "checkpoint")
    write_wav(base / "question.wav", tone(0.5, RATE), RATE)


def make(damage: Damage, base: Path, folder: Path) -> list[str]:
    model = link(base / "checkpoint", folder / "model")
    files = [
        "processor_config.json",
        "chat_template.jinja",
        "tokenizer_config.json",
        "codec/*.json",
        "codec/*.safetensors",
    ]
    damage.file(pick_file(damage, model, damage.choice(files)))
    question = str(base / "question.wav")
    return ["talk", question, f"--model={model}", "--out=reply.wav", "--max-new-tokens=40", "--seed=0"]
