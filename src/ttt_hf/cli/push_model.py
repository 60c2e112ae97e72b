"""`ttt-hf push`: a model on the Hub, with its card and scores, and a Space to talk to it."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import UsageError
from .quiet import note


EXAMPLES = """examples:
  ttt-hf push adapter your-name/your-model --dry-run
  ttt-hf push adapter your-name/your-model --scores mine --space
"""


def add_parser(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = verbs.add_parser(
        "push",
        help="upload a model to the Hub",
        description="Uploads a model, its processor and its codec to the Hub in one commit, with a card that holds "
        "metadata and scores. Nothing else in the folder leaves this machine. Log in with `hf auth login`.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="FOLDER", help="folder of a model or adapter, or embedded")
    parser.add_argument("repo", metavar="REPO_ID", help="the repository, organisation/name; made if it is new")
    parser.add_argument("--dry-run", action="store_true", help="list what would be uploaded, and ask nobody")
    parser.add_argument("--public", action="store_true", help="make new repositories public")
    parser.add_argument(
        "--scores", type=Path, metavar="DIR", help="folder of a run of `ttt-hf eval`: its scores go into the card"
    )
    parser.add_argument("--unverified", action="store_true", help="also if the run has scored other weights")
    parser.add_argument("--license", metavar="ID", help="licence for a card that names none, such as apache-2.0")
    parser.add_argument("--space", action="store_true", help="also make a Space of that name, with the demo")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Uploads a model, or lists what would be uploaded."""
    from .quiet import silence, silence_transformers

    _check_repo(args.repo)
    with tempfile.TemporaryDirectory() as temporary, silence():
        silence_transformers()
        pushed = _push(args, Path(temporary))
    if args.json:
        print(json.dumps(pushed))
        return
    for kind in ("model", "space"):
        if kind in pushed:
            _print_upload(kind, pushed[kind])


def _push(args: argparse.Namespace, made: Path) -> dict[str, Any]:
    """Prepares and uploads; returns for the model, and for the Space if asked for, what and to where."""
    from ..sharing import prepare_model, prepare_space, push_model_folder, push_space

    (made / "model").mkdir()
    (made / "space").mkdir()
    card = None if args.dry_run or (Path(args.model).expanduser() / "README.md").exists() else _card_on_hub(args.repo)
    model = prepare_model(args.model, args.repo, made / "model", args.scores, not args.unverified, args.license, card)
    if not model.has_codec:
        note("the model has no codec, so that those who load it can neither listen nor speak with it")
    pushed = {"model": _described(args, model.files)}
    space = prepare_space(args.repo, made / "space") if args.space else None
    if space is not None:
        pushed["space"] = _described(args, space)
    if args.dry_run:
        return pushed
    pushed["model"]["url"] = push_model_folder(model, args.repo, private=not args.public)
    if space is not None:
        pushed["space"]["url"] = push_space(space, args.repo, private=not args.public)
        if not args.public:
            note("the Space needs a secret HF_TOKEN to load a private model: add it in the Space's settings")
    return pushed


def _card_on_hub(repo: str) -> str | None:
    """The card that the repository has, if there is one: somebody may have written it there."""
    from huggingface_hub import HfApi

    from ..uploads import upload_errors

    api = HfApi()
    with upload_errors(repo):
        if not api.file_exists(repo, "README.md"):
            return None
        return Path(api.hf_hub_download(repo, "README.md")).read_bytes().decode("utf-8")


def _described(args: argparse.Namespace, files: Mapping[str, Path]) -> dict[str, Any]:
    return {
        "repo": args.repo,
        "visibility": "public" if args.public else "private",
        "files": {name: files[name].stat().st_size for name in sorted(files)},
    }


def _print_upload(kind: str, upload: Mapping[str, Any]) -> None:
    if "url" in upload:
        print(upload["url"])
        return
    print(f"{upload['repo']} ({kind}, {upload['visibility']} if it is new)")
    for name, size in upload["files"].items():
        print(f"{size:>15,}  {name}")
    print(f"{sum(upload['files'].values()):>15,}  bytes in {len(upload['files'])} files")


def _check_repo(repo: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise UsageError(f"{repo[:100]} is no id of a repository: write organisation/name.") from None
