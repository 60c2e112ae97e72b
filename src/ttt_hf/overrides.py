"""YAML files and the `key=value` strings that override their keys, for recipes and tasks."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml


# Far beyond any recipe: a file of gigabytes, or one whose few aliases stand for millions of values, is refused.
MAX_BYTES = 1_000_000
MAX_DEPTH = 30
MAX_VALUES = 100_000
# Longest piece of a user's text that a message repeats.
SHOWN = 80


class PlainLoader(yaml.SafeLoader):
    """Builds plain data only, so that a recipe cannot run code, and refuses keys that are given twice."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._checked: set[yaml.MappingNode] = set()
        self._keys = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Puts the keys of merged mappings (`<<`) into a mapping, whose own keys may repeat them."""
        if node not in self._checked:
            self._checked.add(node)
            given = set()
            for key in (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"):
                if key in given:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key} is given twice", node.start_mark
                    )
                given.add(key)
        super().flatten_mapping(node)
        # Before they are built: merges of merges may stand for millions of keys.
        self._keys += len(node.value)
        if self._keys > MAX_VALUES:
            raise yaml.MarkedYAMLError(None, None, "it holds too many keys", node.start_mark)


def read_yaml(path: Path) -> Any:
    """Reads a YAML file: strings, numbers, booleans and nothing else, in lists and in mappings with strings as keys.

    Raises:
        FileNotFoundError: If the file is not there.
        OSError: If it cannot be read.
        ValueError: If it is not such YAML.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no recipe file {path}: give the path of a YAML file.")
    # A pipe would be waited for, and a folder has no text.
    if not path.is_file():
        raise ValueError(f"{path} is no file: give the path of a YAML file.")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES // 1_000_000} MB: give the path of a YAML file.")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8: give the path of a YAML file.") from None
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"{path} is not valid YAML ({error}): correct it.") from None


def parse_yaml(text: str) -> Any:
    """Parses YAML of plain values, as of `read_yaml`.

    Raises:
        ValueError: If it is not such YAML; says why in a few words.
    """
    try:
        value = yaml.load(text, Loader=PlainLoader)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        # Without the lines around it, which may hold a secret.
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(line + shorten(" ".join(str(error.problem or error.context).split()), 200)) from None
    except yaml.YAMLError as error:
        raise ValueError(shorten(" ".join(str(error).split()), 200)) from None
    # Values that look like a number or a date and are none, such as a number of 5,000 digits or the 45th of a month.
    except (ValueError, OverflowError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"it holds a value that cannot be read, {shorten(str(error))}") from None
    _check_plain(value)
    return value


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
        raise ValueError(f"{shorten(override)!r} is not an override: write {form}.")
    try:
        return key, parse_yaml(text)
    except ValueError as error:
        # Not the value itself, which may be a secret.
        raise ValueError(f"The value of {shorten(key)!r} is not valid YAML ({error}): quote it.") from None


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with changes in them: mappings are merged key by key, lists and single values are replaced."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """Suggests the most similar known name; returns `otherwise` if none is similar."""
    # Comparing takes time that grows with the square of the length.
    match = difflib.get_close_matches(name[:SHOWN], list(known), n=1)
    return f"did you mean {match[0]}" if match else otherwise


def shorten(text: str, length: int = SHOWN) -> str:
    """The text, cut at a length that fits into a message."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _check_plain(value: Any) -> None:
    """Refuses values that no recipe has, and trees that are endless or become huge by aliases."""
    count = 0
    waiting = [(value, 0)]
    while waiting:
        entry, depth = waiting.pop()
        count += 1
        if depth > MAX_DEPTH or count > MAX_VALUES:
            raise ValueError("it is nested too deeply, or an alias refers to itself")
        if isinstance(entry, dict):
            for key in entry:
                if not isinstance(key, str):
                    raise ValueError(f"the key {shorten(repr(key))} is no text, quote it")
            waiting += [(child, depth + 1) for child in entry.values()]
        elif isinstance(entry, list):
            waiting += [(child, depth + 1) for child in entry]
        # Hexadecimal numbers of any length can be read, but not written.
        elif isinstance(entry, int) and abs(entry) >= 2**63:
            raise ValueError("it holds a number of more than 64 bits")
        elif not isinstance(entry, str | int | float | None):
            raise ValueError(f"{shorten(str(entry))} is a {type(entry).__name__}, quote it")
