"""The table of all recipe keys in docs/recipe-keys.md, from the dataclasses that read them:

python -m ttt_hf.training.keys > docs/recipe-keys.md
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from .arguments import GROUPS, RecipeTrainingArguments


INTRODUCTION = """# Keys of a recipe

Made by `python -m ttt_hf.training.keys`. Every key may stand in the YAML file of a recipe or behind it on the command
line, `key=value`.
"""
MORE = """
All other keys of transformers' [TrainingArguments][1] may be given, too (`gradient_accumulation_steps`, `bf16`,
`gradient_checkpointing`, `eval_strategy`, `fsdp`, `deepspeed`, ...).

[1]: https://huggingface.co/docs/transformers/main_classes/trainer#transformers.TrainingArguments
"""


def table() -> str:
    """The page, as Markdown."""
    parts = [INTRODUCTION]
    for group in GROUPS:
        first_line = inspect.getdoc(group).split("\n")[0]  # type: ignore[union-attr]
        parts.append(f"\n## {first_line}\n\n| key | default | what it does |\n|---|---|---|\n")
        for entry in dataclasses.fields(group):
            if group is not RecipeTrainingArguments or entry.name in RecipeTrainingArguments.__annotations__:
                explanation = " ".join(entry.metadata["help"].split())
                parts.append(f"| `{entry.name}` | {_default(entry)} | {explanation} |\n")
    return "".join([*parts, MORE])


def _default(entry: dataclasses.Field[Any]) -> str:
    value = entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()
    if isinstance(value, list):
        return ", ".join(f"`{item}`" for item in value)
    words = {None: "none", "": "none", True: "`true`", False: "`false`"}
    return words[value] if isinstance(value, bool | str | None) and value in words else f"`{value}`"


if __name__ == "__main__":
    print(table(), end="")
