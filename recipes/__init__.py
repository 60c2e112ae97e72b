"""From-scratch recipes, run from the repository (`python -m recipes.tiny`); not in the wheel."""
