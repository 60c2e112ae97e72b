"""Uploads a trained model or adapter to the Hub: what others need to use and judge it, and none of the user's data."""

from __future__ import annotations

from pathlib import Path

from transformers import TrainingArguments

from ..uploads import files_to_push, upload_files


def check_push(arguments: TrainingArguments) -> None:
    """Checks before the training that its result can be uploaded after it."""
    from huggingface_hub import get_token

    # The Trainer's own uploads take the whole folder, checkpoints included. Ignoring the keys would be silent.
    if arguments.hub_strategy != "end" or arguments.hub_always_push or arguments.hub_revision:
        raise ValueError(
            "push_to_hub uploads the finished model once, to the main branch: leave out hub_strategy, hub_always_push "
            "and hub_revision."
        )
    if not (arguments.hub_token or get_token()):
        raise PermissionError("push_to_hub needs a token of the Hub: log in with `hf auth login`, or leave it out.")


def push_model(arguments: TrainingArguments) -> str:
    """Uploads what a training made, in one commit, into a repository that is private by default.

    Args:
        arguments: `output_dir`, `hub_model_id` (by default the name of `output_dir`), `hub_private_repo` (by default
            true), `hub_token`.

    Returns:
        URL of the commit.
    """
    folder = Path(arguments.output_dir)
    # None is transformers' default, and means the organisation's; here a model is public only if the user says so.
    is_private = arguments.hub_private_repo is not False
    return upload_files(
        arguments.hub_model_id or folder.absolute().name,
        files_to_push(folder),
        "Model trained with ttt-hf",
        private=is_private,
        token=arguments.hub_token,
    )
