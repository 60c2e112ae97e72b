"""The recipes in this package: YAML files with the keys of a training, and accelerate's files in `distributed`."""

from __future__ import annotations

from pathlib import Path


RECIPES = Path(__file__).parent
DISTRIBUTED = RECIPES / "distributed"  # configuration files of accelerate, not recipes


def recipe_names() -> list[str]:
    """Sorted names of the recipes in this package."""
    recipes = (path.relative_to(RECIPES) for path in RECIPES.rglob("*.yaml") if path.parent != DISTRIBUTED)
    return sorted(path.with_suffix("").as_posix() for path in recipes)


def recipe_file(name: str) -> Path:
    """Finds a recipe.

    Args:
        name: Path of a YAML file, or the name of a recipe in this package (`lora_asr`).
    """
    for path in (Path(name), RECIPES / f"{name.removesuffix('.yaml')}.yaml"):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"There is no recipe {name}: give the path of a YAML file, or one of {', '.join(recipe_names())}."
    )
