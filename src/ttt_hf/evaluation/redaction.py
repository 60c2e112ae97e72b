"""Keeps secrets and broken Unicode out of the records of a run, which people share.

Secrets are the user and the query of an address, settings that are called like one (`api_key`), and the values of
environment variables that are (`HF_TOKEN`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any


HIDDEN = "(hidden)"
# `token` alone or after one of these words: `eos_token` and `max_tokens` are no secrets.
_SECRET = r"(?:.*[_-])?(?:api[_-]?key|passw(?:or)?d|secret|credentials?|authorization)"
_SECRET_NAME = re.compile(rf"{_SECRET}|(?:.*[_-])?(?:access|api|auth|bearer|gh|github|hf|hub)[_-]token|token", re.I)
# The name of a variable says what it holds more loosely than a key of a file: OPENAI_KEY, MY_TOKEN, AWS_SECRET_KEY.
_SECRET_VARIABLE = re.compile(r".*(?:KEY|TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIALS?)", re.I)
# Shorter values ("1", "none") occur by chance.
_SHORTEST = 8
# The lookbehind starts a match at the beginning of a word only: from every letter, long texts would take for ever.
_ADDRESS = re.compile(r"(?<![\w+.-])([A-Za-z][\w+.-]*://)([^\s/?#]*@)?([^\s?#'\"<>]*)(\?[^\s#'\"<>]*)?")


def without_secrets(value: Any) -> Any:
    """A JSON value in which secrets are replaced by `(hidden)`."""
    return _without(value, _secrets_of_environment())


def address_without_secrets(address: str) -> str:
    """An address without user, password, query and fragment."""
    # Not by the pattern for addresses within texts: a malformed one is no reason to show what it holds.
    base = re.split(r"[?#]", address, maxsplit=1)[0]
    return re.sub(r"\A([^/]*//)?[^/]*@", r"\1", base)


def is_secret_name(name: str) -> bool:
    """Whether a setting of this name holds a secret, such as `api_key`."""
    return _SECRET_NAME.fullmatch(name) is not None


def encodable(text: str) -> str:
    """The text with `?` in place of halves of surrogate pairs, which JSON can name and UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode()


def _without(value: Any, secrets: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if entry and is_secret_name(str(key)) else _without(entry, secrets)
            for key, entry in value.items()
        }
    if isinstance(value, list | tuple):
        return [_without(entry, secrets) for entry in value]
    if not isinstance(value, str):
        return value
    for secret, name in secrets.items():
        value = value.replace(secret, f"({name})")
    return _ADDRESS.sub(lambda match: match[1] + match[3] + (f"?{HIDDEN}" if match[4] else ""), value)


def _secrets_of_environment() -> dict[str, str]:
    """Values of environment variables that are called like secrets -> name of the variable, the longest first."""
    found = {value: name for name, value in os.environ.items() if _SECRET_VARIABLE.fullmatch(name)}
    return {value: found[value] for value in sorted(found, key=len, reverse=True) if len(value) >= _SHORTEST}
