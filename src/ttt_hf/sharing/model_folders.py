"""A model, its processor and its codec on the Hub, with a card that holds its scores: one commit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..evaluation.identity import identify
from ..evaluation.push import check_weights, results_to_push
from ..evaluation.report import read_results
from ..loading import base_folder, find_checkpoint, find_codec, is_adapter, read_json
from ..names import ADAPTER_CONFIG_FILE, EMBEDDED_ALIAS, EMBEDDED_NAMES
from ..uploads import files_to_push, upload_files
from .model_cards import CARD_FILE, complete_card


@dataclass(frozen=True)
class ModelUpload:
    """What goes to a repository.

    Attributes:
        files: Path in the repository -> local file.
        tasks: Names of the tasks whose scores are in the card that goes.
        has_codec: Whether who loads it can speak with it.
    """

    files: Mapping[str, Path]
    tasks: tuple[str, ...]
    has_codec: bool


def prepare_model(
    name: str,
    repo: str,
    made: Path,
    scores: Path | None = None,
    verify: bool = True,
    license: str | None = None,
    card: str | None = None,
) -> ModelUpload:
    """Collects what is uploaded of a model, and checks it. Needs no network.

    Args:
        name: Folder of a model or adapter, or an embedded name.
        repo: Id of the repository, which the card names.
        made: Empty folder for the files that are made here: the card and the results.
        scores: Folder of a run of `ttt-hf eval`, whose scores go into the card, and whose results beside it.
        verify: Whether the run must have scored these weights.
        license: Licence for a card that names none, as the Hub calls it.
        card: A card to complete, if the folder has none.

    Raises:
        OSError: If there is no such folder, or a file is missing.
        ValueError: If the folder holds no model that others could load, a file is a link out of it, or the scores are
            those of another model.
    """
    if name not in EMBEDDED_NAMES and not Path(name).expanduser().is_dir():
        raise FileNotFoundError(f"There is no folder {name}: name that of a model or adapter, or {EMBEDDED_ALIAS}.")
    # Refuses damaged files, and settings that would load other files.
    folder = find_checkpoint(name)
    base = _public_base(folder)
    files = dict(files_to_push(folder))
    files[CARD_FILE] = complete_card(files.get(CARD_FILE), card, made / CARD_FILE, repo, base, license)
    tasks: list[str] = []
    if scores is not None:
        results = read_results(scores)
        if verify:
            held = identify(folder, name).weights
            for result in results:
                check_weights(result, result["model"].get("weights"), held, str(folder))
        found, tasks = results_to_push(scores, results, files[CARD_FILE], made)
        files |= found
    return ModelUpload(files, tuple(tasks), find_codec(base_folder(folder)) is not None)


def push_model_folder(upload: ModelUpload, repo: str, private: bool = True) -> str:
    """Uploads a model in one commit, into a repository that is private by default; returns the commit's URL.

    Raises:
        ValueError: If a file is a link.
        PermissionError, ConnectionError: As of `uploads.upload_files`.
    """
    scores = f", with scores: {', '.join(upload.tasks)}" if upload.tasks else ""
    return upload_files(repo, upload.files, f"Model{scores}", private=private)


def _public_base(folder: Path) -> str | None:
    """The base model of an adapter, by a name that others can load it by."""
    if not is_adapter(folder):
        return None
    name = str(read_json(folder, ADAPTER_CONFIG_FILE)["base_model_name_or_path"])
    if name not in EMBEDDED_NAMES and (Path(name).expanduser().exists() or Path(name).is_absolute()):
        raise ValueError(
            f"The adapter {folder} is for the model in {name}, which others do not have: push that model first, and "
            f"write its id into {ADAPTER_CONFIG_FILE}, base_model_name_or_path."
        )
    return name
