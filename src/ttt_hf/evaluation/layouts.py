"""Layouts of the files of a run, checked whenever one is read: a damaged file is named with the key that is wrong.

A layout is a type, or a dict with the layouts of an object's keys. A key whose name ends in `?` may be missing, and
further keys are allowed, since another version may have written them.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from .concepts import FinishReason, Judgement, Task


# Larger numbers are no counts, times or scores, and overflow in arithmetic.
LARGEST = 1e15
NAMES = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


def parse_json(content: bytes) -> Any:
    """Parses JSON; refuses numbers that are not finite, broken Unicode, and what is nested too deeply."""
    try:
        value = json.loads(content, parse_constant=_refuse_number, parse_float=_finite)
        if b"\\u" in content:
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        raise ValueError("it holds broken Unicode, half of a surrogate pair") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    # Beyond the range of a float, numbers would be read as infinite.
    return float(text) if math.isfinite(float(text)) else _refuse_number(text)


def check_layout(name: str, content: Any) -> None:
    """Checks the content of a file, or a line of it, by the file's name."""
    if layout := LAYOUTS.get(name.split(".", 1)[0]):
        check_type(content, layout)


def check_type(value: Any, kind: Any, key: str = "") -> None:
    """Checks a JSON value; the `ValueError` says which key is wrong.

    Args:
        value: The value.
        kind: Its layout. Types are those of JSON (an `int` is a count, 0 or more), `Any`, `Literal`, lists, pairs and
            mappings, dataclasses and `TypedDict`, and one of these that is optional or, in its place, a text.
        key: Path of keys that leads to the value, for messages.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        others = [part for part in parts if part is not NoneType]
        if value is not None or len(others) == len(parts):
            check_type(value, str if isinstance(value, str) and str in parts else others[-1], key)
    elif origin is Literal:
        if value not in parts:
            raise ValueError(f"{key} is {_shown(value)} and not one of {', '.join(parts)}")
    elif origin in (list, tuple, Sequence):
        _check_plain(value, list, key)
        if origin is tuple and len(value) != len(parts):
            raise ValueError(f"{key} has {len(value)} values and not {len(parts)}")
        for index, entry in enumerate(value):
            check_type(entry, parts[0], f"{key}[{index}]")
    elif origin in (dict, Mapping):
        _check_plain(value, dict, key)
        for name, entry in value.items():
            check_type(entry, parts[1], f"{key}.{name}" if key else name)
    elif isinstance(kind, dict) or dataclasses.is_dataclass(kind) or is_typeddict(kind):
        _check_plain(value, dict, key)
        for name, layout in (kind if isinstance(kind, dict) else _fields(kind)).items():
            name, is_optional = name.rstrip("?"), name.endswith("?")
            path = f"{key}.{name}" if key else name
            if name in value:
                check_type(value[name], layout, path)
            elif not is_optional:
                raise ValueError(f"{path} is missing")
    elif kind is not Any:
        _check_plain(value, kind, key)


def _fields(kind: Any) -> dict[str, Any]:
    """The layout of a dataclass, whose fields with a default may be missing, or of a `TypedDict`, whose keys may."""
    required = [
        entry.name
        for entry in (() if is_typeddict(kind) else dataclasses.fields(kind))
        if entry.default is entry.default_factory is dataclasses.MISSING
    ]
    return {name if name in required else f"{name}?": layout for name, layout in get_type_hints(kind).items()}


def _check_plain(value: Any, kind: Any, key: str) -> None:
    # `True` is an `int` in Python, and a whole number is a number.
    if not isinstance(value, (int, float) if kind is float else kind) or (
        isinstance(value, bool) and kind is not bool
    ):
        raise ValueError(f"{key or 'the file'} is {_shown(value)} and not {NAMES[kind]}")
    if kind is int and value < 0:
        raise ValueError(f"{key} is {value}, less than 0")
    if kind in (int, float) and abs(value) > LARGEST:
        raise ValueError(f"{key} is {_shown(value)}, out of the range of such numbers")


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return ("an object" if isinstance(value, dict) else "a list") if value else "empty"
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


# -- files ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Metric:
    value: float | None
    low: float | None
    high: float | None
    unit: str
    higher_is_better: bool
    n: int


@dataclasses.dataclass
class _Limited:
    n: int
    of: int
    note: str


@dataclasses.dataclass
class _JudgeCost:
    prompt_tokens: int
    completion_tokens: int
    price: float | None


_RUN = {
    "model": dict[str, Any],
    **dict.fromkeys(("transcriber", "judge"), dict[str, Any] | None),
    "versions": dict[str, Any],
    "fingerprint": str,
    "n_expected": int,
}
_LINE = {"id": str, "fingerprint": str}
# Name of a file, without its suffix and the number of a part -> its layout, or that of its lines.
LAYOUTS: dict[str, dict[str, Any]] = {
    "settings": {
        **_RUN,
        "task": Task,
        "loaded_from": str,
        "overrides": dict[str, Any],
        "samples": list[str],
        "limited": bool,
        "judge_price?": tuple[float, float] | None,
    },
    "results": {
        **_RUN,
        "task": {
            **dict.fromkeys(("name", "language", "description", "scorer"), str),
            "version": int,
            "scorer_options": dict[str, Any],
            "output": Literal["text", "speech"],
            "dataset": {"path": str, **dict.fromkeys(("name?", "revision?", "split?"), str | None)},
        },
        **dict.fromkeys(("n_scored", "n_failed", "n_empty", "n_truncated", "n_repetition"), int),
        "finish_reasons?": dict[str, int],
        **dict.fromkeys(("first_failure", "headline"), str | None),
        "limited": _Limited | None,
        "metrics": dict[str, _Metric],
        "counts": dict[str, float],
        "speed": {
            "seconds": float,
            **dict.fromkeys(("real_time_factor", "forward_passes_per_audio_second"), float | None),
        },
        "judge_cost": _JudgeCost | None,
    },
    "predictions": {
        **_LINE,
        **dict.fromkeys(("question", "text"), str),
        "references": list[str],
        **dict.fromkeys(("audio", "audio_sha256", "error"), str | None),
        **dict.fromkeys(("question_seconds", "audio_seconds"), float | None),
        "finish_reason": FinishReason,
        **dict.fromkeys(("tokens", "forward_passes"), int),
        "seconds": float,
    },
    "transcripts": {**_LINE, "text": str},
    "judgements": {**_LINE, "judgements": list[Judgement]},
    "scores": {"id": str, "values": dict[str, tuple[float, float]], "counts": dict[str, float]},
}
