"""Uploads to the Hub: named files in one commit, into a repository that is private unless the user says otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def upload_files(
    repo: str, files: Mapping[str, Path], message: str, *, private: bool = True, token: str | None = None
) -> str:
    """Uploads files in one commit.

    Args:
        repo: Id of the repository of a model; created if it does not exist.
        files: Path in the repository -> local file. Nothing else is uploaded.
        message: Commit message.
        private: Whether a new repository is private.
        token: Token of the Hub; that of `hf auth login` by default.

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
        repo = api.create_repo(repo, private=private, exist_ok=True).repo_id
        # One commit: no reader of the repository meets a card without its weights, or scores without their files.
        return str(api.create_commit(repo, operations, commit_message=message).commit_url)


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
