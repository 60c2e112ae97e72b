"""Checks the files of a checkpoint before anything parses them: what they are, and what their settings would load.

A checkpoint may come from a stranger. Nothing outside of its folder is read, and no setting of it loads code, pickles
or another repository's files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..names import CODEC_FOLDER, PROCESSOR_FILE


# Folders and files that transformers reads without being asked.
READ_FOLDERS = ("", CODEC_FOLDER, "additional_chat_templates")
READ_SUFFIXES = {".json", ".safetensors", ".jinja", ".txt", ".model", ".tiktoken"}
TEXT_SUFFIXES = {".json", ".jinja", ".txt"}
# Some times the largest tokenizer known; Python objects made of more would fill the memory.
MAX_TEXT_BYTES = 64 * 2**20
# transformers reads these in place of model.safetensors.
DISTRIBUTED_SHARD = re.compile(r"shard-\d+-model-\d+-of-\d+\.safetensors")
# Implementations that are part of transformers and torch; any other name may be that of a kernel on the Hub.
OWN_IMPLEMENTATIONS = (None, "", "eager", "sdpa", "flex_attention", "batched_mm", "grouped_mm")
# Quantization whose code is no kernel from the Hub, see `loader.quantization_config`.
OWN_QUANTIZATION = "bitsandbytes"
# Keys by file that name other files or repositories, which transformers would read.
REDIRECTIONS = {
    "config.json": ("configuration_files", "transformers_weights"),
    "tokenizer_config.json": ("fast_tokenizer_files", "init_inputs"),
    PROCESSOR_FILE: ("audio_tokenizer",),
}
# Keys of a tokenizer and their types
TOKENIZER_TYPES: dict[str, Any] = {
    "added_tokens_decoder": dict, "additional_special_tokens": list | dict, "auto_map": list | dict, "backend": str,
    "chat_template": str | list, "extra_special_tokens": list | dict, "model_input_names": list,
    "model_max_length": int | float, "padding_side": str, "tokenizer_class": str, "truncation_side": str,
}  # fmt: skip


def check_files(folder: Path) -> None:
    """Checks that what a folder holds can be read: regular files of its own, none of them too large to parse.

    Raises:
        ValueError: If one is a link to another place, a pipe, a device, a folder or too large, or if the settings name
            other files, repositories or kernels.
    """
    root = folder.resolve()
    # In the Hub's cache, snapshots are links to the blobs beside them.
    roots = [root] + ([root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [])
    for part in READ_FOLDERS:
        if not (folder / part).is_dir():
            continue
        if part:
            _check_place(folder / part, roots)
        for path in sorted((folder / part).iterdir()):
            if path.suffix in READ_SUFFIXES:
                _check_file(path, roots)
    for name in REDIRECTIONS:
        for place in (folder, folder / CODEC_FOLDER):
            if (place / name).exists():
                _check_settings(place / name, read_json(place, name))
    if (folder / "audio_tokenizer_config.json").exists():
        raise ValueError(f"{folder} names an audio tokenizer in audio_tokenizer_config.json: remove that file.")


def _check_place(path: Path, roots: list[Path]) -> Path:
    target = path.resolve()
    if not any(target.is_relative_to(root) for root in roots):
        raise ValueError(f"{path} is a link to another folder, {target.parent}: put what it links to in its place.")
    return target


def _check_file(path: Path, roots: list[Path]) -> None:
    target = _check_place(path, roots)
    if not target.is_file():
        raise ValueError(f"{path} is no regular file: fetch the checkpoint again.")
    if DISTRIBUTED_SHARD.fullmatch(path.name):
        raise ValueError(f"{path} is a part of a distributed checkpoint: save the model in one piece.")
    size = target.stat().st_size
    if path.suffix in TEXT_SUFFIXES and size > MAX_TEXT_BYTES:
        raise ValueError(f"{path} has {size:,} bytes, and at most {MAX_TEXT_BYTES:,} are read: fetch it again.")


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Reads a JSON file of a checkpoint.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it does not hold a JSON object.
    """
    path = folder / name
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} is not the folder of a model, it has no {name}: name one that save_pretrained wrote, or a Hub "
            "id."
        )
    if not path.is_file():  # reading a pipe would wait forever
        raise ValueError(f"{path} is no regular file: fetch the checkpoint again.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path} is damaged (nested too deeply): fetch the checkpoint again.") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): fetch the checkpoint again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (not an object): fetch the checkpoint again.")
    return content


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Refuses settings that would make transformers read or run what is not part of the checkpoint."""
    for key in REDIRECTIONS[path.name]:
        if settings.get(key):
            raise ValueError(f"{path} names other files to load ({key}), which are not read: remove the key.")
    if path.name == "tokenizer_config.json":
        _check_tokenizer(path, settings)
    if path.name != "config.json":
        return
    for key, value in walk(settings):
        if re.fullmatch(r"_?(attn|experts)_implementation(_internal)?", key):
            values = value.values() if isinstance(value, dict) else [value]
            if any(name not in OWN_IMPLEMENTATIONS for name in values):
                raise ValueError(
                    f"{path} asks for another implementation of its layers ({key}={value!r}), which may be code from "
                    "the Hub: remove the key, and name it yourself by attn_implementation if you trust it."
                )
        if key == "quantization_config" and value:
            method = value.get("quant_method") if isinstance(value, dict) else None
            if method != OWN_QUANTIZATION:
                raise ValueError(
                    f"{path} holds weights quantised by {method!r}, which needs further code: take the checkpoint "
                    "with full weights, and quantise it when it is loaded."
                )


def _check_tokenizer(path: Path, settings: dict[str, Any]) -> None:
    """Checks the types of a tokenizer's settings, of which transformers looks at few."""
    for key, value in settings.items():
        expected = TOKENIZER_TYPES.get(key, object)
        if key.endswith("_token") and not key.startswith("add_"):
            expected, value = str, value.get("content", 0) if isinstance(value, dict) else value
        if value is not None and not isinstance(value, expected):
            kind = getattr(expected, "__name__", expected)
            raise ValueError(f"{path}: {key} must be of type {kind}, not {str(value)[:40]!r}: fetch it again.")


def walk(settings: Any) -> Iterator[tuple[str, Any]]:
    """Keys and values of a JSON object and of all objects in it."""
    pending = [settings]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield from value.items()
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
