"""Reads the configuration of an adapter, of which PEFT gets nothing but numbers, flags and names that were checked.

PEFT itself would load further adapters, tokenizers and modules that a configuration names, and match its patterns as
regular expressions, which can take forever.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..names import ADAPTER_CONFIG_FILE
from .checkpoint_files import read_json, read_shapes


if TYPE_CHECKING:
    from peft import LoraConfig

NAME = re.compile(r"\^?[\w.]+")
LORA_TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_(?:embedding_)?A(?:\.weight)?")


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= sys.float_info.max


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_name, value))


def _is_pattern(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_name, value)) and all(map(_is_number, value.values()))


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(index) is int and index >= 0 for index in value)


def _is_token_rows(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_name, value)) and all(map(_is_ids, value.values()))


# Keys that change what the adapter computes, and that are passed on: default, check, and what passes it.
PASSED_ON: dict[str, tuple[Any, Callable[[Any], bool], str]] = {
    "r": (8, _is_number, "a finite number of at least 0"),
    "lora_alpha": (8, _is_number, "a finite number of at least 0"),
    "lora_dropout": (0.0, _is_number, "a finite number of at least 0"),
    "use_rslora": (False, _is_flag, "true or false"),
    "use_dora": (False, _is_flag, "true or false"),
    "fan_in_fan_out": (False, _is_flag, "true or false"),
    "modules_to_save": (None, _is_names, "a list of names of layers"),
    "rank_pattern": ({}, _is_pattern, "numbers by names of layers"),
    "alpha_pattern": ({}, _is_pattern, "numbers by names of layers"),
    "trainable_token_indices": (None, _is_token_rows, "lists of token ids by names of layers"),
}
# Keys that only matter to whoever trains the adapter, or whose meaning follows from the tensors that it holds.
IGNORED = {
    "auto_mapping", "base_model_name_or_path", "bias", "exclude_modules", "inference_mode", "layers_pattern",
    "layers_to_transform", "megatron_core", "peft_type", "peft_version", "qalora_group_size", "revision",
    "runtime_config", "target_modules", "task_type",
}  # fmt: skip
# Initial weights that leave those of the model as they are.
OWN_INITIALISATION = (None, True, False, "gaussian", "orthogonal", "eva")


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
    if settings.get("peft_type") != "LORA":
        kind = str(settings.get("peft_type"))[:40]
        raise ValueError(f"{path} describes an adapter of the kind {kind!r}, and only LORA is supported.")
    for key in settings.keys() - {*PASSED_ON, *IGNORED, "init_lora_weights"}:
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

    arguments = {}
    for key, (default, is_right, expected) in PASSED_ON.items():
        value = arguments[key] = default if settings.get(key) in (None, [], {}) else settings[key]
        if value is not default and not is_right(value):
            raise ValueError(f"{path}: {key} must be {expected}, not {str(value)[:40]!r}.")
    shapes = read_shapes(weights)
    # Ranks beyond those in the weights would only take memory.
    largest = max((min(shape) for name, shape in shapes.items() if LORA_TENSOR.fullmatch(name) and shape), default=1)
    for rank in (arguments["r"], *arguments["rank_pattern"].values()):
        if rank != int(rank) or not 1 <= rank <= largest:
            raise ValueError(f"{path} has a rank of {rank}, and its weights one of at most {largest}.")
    # By their full names: a regular expression in target_modules is not needed.
    arguments["target_modules"] = sorted({match[1] for name in shapes if (match := LORA_TENSOR.fullmatch(name))})
    return LoraConfig(task_type="CAUSAL_LM", inference_mode=True, **arguments)
