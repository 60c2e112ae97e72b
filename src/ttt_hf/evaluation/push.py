"""Uploads results to a model's repository on the Hub: scores into its card, and the files to verify them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from ..uploads import upload_errors, upload_files
from .folder import scored_folders
from .report import MARKDOWN_FILE, read_results, render_markdown, update_model_card


# Folder in the repository. Replies and recordings are not uploaded: many benchmarks may not be redistributed.
HUB_FOLDER = "evaluation"


def push_results(folder: Path, repo: str, private: bool = True) -> dict[str, Any]:
    """Uploads results in one commit: the model card with the scores, `results.json` and `scores.jsonl` of each task,
    and `report.md` without its examples.

    Args:
        folder: The folder of one task, or of a run with a folder for each task.
        repo: Id of the model's repository; created if it does not exist.
        private: Whether a new repository is private.

    Returns:
        `repo`, `url` of the commit, and the `tasks` that were added to the card.

    Raises:
        FileNotFoundError: If there are no results.
        ValueError: If no task has a headline number, or the card cannot be read.
        PermissionError: If the token is missing, or may not write there.
        ConnectionError: If the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    # Read first: a folder without results must not create a repository.
    results = read_results(folder)
    api = HfApi()
    with tempfile.TemporaryDirectory() as temporary:
        card, report = Path(temporary) / "README.md", Path(temporary) / MARKDOWN_FILE
        report.write_text(render_markdown(folder, with_replies=False), encoding="utf-8")
        # An existing card is completed, so that its text and the scores of other tasks stay.
        with upload_errors(repo):
            if api.file_exists(repo, card.name):
                shutil.copy(api.hf_hub_download(repo, card.name), card)
        # Before the upload: without a headline number, or with a card that cannot be read, nothing is made on the Hub.
        tasks = update_model_card(card, results)
        files = {card.name: card, f"{HUB_FOLDER}/{report.name}": report}
        for task in scored_folders(folder):
            for file in (task.results, task.scores):
                files[f"{HUB_FOLDER}/{task.path.name}/{file.name}"] = file
        url = upload_files(repo, files, f"Scores: {', '.join(tasks)}", private=private)
    return {"repo": repo, "url": url, "tasks": tasks}
