"""`ttt-hf train`: fine-tune or train a model by a recipe."""

from __future__ import annotations

import argparse
import json
import logging
from typing import TYPE_CHECKING, Any

from .errors import UsageError


if TYPE_CHECKING:
    from ..training.arguments import Recipe

EXAMPLES = """examples:
  ttt-hf train lora_asr "train_data={path: recordings, task: asr}" output_dir=adapter
  ttt-hf train lora_chat train_data=dialogues.jsonl output_dir=adapter lora_rank=32
  ttt-hf train my-recipe.yaml learning_rate=1e-4
"""


def add_parser(verbs: Any) -> None:
    """Adds the verb to the command line."""
    from ..training.shipped import recipe_names

    parser = verbs.add_parser(
        "train",
        help="fine-tune a model on your data, by a recipe",
        description="Trains by a recipe, into its output_dir. Run it again to go on after an interruption.",
        epilog=EXAMPLES + f"recipes in this package: {', '.join(recipe_names())}\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file, or the name of a recipe in this package")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="keys that differ from the recipe")
    parser.add_argument("--json", action="store_true", help="print the measures as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Trains.

    Args:
        args: As `add_parser` declares them.

    Raises:
        UsageError: If a key or a value of the recipe is wrong.
        OSError, ValueError, RuntimeError, ImportError: If model or data cannot be used, or a step fails.
    """
    from .quiet import silence

    with silence():
        try:
            from ..training.arguments import load_recipe
            from ..training.finetuning import train
        except ModuleNotFoundError as error:
            raise ImportError(f"Training needs {error.name}: pip install 'ttt-hf[train]'.") from error
        try:
            recipe = load_recipe(args.recipe, args.overrides)
        except (FileNotFoundError, ValueError) as error:
            raise UsageError(str(error)) from error
        _check_places(recipe)
        logging.basicConfig(level=logging.INFO, format="ttt-hf: %(message)s")
        measures = train(recipe)
    if args.json:
        print(json.dumps({**measures, "output_dir": recipe.training.output_dir}))
    else:
        print(f"{recipe.training.output_dir}: train_loss {measures['train_loss']:.4f}")


def _check_places(recipe: Recipe) -> None:
    """Finds model and codec, and says what is wrong with them, before anything is loaded."""
    from ..loading import find_checkpoint, find_named_codec, is_adapter

    folder = find_checkpoint(recipe.model.model)
    if is_adapter(folder):
        raise ValueError(
            f"{folder} is an adapter, and adapters are trained on a whole model: name that in model, or merge the "
            "adapter into it first, see docs/training.md."
        )
    if recipe.model.codec:
        find_named_codec(recipe.model.codec)
