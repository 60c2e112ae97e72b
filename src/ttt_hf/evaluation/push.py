"""Uploads results to a model's repository on the Hub: scores into its card, and the files to verify them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..uploads import check_links, upload_errors, upload_files
from .folder import scored_folders
from .identity import is_weights
from .report import MARKDOWN_FILE, read_results, render_markdown, update_model_card
from .report.run_data import without_paths
from .store import write_json


# Folder in the repository. Replies and recordings are not uploaded: many benchmarks may not be redistributed.
HUB_FOLDER = "evaluation"
UNVERIFIED = "give --unverified if the scores belong there nevertheless"
OTHER_SCORES = f"take the scores of the model that is there, or {UNVERIFIED}"


def push_results(folder: Path, repo: str, private: bool = True, verify: bool = True) -> dict[str, Any]:
    """Uploads results in one commit: the model card with the scores, `results.json` and `scores.jsonl` of each task,
    and `report.md` without its examples. Secrets in settings are hidden.

    Args:
        folder: The folder of one task, or of a run with a folder for each task.
        repo: Id of the model's repository; without `verify`, it is created if it does not exist.
        private: Whether a new repository is private.
        verify: Whether the repository must hold the model that was scored.

    Returns:
        `repo`, `url` of the commit, and the `tasks` that were added to the card.
    """
    from huggingface_hub import HfApi

    # Read first: a folder without results must not create a repository.
    results = read_results(folder)
    api = HfApi()
    with tempfile.TemporaryDirectory() as temporary:
        card = Path(temporary) / "README.md"
        # An existing card is completed, so that its text and the scores of other tasks stay.
        with upload_errors(repo):
            if api.file_exists(repo, card.name):
                shutil.copy(api.hf_hub_download(repo, card.name), card)
        # Before the upload: without a headline number, or with a card that cannot be read, nothing is made on the Hub.
        files, names = results_to_push(folder, results, card, Path(temporary))
        if verify:
            with upload_errors(repo):
                _check_models(api, repo, results)
        url = upload_files(repo, files, f"Scores: {', '.join(names)}", private=private)
    return {"repo": repo, "url": url, "tasks": names}


def results_to_push(
    folder: Path, results: Sequence[Mapping[str, Any]], card: Path, made: Path
) -> tuple[dict[str, Path], list[str]]:
    """Writes the scores of a run into a card, and what else of it is uploaded.

    Args:
        folder: As of `push_results`.
        results: Content of each `results.json`, as `read_results` gives them.
        card: The model card; made if it does not exist.
        made: Folder for the other files.

    Returns:
        Path in the repository -> local file, the card among them, and the names of the tasks that are in the card.

    Raises:
        ValueError: If a file is a link out of the folder, there is no headline number, or the card cannot be read.
    """
    tasks = scored_folders(folder)
    check_links(folder, [file for task in tasks for file in (task.results, task.scores)])
    report = made / MARKDOWN_FILE
    report.write_text(render_markdown(folder, with_replies=False), encoding="utf-8")
    names = update_model_card(card, results)
    files = {card.name: card, f"{HUB_FOLDER}/{report.name}": report}
    for number, (task, result) in enumerate(zip(tasks, results, strict=True)):
        # Written again: errors name paths of this machine, and a file of an older version may hold secrets.
        clean = made / f"{number}.json"
        write_json(clean, without_paths(result))
        files[f"{HUB_FOLDER}/{task.path.name}/{task.results.name}"] = clean
        files[f"{HUB_FOLDER}/{task.path.name}/{task.scores.name}"] = task.scores
    return files, names


def _check_models(api: Any, repo: str, results: Iterable[Mapping[str, Any]]) -> None:
    """Checks that the repository holds the models that were scored, each by its commit or by hashes of its weights."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        held = _weights(api.model_info(repo, files_metadata=True))
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"There is no repository {repo} that holds the scored model: push the model first, or {UNVERIFIED}."
        ) from error
    for result in results:
        model = result["model"]
        check_weights(result, model.get("weights") or _weights_at(api, repo, model), held, repo)


def check_weights(
    result: Mapping[str, Any], scored: Mapping[str, str] | None, held: Mapping[str, str], place: str
) -> None:
    """Checks that the model that was scored is the one that is held.

    Args:
        result: Content of `results.json`.
        scored: File -> hash of the weights that were scored, if they are known.
        held: That of the weights that are held.
        place: Where they are: a repository or a folder.

    Raises:
        ValueError: If it is another one, or not known.
    """
    model, task = result["model"], result["task"]["name"]
    if scored is None:
        raise ValueError(
            f"The model of {task}, {model['name']}, is known neither by files nor by a commit of {place}: "
            f"{OTHER_SCORES}."
        )
    if not scored or any(held.get(name) != content for name, content in scored.items()):
        raise ValueError(f"{place} holds other weights than the model that {task} was scored with: {OTHER_SCORES}.")


def _weights_at(api: Any, repo: str, model: Mapping[str, Any]) -> dict[str, str] | None:
    """Hashes of the weights at the commit that was scored; none if it is not one of this repository."""
    from huggingface_hub.errors import RevisionNotFoundError

    if model["name"] != repo or not model.get("revision"):
        return None
    try:
        return _weights(api.model_info(repo, revision=str(model["revision"]), files_metadata=True))
    except RevisionNotFoundError:
        return None


def _weights(info: Any) -> dict[str, str]:
    """File -> hash of the weights of a repository. Large files, as weights are, have their SHA-256 there."""
    return {
        file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id
        for file in info.siblings or ()
        if is_weights(file.rfilename)
    }
