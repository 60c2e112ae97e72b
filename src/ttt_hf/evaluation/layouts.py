"""Layouts of the files of a run, checked whenever one is read: a damaged file is named with the key that is wrong.

A layout is a function of a value and the path of keys that leads to it; it raises a `ValueError` with that path.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection
from typing import Any, get_args

from .concepts import FinishReason
from .redaction import without_surrogates
from .scoring.scorers import SCORERS


Layout = Callable[[Any, str], None]

# Larger numbers are no counts, times or scores, and overflow in arithmetic.
_LARGEST = 1e15
# Settings of models may be nested, but not so deeply that writing them again fails.
_DEEPEST = 50


def parse_json(content: bytes) -> Any:
    """Parses JSON; lone surrogates, which no file can hold, become U+FFFD.

    Raises:
        ValueError: If it is none, holds NaN, or is nested too deeply.
    """
    try:
        value = json.loads(content, parse_constant=_refuse_constant)
        return without_surrogates(value) if b"\\u" in content else value
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


# -- values -----------------------------------------------------------------------------------------------------------


def _of(kinds: type | tuple[type, ...], words: str) -> Layout:
    def check(value: Any, key: str) -> None:
        # `True` is an `int` in Python.
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            raise ValueError(f"{key} is {_shown(value)} and not {words}")

    return check


def _number(value: Any, key: str) -> None:
    _of((int, float), "a number")(value, key)
    # Beyond the range of a float, JSON's numbers are read as infinite.
    if not math.isfinite(value) or abs(value) > _LARGEST:
        raise ValueError(f"{key} is {_shown(value)}, out of the range of such numbers")


def _amount(value: Any, key: str) -> None:
    _number(value, key)
    if value < 0:
        raise ValueError(f"{key} is {_shown(value)}, less than 0")


def _count(value: Any, key: str) -> None:
    _of(int, "a whole number")(value, key)
    _amount(value, key)


def _anything(value: Any, key: str) -> None:
    level = [value]
    for _ in range(_DEEPEST):
        if any(isinstance(part, float) and not math.isfinite(part) for part in level):
            raise ValueError(f"{key} holds a number that is not finite")
        level = [
            entry
            for part in level
            if isinstance(part, dict | list)
            for entry in (part.values() if isinstance(part, dict) else part)
        ]
        if not level:
            return
    raise ValueError(f"{key} is nested too deeply")


_text, _flag = _of(str, "a text"), _of(bool, "true or false")


def _optional(layout: Layout) -> Layout:
    return lambda value, key: None if value is None else layout(value, key)


def _one_of(names: Collection[str]) -> Layout:
    def check(value: Any, key: str) -> None:
        if not isinstance(value, str) or value not in names:
            raise ValueError(f"{key} is {_shown(value)} and not one of {', '.join(names)}")

    return check


def _many(layout: Layout, length: int | None = None) -> Layout:
    def check(value: Any, key: str) -> None:
        _of(list, "a list")(value, key)
        if length is not None and len(value) != length:
            raise ValueError(f"{key} has {len(value)} values and not {length}")
        for index, entry in enumerate(value):
            layout(entry, f"{key}[{index}]")

    return check


def _named(layout: Layout) -> Layout:
    def check(value: Any, key: str) -> None:
        _of(dict, "an object")(value, key)
        for name, entry in value.items():
            layout(entry, f"{key}.{name}" if key else name)

    return check


def _object(required: dict[str, Layout], optional: dict[str, Layout] | None = None) -> Layout:
    def check(value: Any, key: str) -> None:
        _of(dict, "an object")(value, key or "the file")
        for name, layout in {**required, **(optional or {})}.items():
            path = f"{key}.{name}" if key else name
            if name in value:
                layout(value[name], path)
            elif name in required:
                raise ValueError(f"{path} is missing")

    return check


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return ("an object" if isinstance(value, dict) else "a list") if value else "empty"
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:40]}..."


# -- files ------------------------------------------------------------------------------------------------------------

_OPTIONS = _named(_anything)
_SCORED = {
    "name": _text,
    "version": _count,
    "scorer": _one_of(SCORERS),
    "scorer_options": _OPTIONS,
    "output": _one_of(("text", "speech")),
    "language": _text,
    "description": _text,
}
_NAMES = dict.fromkeys(("name", "revision", "table", "audio_folder", "separator"), _optional(_text))
_SOURCE_OPTIONS = {"split": _optional(_text), "hint": _text, "expected": _optional(_count), **_NAMES}
_SOURCE = _object({"path": _text, "columns": _named(_anything)}, _SOURCE_OPTIONS)
_JUDGE = _object({}, {"prompt": _text, "parser": _optional(_text), "samples": _count, "temperature": _amount})
_ASKED = {"source": _SOURCE, "prompt": _text, "judge": _JUDGE, "generation": _OPTIONS, "instruction": _text}
_RUN = {
    "model": _OPTIONS,
    "transcriber": _optional(_OPTIONS),
    "judge": _optional(_OPTIONS),
    "fingerprint": _text,
    "n_expected": _count,
}
_METRIC = _object(
    {
        **dict.fromkeys(("value", "low", "high"), _optional(_number)),
        "unit": _text,
        "higher_is_better": _flag,
        "n": _count,
    }
)
_SPEED = {
    **dict.fromkeys(("seconds", "audio_seconds"), _amount),
    **dict.fromkeys(("real_time_factor", "forward_passes", "forward_passes_per_audio_second"), _optional(_amount)),
}
_JUDGEMENT = _object(
    {"score": _optional(_number), "raw": _text},
    {
        "error": _optional(_text),
        "prompt_tokens": _count,
        "completion_tokens": _count,
        "about": _one_of(("text", "transcript")),
    },
)
# Name of a file, without its suffix and the number of a part -> its layout, or that of its lines.
LAYOUTS: dict[str, Layout] = {
    "settings": _object(
        {
            **_RUN,
            "task": _object({**_SCORED, **_ASKED}),
            "loaded_from": _text,
            "overrides": _OPTIONS,
            "versions": _OPTIONS,
            "samples": _many(_text),
            "limited": _flag,
        },
        {"judge_price": _optional(_many(_amount, 2))},
    ),
    "results": _object(
        {
            **_RUN,
            "task": _object({**_SCORED, "dataset": _object({"path": _text}, _SOURCE_OPTIONS)}),
            "versions": _OPTIONS,
            **dict.fromkeys(("n_scored", "n_failed", "n_empty", "n_truncated", "n_repetition"), _count),
            "first_failure": _optional(_text),
            "limited": _optional(_object({"n": _count, "of": _count, "note": _text})),
            "headline": _optional(_text),
            "metrics": _named(_METRIC),
            "counts": _named(_amount),
            "speed": _object(_SPEED),
            "judge_cost": _optional(
                _object({"prompt_tokens": _count, "completion_tokens": _count, "price": _optional(_amount)})
            ),
        },
        {"finish_reasons": _named(_count)},
    ),
    "predictions": _object(
        {
            "id": _text,
            "fingerprint": _text,
            "question": _text,
            "references": _many(_text),
            "question_seconds": _optional(_amount),
            "text": _text,
            "audio": _optional(_text),
            "audio_sha256": _optional(_text),
            "audio_seconds": _optional(_amount),
            "finish_reason": _one_of(get_args(FinishReason)),
            "tokens": _count,
            "forward_passes": _count,
            "seconds": _amount,
            "error": _optional(_text),
        }
    ),
    "transcripts": _object({"id": _text, "fingerprint": _text, "text": _text}),
    "judgements": _object({"id": _text, "fingerprint": _text, "judgements": _many(_JUDGEMENT)}),
    # Content of a task file; whether there is such a scorer is said with its options.
    "task": _object({**_SCORED, **_ASKED, "scorer": _text}),
    "scores": _object({"id": _text, "values": _named(_many(_amount, 2)), "counts": _named(_amount)}),
}


def check_layout(name: str, content: Any) -> None:
    """Checks the content of a file, or a line of it.

    Args:
        name: Name of the file; files of other names are not checked.

    Raises:
        ValueError: If it is not as this package writes it; says which key is wrong.
    """
    if layout := LAYOUTS.get(name.split(".", 1)[0]):
        layout(content, "")
