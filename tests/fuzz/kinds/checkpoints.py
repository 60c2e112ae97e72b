"""Checkpoints and adapters, and official checkpoints to convert, with a damaged file."""

from __future__ import annotations

from pathlib import Path

from peft import LoraConfig, get_peft_model

from official_layout import write_official
from ttt_hf.modeling import TtTForConditionalGeneration

from ..mutations import Damage
from .material import link, pick_file, write_checkpoint


IMPORTS = ("ttt_hf.loading", "ttt_hf.processing", "peft", "transformers.models.qwen2.modeling_qwen2")


def prepare(base: Path) -> None:
    write_checkpoint(base / "checkpoint")
    model = TtTForConditionalGeneration.from_pretrained(base / "checkpoint")
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], base_model_name_or_path=str(base / "checkpoint"))
    get_peft_model(model, config).save_pretrained(base / "adapter")
    write_official(base / "official")


def make(damage: Damage, base: Path, folder: Path) -> list[str]:
    if damage.random() < 0.15:
        source = link(base / "official", folder / "official")
        damage.file(pick_file(damage, source, "*"))
        return ["convert", "official", str(source), "out", f"--codec={base / 'checkpoint' / 'codec'}"]
    model = link(base / damage.choice(["checkpoint", "checkpoint", "adapter"]), folder / "model")
    damage.file(pick_file(damage, model, "*.json", "*.safetensors", "*.jinja"))
    if damage.random() < 0.2:
        return ["info", str(model)]
    return ["talk", "--text=Hello there.", f"--model={model}", "--max-new-tokens=8", "--seed=0"]
