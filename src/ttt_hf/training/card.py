"""The model card of a training: model, data, hyperparameters, curves, scores, and how to load the result."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import jinja2
import torch
import transformers
import yaml
from huggingface_hub import ModelCardData

from .. import __version__
from ..atomic_files import atomic_write, atomic_write_text
from ..names import EMBEDDED_NAME, EMBEDDED_NAMES
from .arguments import Recipe, parse_recipe


logger = logging.getLogger(__name__)

TEMPLATE = Path(__file__).with_name("card.md.jinja")
CARD_FILE, CURVES_FILE = "README.md", "curves.png"
# Metrics in the plot, one panel per unit.
CURVES = {
    "loss": ("text_loss", "audio_loss", "eval_loss"),
    "accuracy": ("text_accuracy", "audio_accuracy_40_60", "end_accuracy"),
    "word error rate": ("spoken_wer",),
}
SCORES = {
    "eval_loss": "`eval_loss`, on the evaluation data",
    "spoken_wer": "`spoken_wer`, word error rate of the text of sample replies during training",
}
# Keys that describe a computer or its user, not the model.
PRIVATE_KEYS = ("output_dir", "logging_dir", "run_name", "resume_from_checkpoint", "hub_token")


def write_card(recipe: Recipe, sources: Sequence[Mapping[str, Any]], state: Any) -> Path:
    """Writes `README.md` and, if matplotlib is installed, `curves.png` to the recipe's `output_dir`.

    Args:
        sources: The training data: `path` and, if known, `task`, `ratio`, `rows` and `seconds` (of audio).
        state: The Trainer's state, of which `log_history`, `global_step` and `epoch` are used.

    Returns:
        Path of the card.
    """
    out = Path(recipe.training.output_dir)
    try:
        has_curves = draw_curves(state.log_history, out / CURVES_FILE)
    except ModuleNotFoundError as error:
        logger.info("the model card has no curves without %s: pip install 'ttt-hf[train]'", error.name)
        has_curves = False
    model = recipe.model
    revision = {"revision": model.revision} if model.revision else {}
    scores = {words: last_value(state.log_history, name) for name, words in SCORES.items()}
    # A name that the template misspells is an error, not an empty place in the card.
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        metadata=_metadata(recipe, sources).to_yaml(),
        name=out.resolve().name,
        embedded=model.model in EMBEDDED_NAMES,
        base=EMBEDDED_NAME if model.model in EMBEDDED_NAMES else _public(model.model),
        is_adapter=bool(model.lora_rank),
        # Without these arguments the result would be loaded in another dtype or with another audio attention.
        loading="".join(
            f", {key}={json.dumps(value)}"
            for key, value in {"dtype": model.dtype, **revision, **model.audio_settings()}.items()
        ),
        codec=_public(model.codec),
        block_length=model.audio_block_length,
        sources=[{**source, "path": _public(source["path"])} for source in sources],
        state=state,
        keys=yaml.safe_dump(changed_keys(recipe), sort_keys=False, allow_unicode=True),
        curves=CURVES_FILE if has_curves else None,
        scores={words: value for words, value in scores.items() if value is not None},
        versions={"ttt-hf": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
    )
    atomic_write_text(out / CARD_FILE, text)
    return out / CARD_FILE


def changed_keys(recipe: Recipe) -> dict[str, Any]:
    """The keys of a recipe that differ from their defaults and affect the model.

    Returns:
        Keys and values, in types of YAML; paths are reduced to their last part.
    """
    # Parsed rather than read from the fields, since TrainingArguments derive some defaults from others.
    defaults = parse_recipe({"output_dir": recipe.training.output_dir})
    changed = {}
    for group in ("model", "data", "objective", "training"):
        given, default = getattr(recipe, group), getattr(defaults, group)
        for entry in dataclasses.fields(given):
            value = getattr(given, entry.name)
            if value == getattr(default, entry.name) or entry.name in PRIVATE_KEYS:
                continue
            # Data are as structured as in the recipe.
            if group == "data" and isinstance(value, str) and value.startswith(("[", "{")):
                value = json.loads(value)
            value = _public(value.value if isinstance(value, Enum) else value)
            # Other types, such as objects of accelerate, have no form in YAML.
            if isinstance(value, str | int | float | list | dict | None):
                changed[entry.name] = value
    return changed


def draw_curves(log_history: Sequence[Mapping[str, Any]], path: Path) -> bool:
    """Plots losses and accuracies by step.

    Args:
        log_history: The Trainer's log.
        path: Gets the plot, as PNG.

    Returns:
        Whether there was anything to plot.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
    """
    # Not through pyplot, which would select a display backend.
    from matplotlib.figure import Figure

    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for unit, names in CURVES.items():
        for name in names:
            points = [(entry["step"], entry[name]) for entry in log_history if name in entry]
            if points:
                panels.setdefault(unit, {})[name] = points
    if not panels:
        return False
    figure = Figure(figsize=(5 * len(panels), 3.6), layout="constrained")
    for axes, (unit, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        # With few points, markers show them: a single one makes no line.
        for name, points in curves.items():
            axes.plot(*zip(*points), label=name, linewidth=1.5, marker="." if len(points) < 30 else "")
        axes.set(xlabel="step", ylabel=unit, ylim=(0, None))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    with atomic_write(path) as part:
        figure.savefig(part, format="png", dpi=120)
    return True


def last_value(log_history: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Last logged value of a metric, if any."""
    return next((entry[name] for entry in reversed(log_history) if name in entry), None)


def _metadata(recipe: Recipe, sources: Sequence[Mapping[str, Any]]) -> ModelCardData:
    model = recipe.model.model
    # A path on this computer means nothing to the Hub, which would show it as a missing model.
    is_local = Path(model).exists() or Path(model).is_absolute()
    is_adapter = bool(recipe.model.lora_rank)
    return ModelCardData(
        base_model=EMBEDDED_NAME if model in EMBEDDED_NAMES else None if is_local else model,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="any-to-any",
        tags=["ttt", "ttt-hf", "speech", *(["lora"] if is_adapter else [])],
        datasets=[path for path in dict.fromkeys(source["path"] for source in sources) if _is_on_hub(path)] or None,
    )


def _is_on_hub(path: str) -> bool:
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", path)) and not Path(path).exists()


def _public(value: Any) -> Any:
    """A value without the leading folders of its paths, which are specific to a computer and its user."""
    if isinstance(value, list):
        return [_public(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _public(entry) for key, entry in value.items()}
    is_path = isinstance(value, str) and value and (Path(value).is_absolute() or Path(value).exists())
    return Path(value).name if is_path else value
