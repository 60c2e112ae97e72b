"""Uploads to the Hub: named files in one commit, into a repository that is private unless the user says otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from .names import CODEC_FOLDER


# Weights or adapter, configurations, tokenizer and processor, the model's code, card with curves, results. Not among
# them: checkpoints, logs, sample replies, and training_args.bin, which names paths of this machine.
PUSHED = (
    *("*.safetensors", "*.safetensors.index.json", "adapter_config.json", "config.json", "generation_config.json"),
    *("processor_config.json", "preprocessor_config.json", "chat_template.jinja", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
    *("*_ttt.py", "README.md", "curves.png", "all_results.json"),
)
PUSHED_OF_CODEC = ("*.json", "*.safetensors")


def files_to_push(folder: Path) -> dict[str, Path]:
    """Lists the files of a model or adapter that are uploaded: a list that never holds the user's data.

    Args:
        folder: Its folder.

    Returns:
        Path in the repository -> local file.

    Raises:
        ValueError: If one lies outside of the folder.
    """
    top = [path for path in sorted(folder.iterdir()) if any(fnmatch(path.name, name) for name in PUSHED)]
    codec = [path for name in PUSHED_OF_CODEC for path in sorted((folder / CODEC_FOLDER).rglob(name))]
    files = {path.relative_to(folder).as_posix(): path for path in (*top, *codec) if path.is_file()}
    check_links(folder, files.values())
    return files


def check_links(folder: Path, files: Iterable[Path]) -> None:
    """Refuses files outside of a folder: whoever made a link in a shared one would choose what is uploaded.

    Raises:
        ValueError: If there is one.
    """
    root = folder.resolve()
    for file in files:
        if not file.resolve().is_relative_to(root):
            raise ValueError(f"{file} is a link to {file.resolve()} and is not uploaded: put a copy in its place.")


def upload_files(
    repo: str,
    files: Mapping[str, Path],
    message: str,
    *,
    private: bool = True,
    token: str | None = None,
    space_sdk: str | None = None,
) -> str:
    """Uploads files in one commit.

    Args:
        repo: Id of the repository, of a model or a Space; created if it does not exist.
        files: Path in the repository -> local file. Nothing else is uploaded.
        message: Commit message.
        private: Whether a new repository is private.
        token: Token of the Hub; that of `hf auth login` by default.
        space_sdk: What a Space runs with, such as `"gradio"`; without it, the repository is that of a model.

    Returns:
        URL of the commit.

    Raises:
        ValueError: If a file is a symbolic link.
        PermissionError: If the token is missing, or may not write there.
        ConnectionError: If the Hub cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    # What it names was chosen by whoever made the link, which may be anybody who can write to a shared folder.
    if link := next((file for file in files.values() if file.is_symlink()), None):
        raise ValueError(f"{link} is a link to {link.resolve()} and is not uploaded: put a copy in its place.")
    api = HfApi(token=token)
    operations = [CommitOperationAdd(name, str(file)) for name, file in files.items()]
    with upload_errors(repo):
        kind = "space" if space_sdk is not None else "model"
        made = api.create_repo(repo, private=private, exist_ok=True, repo_type=kind, space_sdk=space_sdk)
        # One commit: no reader of the repository meets a card without its weights, or scores without their files.
        commit = api.create_commit(made.repo_id, operations, commit_message=message, repo_type=kind)
        return str(commit.commit_url)


@contextmanager
def upload_errors(repo: str) -> Iterator[None]:
    """Puts what the Hub's client says with several errors into one sentence.

    Raises:
        PermissionError: If the token is missing, or may not write there.
        ConnectionError: If the Hub cannot be reached.
    """
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled as error:
        raise ConnectionError("The Hub is switched off: unset HF_HUB_OFFLINE and run this again.") from error
    except HfHubHTTPError as error:
        raise PermissionError(
            f"{repo} cannot be written on the Hub ({str(error).splitlines()[0]}): log in with `hf auth login`, "
            "with a token that may write there."
        ) from error
    except HfHubHTTPError.__bases__[0] as error:  # of the HTTP client, which depends on the Hub client's version
        raise ConnectionError(f"The Hub cannot be reached ({error}): connect to the network.") from error
