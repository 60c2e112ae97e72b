"""The method behind the numbers of a task: data, scorer, transcriber, judge, speed; in words and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..scoring.rules import ALIGNMENT_COUNTS
from .run_data import without_paths
from .terminal import format_number


# Counts with columns of their own in the table of results.
IN_TABLE = ("failed", "empty", "truncated", "repetitions")
SETTINGS = ("task", "model", "transcriber", "judge", "versions", "fingerprint")


def method_of(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How a task was scored, as names and values; what is not known is left out.

    Args:
        results: Content of `results.json`.
    """
    task, data, speed = results["task"], results["task"]["dataset"], results["speed"]
    cost = results["judge_cost"]
    method = {
        "Data": " ".join(str(without_paths(data[key])) for key in ("path", "name", "split") if data.get(key)),
        "Revision": str(data.get("revision") or ""),
        "Scorer": task["scorer"],
        "Reply": f"{task['output']}, {task['language']}",
        "Replies ended by": ", ".join(f"{name} {n}" for name, n in results.get("finish_reasons", {}).items()),
        "Transcriber": _described(results["transcriber"]),
        "Judge": _described(results["judge"]),
        "Judge's tokens": f"{cost['prompt_tokens']} read, {cost['completion_tokens']} written" if cost else "",
        "Judge's price": f"{cost['price']:g}" if cost and cost["price"] is not None else "",
        "Real-time factor": _known(speed["real_time_factor"]),
        "Passes per second of speech": _known(speed["forward_passes_per_audio_second"]),
        "Time": f"{speed['seconds']:.1f} s" if speed["seconds"] else "",
        **{
            # The counts of an alignment are shown even if they are 0, defects only where there are any.
            name.replace("_", " ").capitalize(): f"{count:g}"
            for name, count in results["counts"].items()
            if name in ALIGNMENT_COUNTS or (count and name not in IN_TABLE)
        },
    }
    # All rows were written as if everything were known: empty ones are dropped here.
    return [(name, value) for name, value in method.items() if value]


def description_of(results: Mapping[str, Any]) -> str:
    """The task's description with a capital letter; may be empty."""
    text = str(results["task"]["description"])
    # Not capitalize(), which would lower the case of all other letters.
    return text[:1].upper() + text[1:]


def settings_of(results: Mapping[str, Any]) -> str:
    """All settings and versions behind the numbers of a task, as indented JSON without paths."""
    return json.dumps(
        without_paths({key: results[key] for key in SETTINGS if results[key] is not None}),
        indent=2,
        ensure_ascii=False,
    )


def _described(part: Mapping[str, Any] | None) -> str:
    if part is None:
        return ""
    return ", ".join(
        f"{key} {value}" if key not in ("name", "model") else str(value)
        for key, value in without_paths(part).items()
        # Lists and nested settings are in the JSON below; a bool is an int, too.
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    )


def _known(value: float | None) -> str:
    return "" if value is None else format_number(value)
