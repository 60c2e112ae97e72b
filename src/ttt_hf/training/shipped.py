"""The recipes that come with this package."""

from __future__ import annotations

from pathlib import Path


RECIPES = Path(__file__).with_name("recipes")
DISTRIBUTED = RECIPES / "distributed"  # no recipes: accelerate's own files


def recipe_names() -> list[str]:
    """Names of the recipes that this package ships, in order."""
    recipes = (path.relative_to(RECIPES) for path in RECIPES.rglob("*.yaml") if path.parent != DISTRIBUTED)
    return sorted(path.with_suffix("").as_posix() for path in recipes)


def recipe_file(name: str) -> Path:
    """Finds a recipe.

    Args:
        name: Path of a YAML file, or the name of a recipe that this package ships (`lora_asr`).

    Returns:
        The file.

    Raises:
        FileNotFoundError: If there is neither; names the recipes that are shipped.
    """
    shipped = RECIPES / f"{name.removesuffix('.yaml')}.yaml"
    for path in (Path(name), shipped):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"There is no recipe {name}: give the path of a YAML file, or one of {', '.join(recipe_names())}."
    )
