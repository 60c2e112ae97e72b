"""The ablation of the paper (arXiv 2509.20072) on your own data: trains the `ablation` recipes, writes one table.

python -m ttt_hf.training.ablation train_data=dialogues eval_data=held_out output_dir=ablation max_steps=500
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ..atomic_files import atomic_write_text
from .arguments import load_recipe
from .finetuning import train
from .recipes import recipe_names


logger = logging.getLogger(__name__)

GROUP = "ablation/"
# Audio losses of different objectives are not comparable, since the objectives mask differently.
COLUMNS = {
    "eval_text_loss": "text loss",
    "eval_text_accuracy": "text accuracy",
    "eval_audio_loss": "audio loss",
    "eval_audio_accuracy_80_100": "audio accuracy, 80-100 % masked",
    "train_runtime": "seconds",
}


def run_ablation(overrides: Sequence[str]) -> dict[str, dict[str, float]]:
    """Trains and evaluates each of the `ablation` recipes, skipping finished ones.

    Args:
        overrides: `key=value` strings for all recipes, which must include `train_data`, `eval_data` and `output_dir`.
            Each recipe gets a subfolder of `output_dir`; `ablation.md` there is the table.

    Returns:
        The metrics of each recipe, by its name without `ablation/`.

    Raises:
        OSError: If data cannot be read, see `train`.
        ValueError: If data or keys cannot be used, see `train`.
    """
    names = [name for name in recipe_names() if name.startswith(GROUP)]
    # All recipes take the same keys: checked before the first training, not after hours of it.
    recipe = load_recipe(names[0], overrides)
    if not (recipe.data.train_data and recipe.data.eval_data):
        raise ValueError("The ablation needs data to train on and to compare with: train_data=DIR eval_data=DIR.")
    if not any(override.startswith("output_dir=") for override in overrides):
        raise ValueError("The ablation needs a folder for its models: output_dir=DIR.")
    out = Path(recipe.training.output_dir)
    table: dict[str, dict[str, float]] = {}
    for name in names:
        folder = out / name.removeprefix(GROUP)
        results = folder / "all_results.json"
        # Written once the model is saved: a recipe without it is trained, or resumed where it was interrupted.
        if results.is_file():
            logger.info("%s is already trained", folder)
        else:
            logger.info("training %s", name)
            train(load_recipe(name, [*overrides, f"output_dir={folder}"]))
        # Read back, so that finished and new recipes give the same numbers.
        table[folder.name] = json.loads(results.read_text(encoding="utf-8"))
    atomic_write_text(out / "ablation.md", as_table(table))
    return table


def as_table(metrics: dict[str, dict[str, float]]) -> str:
    """A Markdown table of metrics by recipe, one row per recipe, with a dash for metrics that an objective lacks."""
    lines = [["recipe", *COLUMNS.values()], ["---"] * (len(COLUMNS) + 1)]
    for name, row in metrics.items():
        lines.append([name, *(f"{row[key]:.4g}" if key in row else "-" for key in COLUMNS)])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main(words: Sequence[str] | None = None) -> None:
    """Command line: `key=value` overrides for all recipes, by default those of the process."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        table = run_ablation(sys.argv[1:] if words is None else words)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    print(as_table(table), end="")


if __name__ == "__main__":
    main()
