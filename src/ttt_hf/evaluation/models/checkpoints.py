"""Naming exactly which model it was: results say what they were made with, and nothing of the machine."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ...loading import EMBEDDED_NAMES


# Files of a model's folder that decide what it says; scores, cards and states of trainers do not.
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


@dataclass(frozen=True)
class Identity:
    """What a model is called in results.

    Args:
        name: Name without places of this machine: the Hub id, or the folder's own name.
        revision: Commit on the Hub, or a hash of the content.
    """

    name: str
    revision: str


def identify(folder: Path, name: str | None = None) -> Identity:
    """Says which model a folder holds.

    Args:
        folder: The model's folder.
        name: What the user called it: a folder, a Hub id or the embedded checkpoint.

    Returns:
        The same wherever the folder lies.
    """
    if name in EMBEDDED_NAMES:
        return Identity("ttt-tiny", content_hash(folder))
    if name is None or Path(name).expanduser().is_dir():
        return Identity(folder.resolve().name, content_hash(folder))
    # The cache names the folder of a snapshot after its commit.
    return Identity(name, folder.name)


def content_hash(folder: Path) -> str:
    """Hashes what decides a model's replies: weights, configurations, tokenizer, and the codec's.

    Args:
        folder: The model's folder.

    Returns:
        `"sha256:"` and 16 hexadecimal digits; the same wherever the folder lies.
    """
    digest = hashlib.sha256()
    for place in (folder, folder / "codec"):
        files = sorted(place.iterdir()) if place.is_dir() else []
        for path in files:
            if path.is_file() and path.name.startswith(DECISIVE_PREFIXES):
                digest.update(f"{place.name if place != folder else ''}/{path.name}\0".encode())
                with path.open("rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
    return f"sha256:{digest.hexdigest()[:16]}"
