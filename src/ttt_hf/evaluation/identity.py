"""Identifies models in results: a name and a revision or hash, and nothing about the machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..names import CODEC_FOLDER, EMBEDDED_NAME, EMBEDDED_NAMES
from .store import digest


if TYPE_CHECKING:
    import torch


# Files of a model's folder that its replies depend on; scores, cards and trainer states are left out.
DECISIVE_PREFIXES = (
    "adapter",
    "added_tokens",
    "chat_template",
    "config",
    "generation_config",
    "merges",
    "model",
    "preprocessor_config",
    "processor_config",
    "special_tokens",
    "tokenizer",
    "vocab",
)


# A folder may also hold `training_args.bin` and the weights of its codec, in a folder of their own.
WEIGHTS = re.compile(r"(?:model|adapter_model|pytorch_model)[^/]*\.(?:safetensors|bin)")


@dataclass(frozen=True)
class Identity:
    """Identifies a model in results.

    Args:
        name: The Hub id, or the name of the folder without its path.
        revision: Commit on the Hub, or a hash of the content.
        weights: File -> SHA-256 of the weights in a local folder, by which a repository can be found to hold them.
    """

    name: str
    revision: str
    weights: Mapping[str, str] = field(default_factory=dict)


def identify(folder: Path, name: str | None = None) -> Identity:
    """Identifies the model in a folder, independently of the folder's path.

    Args:
        folder: The model's folder.
        name: The name that it was found by: a folder, a Hub id or one of `EMBEDDED_NAMES`.
    """
    if name in EMBEDDED_NAMES:
        return Identity(EMBEDDED_NAME, *_hashes(folder))
    if name is None or Path(name).expanduser().is_dir():
        return Identity(folder.resolve().name, *_hashes(folder))
    # The cache names the folder of a snapshot after its commit.
    return Identity(name, folder.name)


def is_weights(name: str) -> bool:
    """Whether a file of a model's folder holds its weights, or those of an adapter."""
    return WEIGHTS.fullmatch(name) is not None


def content_hash(folder: Path) -> str:
    """Hashes the files that a model's replies depend on: weights, configurations, tokenizer, and those of its codec.

    Returns:
        `"sha256:"` and 16 hexadecimal digits, independent of the folder's path.
    """
    return _hashes(folder)[0]


def _hashes(folder: Path) -> tuple[str, dict[str, str]]:
    """The content hash, and the SHA-256 of each file of weights, with every file read once."""
    digest = hashlib.sha256()
    weights: dict[str, str] = {}
    for part in (folder, folder / CODEC_FOLDER):
        # Sorted, because the order of a folder differs between file systems.
        files = sorted(part.iterdir()) if part.is_dir() else []
        for path in files:
            if path.is_file() and path.name.startswith(DECISIVE_PREFIXES):
                # With names, relative to the folder: the same bytes under other names are another model.
                digest.update(f"{part.name if part != folder else ''}/{path.name}\0".encode())
                own = hashlib.sha256()
                with path.open("rb") as file:
                    # In blocks of 1 MiB: weights need not fit into memory.
                    while block := file.read(1 << 20):
                        digest.update(block)
                        own.update(block)
                if part == folder and is_weights(path.name):
                    weights[path.name] = own.hexdigest()
    return f"sha256:{digest.hexdigest()[:16]}", weights


def identify_loaded(model: Any, processor: Any) -> Identity:
    """Identifies a model in memory, whose weights may have changed since they were loaded.

    Args:
        model: A TtT model, or one of PEFT around it.

    Returns:
        The name that it was loaded by, and a hash of weights, configuration, adapters, tokenizer and codec.
    """
    settings = {
        # The content alone, and nothing about where it was loaded from.
        "config": _settings(model.config.to_dict()),
        "adapters": {name: _settings(config.to_dict()) for name, config in getattr(model, "peft_config", {}).items()},
        "tokenizer": processor.tokenizer.backend_tokenizer.to_str(),
        "chat_template": processor.chat_template,
        "weights": state_hash(model),
        "codec": None if processor.codec is None else state_hash(processor.codec),
    }
    # Results are shared: a path of this machine is reduced to the name of the folder.
    name = str(getattr(model, "name_or_path", "") or type(model).__name__)
    return Identity(Path(name).name if Path(name).exists() else name, f"memory:{digest(settings)}")


def state_hash(module: torch.nn.Module) -> str:
    """Hashes the parameters and buffers of a module, on any device.

    Returns:
        64 hexadecimal digits.
    """
    import torch

    from ..data.encoding import hash_tensors

    for name, tensor in module.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(
                f"The weight {name} is packed for this processor, so that the model cannot be identified: give its "
                "name and bits=8 instead."
            )
        if tensor.is_meta:
            raise ValueError(
                f"The weight {name} is offloaded, so that the model cannot be identified: give its name instead, or "
                "load it without device_map."
            )
    digest = hashlib.sha256()
    hash_tensors(digest, module)
    return digest.hexdigest()


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without its origin, and with sorted lists for sets, so that equal ones have equal hashes."""
    left_out = ("_name_or_path", "transformers_version", "base_model_name_or_path")
    return {
        key: sorted(value) if isinstance(value, set) else value for key, value in config.items() if key not in left_out
    }
