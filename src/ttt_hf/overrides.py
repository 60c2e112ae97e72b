"""YAML files and the `key=value` strings that override their keys, for recipes and tasks."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml


def read_yaml(path: Path) -> Any:
    """Reads a YAML file.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it is not YAML.
    """
    try:
        # safe_load builds plain data only, so that a recipe cannot run code.
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no recipe file {path}: give the path of a YAML file.") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML ({' '.join(str(error).split())}): correct it.") from None


def split_override(override: str, form: str) -> tuple[str, Any]:
    """Splits a `key=value` string.

    Args:
        override: The string; its value is parsed as YAML, so that numbers, lists, `true` and `null` mean the same as
            in a file.
        form: Example of such a string, for the error message.

    Returns:
        Key and value.

    Raises:
        ValueError: If there is no key, or the value is not YAML.
    """
    # At the first equals sign, since the value may contain others.
    key, equals, text = override.partition("=")
    key = key.strip()
    if not (equals and key):
        raise ValueError(f"{override!r} is not an override: write {form}.")
    try:
        return key, yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"The value of {override!r} is not valid YAML: quote it.") from None


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """Suggests the most similar known name; returns `otherwise` if none is similar."""
    match = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {match[0]}" if match else otherwise
