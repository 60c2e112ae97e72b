"""Scores in the metadata of a model card (`model-index`), from which the Hub shows them.

Fractions are written in percent: so do the Hub's documentation and the cards of speech models (`type: wer`,
`value: 20.90`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index

from ...atomic_files import atomic_write
from .terminal import in_printed_unit, model_name


# Metrics with an identifier on the Hub.
HUB_METRICS = ("wer", "cer", "accuracy")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
KEY = "model-index"
# The line of KEY with the indented lines and list items below it, comments among them included.
BLOCK = re.compile(rf"^['\"]?{KEY}['\"]?\s*:[^\n]*\n(?:(?:#[^\n]*\n|\s*\n)*[ \t-][^\n]*\n)*", re.M)
Entry = dict[str, Any]


def update_model_card(readme: Path, results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Writes scores into the metadata of a model card; everything else in the file stays as it is, byte for byte.

    Scores of the same task, data set and metric are replaced, others are kept, so that writing twice changes nothing.
    Tasks without a headline, such as limited runs, are left out.

    Args:
        readme: `README.md` of the model; made if it does not exist.
        results: Content of each `results.json`.

    Returns:
        Names of the tasks that were written.
    """
    complete = [entry for entry in results if entry["headline"] is not None]
    if not complete:
        raise ValueError(
            "There is no score that a model card could show, since no task was run and scored to its end: run the "
            "evaluation without --limit."
        )
    # 1. Read bytes: in text mode, Python would change the line ends.
    text = readme.read_bytes().decode("utf-8") if readme.is_file() else ""
    newline = "\r\n" if "\r\n" in text else "\n"
    metadata, body = _split(text)
    content = _read_metadata(metadata, readme)
    # 2. Add the scores to the parsed metadata.
    index = content.setdefault(KEY, [])
    for entry in complete:
        _add(index, entry)
    # 3. Replace the text of this one key: writing all of the YAML anew would lose comments and formatting.
    block = yaml.safe_dump({KEY: index}, sort_keys=False, allow_unicode=True).replace("\n", newline)
    metadata = _replace_block(metadata, block)
    # 4. Parse the result to be sure that the text was cut where the key ends.
    if _read_metadata(metadata, readme) != content:
        raise ValueError(f"The metadata of {readme} are written in a way that would be lost: put {KEY} at their end.")
    with atomic_write(readme) as part:
        part.write_bytes(f"---{newline}{metadata}---{newline}{body}".encode())
    return [entry["task"]["name"] for entry in complete]


def eval_results(results: Mapping[str, Any]) -> list[EvalResult]:
    """The metrics of one task as the Hub's `EvalResult`, the headline first.

    Args:
        results: Content of `results.json`.
    """
    task, data, headline = results["task"], results["task"]["dataset"], results["headline"]
    metrics = {name: in_printed_unit(metric) for name, metric in results["metrics"].items()}
    is_recognition = task["scorer"] in ("wer", "cer", "mer") and task["output"] == "text"
    # A relative path to local data can look like a Hub id.
    path = data["path"] if HUB_ID.fullmatch(data["path"]) and not Path(data["path"]).exists() else None
    return [
        EvalResult(
            task_type="automatic-speech-recognition" if is_recognition else "audio-text-to-text",
            dataset_type=path or task["name"],
            dataset_name=path or task["name"],
            dataset_config=data.get("name"),
            dataset_split=data.get("split"),
            dataset_revision=data.get("revision"),
            # To the Hub, `accuracy_speech` is an accuracy.
            metric_type=next((known for known in HUB_METRICS if name.split("_")[0] == known), name),
            metric_name=f"{task['name']}: {name}",
            metric_value=round(metric["value"], 4),
            metric_args={
                "unit": metric["unit"],
                "task_version": task["version"],
                "scorer": task["scorer"],
                "samples": results["n_scored"],
                "interval_95": [None if end is None else round(end, 4) for end in (metric["low"], metric["high"])],
            },
        )
        # The key is False, which sorts first, for the headline alone.
        for name, metric in sorted(metrics.items(), key=lambda item: item[0] != headline)
        if metric["value"] is not None
    ]


def _split(text: str) -> tuple[str, str]:
    """Metadata between the first two lines of dashes, empty if the file does not begin with one, and the rest."""
    # Windows editors may write a byte order mark first.
    match = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", text, re.S | re.M)
    return (match[1], text[match.end() :]) if match else ("", text)


def _read_metadata(metadata: str, readme: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(metadata) or {}
        index = content[KEY] = content.get(KEY) or []
        # Anything but a list of named models with lists of results raises one of the errors below, or is no match.
        if all(isinstance(entry["name"], str) and isinstance(entry["results"], list) for entry in index):
            return content
    except (yaml.YAMLError, AttributeError, KeyError, TypeError):
        pass
    raise ValueError(f"The metadata of {readme}, between the lines of dashes, cannot be read: correct its {KEY}.")


def _add(index: list[Entry], results: Mapping[str, Any]) -> None:
    name = model_name(results)
    # A card describes one model, whatever its folder was called when it was scored.
    model = next((entry for entry in index if entry["name"] == name), index[0] if len(index) == 1 else None)
    if model is None:
        model = {"name": name, "results": []}
        index.append(model)
    # Results are grouped by task and data set, each with its list of metrics.
    for new in eval_results_to_model_index(model["name"], eval_results(results))[0]["results"]:
        old = next((entry for entry in model["results"] if _dataset(entry) == _dataset(new)), None)
        if old is None:
            model["results"].append(new)
            continue
        fresh = {_metric(metric): metric for metric in new["metrics"]}
        # In their old order, so that writing twice changes nothing.
        replaced = [fresh.pop(_metric(metric), metric) for metric in old.get("metrics", [])]
        old["metrics"] = [*replaced, *fresh.values()]


def _dataset(entry: Entry) -> tuple[Any, ...]:
    data = entry.get("dataset") or {}
    kind = (entry.get("task") or {}).get("type")
    # Not the name of the data set, which is for display.
    return kind, *(data.get(key) for key in ("type", "config", "split", "revision"))


def _metric(metric: Entry) -> tuple[Any, Any]:
    return metric.get("type"), metric.get("name")


def _replace_block(metadata: str, block: str) -> str:
    """Replaces `model-index` in the metadata, or appends it; comments between keys stay."""
    if match := BLOCK.search(metadata):
        return metadata[: match.start()] + block + metadata[match.end() :]
    return metadata + block
