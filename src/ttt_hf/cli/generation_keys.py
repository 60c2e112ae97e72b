"""Generation keys that somebody sets while a model is loaded, checked before they are used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..overrides import nearest, shorten, split_override
from .errors import UsageError


if TYPE_CHECKING:
    from ..modeling.modeling_ttt import TtTForConditionalGeneration

# Lengths of replies: transformers compares them without a look at their types.
LENGTHS = ("max_new_tokens", "min_new_tokens", "min_length")
# One reply is generated, and `max_new_tokens` limits it.
NOT_SET = {"max_length", "num_return_sequences", "return_dict_in_generate", "use_cache"}


def changed_settings(model: TtTForConditionalGeneration, settings: Mapping[str, Any], override: str) -> dict[str, Any]:
    """Sets one key and checks all of them as `generate()` does, without a forward.

    As in `ttt-hf talk`, a `temperature` of 0 is greedy, and above it text is sampled.

    Args:
        model: The model that generates.
        settings: Keyword arguments of `generate()` so far.
        override: `key=value`; `null` takes the model's own value again.

    Returns:
        The new settings.

    Raises:
        UsageError: If there is no such key, or its value cannot be used.
    """
    from transformers import GenerationConfig

    from ..modeling.session_ttt import prepare_row
    from ..modeling.settings_ttt import AUDIO_GENERATION_KEYS

    try:
        key, value = split_override(override, "KEY=VALUE, as in seed=3")
    except ValueError as error:
        raise UsageError(str(error)) from None
    known = {*GenerationConfig().to_dict(), *AUDIO_GENERATION_KEYS} - NOT_SET
    if key not in known:
        hint = nearest(key, known, "see docs/decoding.md")
        raise UsageError(f"{shorten(key)!r} is no generation key that can be set: {hint}.")
    changed = {name: before for name, before in settings.items() if name != key} | {key: value}
    if key == "temperature":
        # Greedy decoding is do_sample=False; sampling needs a temperature above 0.
        changed["do_sample"] = None if value is None else value != 0
        changed["temperature"] = value or None
    changed = {name: value for name, value in changed.items() if value is not None}
    if key in LENGTHS and value is not None and (type(value) is not int or value < (key[:3] == "max")):
        raise UsageError(f"{key} must be a whole number above 0, not {shorten(str(value))}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{key} must be a number, not {value}.")
    try:
        prepare_row(model, [0], **{"max_new_tokens": 1, **changed})
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UsageError(f"{shorten(f'{key}={value}')} cannot be used: {shorten(reason, 300)}.") from error
    return changed
