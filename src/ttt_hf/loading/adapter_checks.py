"""Reads the configuration of an adapter, of which PEFT gets nothing but numbers, flags and names that were checked.

PEFT itself would load further adapters, tokenizers and modules that a configuration names, and match its patterns as
regular expressions, which can take forever.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..names import ADAPTER_CONFIG_FILE
from .checkpoint_files import read_json, read_shapes


if TYPE_CHECKING:
    from peft import LoraConfig

# Keys that change what the adapter computes, and that are passed on.
NUMBERS = {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0}
FLAGS = ("use_rslora", "use_dora", "fan_in_fan_out")
NAMES = ("modules_to_save",)
PATTERNS = ("rank_pattern", "alpha_pattern")
TOKEN_ROWS = "trainable_token_indices"
# Keys that only matter to whoever trains the adapter, or whose meaning follows from the tensors that it holds.
IGNORED = {
    "auto_mapping", "base_model_name_or_path", "bias", "exclude_modules", "inference_mode", "layers_pattern",
    "layers_to_transform", "megatron_core", "peft_type", "peft_version", "qalora_group_size", "revision",
    "runtime_config", "target_modules", "task_type",
}  # fmt: skip
# Initial weights that leave those of the model as they are.
OWN_INITIALISATION = (None, True, False, "gaussian", "orthogonal", "eva")
NAME = re.compile(r"\^?[\w.]+")
LORA_TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_(?:embedding_)?A(?:\.weight)?")


def read_adapter(folder: Path, weights: Path) -> LoraConfig:
    """Reads the configuration of a LoRA adapter.

    Args:
        folder: The adapter.
        weights: Its weights; the layers that it changes are those that they name.

    Raises:
        ValueError: If it is an adapter of another kind, uses what this package does not train, or a value is of a
            wrong type or out of range.
    """
    from peft import LoraConfig

    settings = read_json(folder, ADAPTER_CONFIG_FILE)
    path = folder / ADAPTER_CONFIG_FILE
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise ValueError(f"{path} describes an adapter of the kind {kind!r}, and only LORA is supported.")
    known = {*NUMBERS, *FLAGS, *NAMES, *PATTERNS, TOKEN_ROWS, *IGNORED, "init_lora_weights"}
    for key in settings.keys() - known:
        # Newer versions of PEFT write keys for what is switched off, too.
        if settings[key]:
            raise ValueError(f"{path} uses {key}, which this package does not support: train a plain LoRA adapter.")
    if settings.get("init_lora_weights") not in OWN_INITIALISATION:
        raise ValueError(
            f"{path} changes the weights of its base model (init_lora_weights={settings['init_lora_weights']!r}): "
            "convert it to a plain LoRA adapter, see path_initial_model_for_weight_conversion of PEFT."
        )
    if settings.get("bias") not in (None, "none"):
        raise ValueError(f"{path} trains biases (bias={settings['bias']!r}), which is not supported.")

    shapes = read_shapes(weights)
    # Ranks beyond those in the weights would only take memory.
    largest = max((min(shape) for name, shape in shapes.items() if LORA_TENSOR.fullmatch(name) and shape), default=1)
    arguments: dict[str, Any] = {
        key: _number(path, key, settings.get(key, default)) for key, default in NUMBERS.items()
    }
    arguments |= {key: _of_type(path, key, settings.get(key) or False, bool) for key in FLAGS}
    for key in NAMES:
        names = _of_type(path, key, settings.get(key) or [], list)
        arguments[key] = [_name(path, key, name) for name in names] or None
    for key in PATTERNS:
        values = _of_type(path, key, settings.get(key) or {}, dict)
        arguments[key] = {_name(path, key, name): _number(path, key, value) for name, value in values.items()}
    for rank in (arguments["r"], *arguments["rank_pattern"].values()):
        if rank != int(rank) or not 1 <= rank <= largest:
            raise ValueError(f"{path} has a rank of {rank}, and its weights one of at most {largest}.")
    arguments[TOKEN_ROWS] = _token_rows(path, settings.get(TOKEN_ROWS))
    # By their full names: a regular expression in target_modules is not needed.
    arguments["target_modules"] = sorted({match[1] for name in shapes if (match := LORA_TENSOR.fullmatch(name))})
    return LoraConfig(task_type="CAUSAL_LM", inference_mode=True, **arguments)


def _token_rows(path: Path, rows: Any) -> dict[str, list[int]] | None:
    if not rows:
        return None
    for name, ids in _of_type(path, TOKEN_ROWS, rows, dict).items():
        _name(path, TOKEN_ROWS, name)
        if not isinstance(ids, list) or any(type(index) is not int or index < 0 for index in ids):
            raise ValueError(f"{path}: {TOKEN_ROWS} must hold lists of token ids.")
    return rows


def _number(path: Path, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{path}: {key} must be a finite number of at least 0, not {str(value)[:40]!r}.")
    return value


def _of_type(path: Path, key: str, value: Any, expected: type) -> Any:
    if not isinstance(value, expected):
        raise ValueError(f"{path}: {key} must be a {expected.__name__}, not {str(value)[:40]!r}.")
    return value


def _name(path: Path, key: str, name: Any) -> str:
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise ValueError(f"{path}: {key} may only hold names of layers, not {str(name)[:40]!r}.")
    return name
