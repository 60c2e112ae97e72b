"""`ttt-hf train`: fine-tune or train a model by a recipe."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from .errors import UsageError


EXAMPLES = """examples:
  ttt-hf train lora_asr train_data=recordings output_dir=adapter
  ttt-hf train lora_chat train_data=dialogues.jsonl output_dir=chat-adapter lora_rank=32
  ttt-hf train my-recipe.yaml learning_rate=1e-4
"""


def add_parser(verbs: Any) -> None:
    """Adds the verb to the command line."""
    from ..training.recipes import recipe_names

    parser = verbs.add_parser(
        "train",
        help="fine-tune a model on your data, by a recipe",
        description="Trains by a recipe, into its output_dir. Run it again to resume after an interruption.",
        epilog=EXAMPLES + f"recipes in this package: {', '.join(recipe_names())}\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file, or the name of a recipe in this package")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="keys of the recipe to change")
    parser.add_argument("--json", action="store_true", help="print the metrics as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Trains a model by a recipe."""
    from .quiet import silence, silence_transformers

    with silence():
        try:
            from ..training.arguments import load_recipe
            from ..training.finetuning import train
        except ModuleNotFoundError as error:
            raise ImportError(f"Training needs {error.name}: pip install 'ttt-hf[train]'.") from error
        try:
            # Apart from the training: only errors in the recipe are errors of usage.
            recipe = load_recipe(args.recipe, args.overrides)
        except (FileNotFoundError, ValueError) as error:
            raise UsageError(str(error)) from error
        # After the recipe: the Trainer's progress bar depends on the level of transformers' messages when it is read.
        silence_transformers()
        metrics = train(recipe)
    if int(os.environ.get("RANK", "0")):  # of several processes, the first one reports
        return
    if args.json:
        print(json.dumps({**metrics, "output_dir": recipe.training.output_dir}))
    else:
        print(f"{recipe.training.output_dir}: train_loss {metrics['train_loss']:.4f}")
