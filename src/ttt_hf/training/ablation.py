"""The ablation of the paper (arXiv 2509.20072) on your own data: trains the `ablation` recipes, writes one table.

python -m ttt_hf.training.ablation train_data=dialogues eval_data=held_out output_dir=ablation max_steps=500
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..atomic_files import atomic_write_text
from ..data.collator import UNTRUNCATED_CODES, diffused_runs
from ..modeling import TtTConfig
from .arguments import load_recipe
from .finetuning import RESULTS_FILE, check_history, train, training_samples
from .recipes import recipe_names


logger = logging.getLogger(__name__)

GROUP = "ablation/"
COLUMNS = {
    "eval_loss": "loss",
    "eval_text_loss": "text loss",
    "eval_text_accuracy": "text accuracy",
    "eval_audio_loss": "audio loss",
    "eval_audio_accuracy_80_100": "audio accuracy, 80-100 % masked",
}
NOTE = (
    "All rows are measured with the same noise on the same data: text after clean audio, and audio at all noise "
    "levels after a clean prefix, in spans that are seen in both directions. `ar` and `nar` do not train this: "
    "compare their replies, too (`ttt-hf eval`)."
)


def run_ablation(overrides: Sequence[str]) -> dict[str, dict[str, float]]:
    """Trains and evaluates each of the `ablation` recipes, skipping finished ones.

    Args:
        overrides: `key=value` strings for all recipes, which must include `train_data`, `eval_data` and `output_dir`.
            Each recipe gets a subfolder of `output_dir`; `ablation.md` there is the table.

    Returns:
        The metrics of each recipe, by its name without `ablation/`.
    """
    names = [name for name in recipe_names() if name.startswith(GROUP)]
    # All recipes take the same keys: checked before the first training, not after hours of it.
    recipe = load_recipe(names[0], overrides)
    if not (recipe.data.train_data and recipe.data.eval_data):
        raise ValueError("The ablation needs data to train on and to compare with: train_data=DIR eval_data=DIR.")
    if not any(override.startswith("output_dir=") for override in overrides):
        raise ValueError("The ablation needs a folder for its models: output_dir=DIR.")
    out = Path(recipe.training.output_dir)
    recipes = {
        name.removeprefix(GROUP): load_recipe(name, [*overrides, f"output_dir={out / name.removeprefix(GROUP)}"])
        for name in names
    }
    # Before the first training, too: folders of other keys or data than those that are named now.
    for single in recipes.values():
        check_history(single)
    table: dict[str, dict[str, float]] = {}
    for name, single in recipes.items():
        logger.info("recipe %s%s", GROUP, name)
        # One that is finished gives the metrics that it had.
        train(single)
        # Read back, so that finished and new recipes give the same numbers.
        table[name] = json.loads((out / name / RESULTS_FILE).read_text(encoding="utf-8"))
    notes = [NOTE, *without_effect(*training_samples(recipes["paper"]))]
    atomic_write_text(out / "ablation.md", as_table(table) + "".join(f"\n{note}\n" for note in notes))
    return table


def as_table(metrics: dict[str, dict[str, float]]) -> str:
    """A Markdown table of metrics by recipe, one row per recipe, with a dash for metrics that the data do not have."""
    lines = [["recipe", *COLUMNS.values()], ["---"] * (len(COLUMNS) + 1)]
    for name, row in metrics.items():
        lines.append([name, *(f"{row[key]:.4g}" if key in row else "-" for key in COLUMNS)])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def without_effect(samples: Iterable[Mapping[str, Any]], config: TtTConfig) -> list[str]:
    """Says which strategies of the paper cannot change anything on samples, as `prepare_samples` makes them.

    Returns:
        Sentences for readers of the table; none if each may have an effect.
    """
    spans, codes = 0, 0
    for sample in samples:
        runs = diffused_runs(sample["labels"], config, "paper")
        spans = max(spans, len(runs))
        # Without the end marker.
        codes = max(codes, runs[-1][1] - runs[-1][0] - 1 if runs else 0)
    if not spans:
        return [
            "No reply holds audio: `paper` and its variants cannot differ, since their strategies concern the noise "
            "of audio."
        ]
    notes = []
    if spans == 1:
        notes.append(
            "No reply has more than one span of audio: `paper_without_ppm` differs from `paper` by chance alone, "
            "since PPM keeps clean what lies before another span."
        )
    if codes <= UNTRUNCATED_CODES:
        notes.append(
            f"No reply ends in a span of more than {UNTRUNCATED_CODES} codes: `paper_without_sst` differs from "
            "`paper` by chance alone, since SST truncates only longer ones."
        )
    return notes


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
