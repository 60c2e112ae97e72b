"""The model card of a training: model, data, hyperparameters, curves, scores, and how to load the result."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import torch
import transformers
import yaml
from huggingface_hub import ModelCard, ModelCardData

from .. import __version__
from ..atomic_files import atomic_write, atomic_write_text
from ..loading import find_folder
from ..names import EMBEDDED_NAME, EMBEDDED_NAMES
from .arguments import ModelArguments, Recipe
from .provenance import Run, changed_keys


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


def write_card(recipe: Recipe, runs: Sequence[Run], state: Any) -> Path:
    """Writes `README.md` and, if matplotlib is installed, `curves.png` to the recipe's `output_dir`.

    Args:
        runs: What trained the model; its keys, data and steps are the card's.
        state: The Trainer's state, of which `log_history`, `global_step`, `epoch` and `best_global_step` are used.

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
    # Later steps did not train the weights of the best checkpoint.
    last_step = state.best_global_step if recipe.training.load_best_model_at_end else None
    parts = _parts(runs, last_step or state.global_step)
    # A name that the template misspells is an error, not an empty place in the card.
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        metadata=_metadata(recipe, parts).to_yaml(),
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
        parts=parts,
        best_step=last_step,
        state=state,
        curves=CURVES_FILE if has_curves else None,
        scores={words: value for words, value in scores.items() if value is not None},
        versions={"ttt-hf": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
    )
    atomic_write_text(out / CARD_FILE, text)
    return out / CARD_FILE


def _parts(runs: Sequence[Run], last_step: int) -> list[dict[str, Any]]:
    """What the template shows of each run: its steps, keys, seeds and data."""
    # A training of no steps is described by the run that was to do them.
    used = [run for run in runs if run.first_step < last_step] or runs[-1:]
    parts = []
    for run, end in zip(used, [*(run.first_step for run in used[1:]), last_step]):
        keys = changed_keys(run.keys or {})
        for name in ("train_data", "eval_data"):
            # As a recipe would say it.
            if name in keys and len(keys[name]) == 1 and keys[name][0].keys() == {"path"}:
                keys[name] = keys[name][0]["path"]
        seeds = {name: (run.keys or {}).get(name) for name in ("seed", "data_seed")}
        parts.append(
            {
                "first": run.first_step + 1,
                "last": end,
                "is_known": run.keys is not None,
                "keys": yaml.safe_dump(_public(keys), sort_keys=False, allow_unicode=True),
                "seeds": ", ".join(f"`{name}` {seed}" for name, seed in seeds.items() if seed is not None),
                "paths": [source["path"] for source in run.sources],
                "sources": [{**source, "path": _public(source["path"])} for source in run.sources],
            }
        )
    return parts


def draw_curves(log_history: Sequence[Mapping[str, Any]], path: Path) -> bool:
    """Plots losses and accuracies by step.

    Args:
        log_history: The Trainer's log.
        path: Gets the plot, as PNG.

    Returns:
        Whether there was anything to plot.
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


def _metadata(recipe: Recipe, parts: Sequence[Mapping[str, Any]]) -> ModelCardData:
    model = recipe.model
    # A path on this computer, or the model in this package, means nothing to the Hub, which would show it as missing.
    is_local = model.model in EMBEDDED_NAMES or Path(model.model).exists() or Path(model.model).is_absolute()
    base = _base_card(model)
    # A licence without a name of the Hub has one of its own, and a link.
    names = ("license",) if model.license else ("license", "license_name", "license_link")
    licence = {name: model.license or base.get(name) for name in names}
    paths = dict.fromkeys(path for part in parts for path in part["paths"])
    return ModelCardData(
        base_model=None if is_local else model.model,
        base_model_relation=None if is_local else "adapter" if model.lora_rank else "finetune",
        **licence,
        language=model.language or base.get("language"),
        library_name="peft" if model.lora_rank else "transformers",
        pipeline_tag="any-to-any",
        tags=["ttt", "ttt-hf", "speech", *(["lora"] if model.lora_rank else [])],
        datasets=[path for path in paths if _is_on_hub(path)] or None,
    )


def _base_card(model: ModelArguments) -> dict[str, Any]:
    """The metadata of the base model's card; empty without one, or if it cannot be read."""
    try:
        return ModelCard.load(find_folder(model.model, model.revision) / CARD_FILE).data.to_dict()
    except (OSError, ValueError, yaml.YAMLError):
        return {}


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
