"""A Space with the demo of a model: three small files, which install this package and start `ttt-hf demo`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jinja2

from .. import __version__
from ..uploads import upload_files


# Where the Hub looks for a Space's page.
PORT = 7860
# A Space with a Python program has gradio installed, which the page does not use.
GRADIO_VERSION = "6.0.0"
TEMPLATES = {"README.md": "space_card.md.jinja", "app.py": "demo_app.py.jinja"}


def prepare_space(repo: str, made: Path) -> dict[str, Path]:
    """Writes the files of a Space.

    Args:
        repo: Id of the model's repository.
        made: Empty folder for the files.

    Returns:
        Path in the repository -> local file.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    values = {"repo": repo, "name": repo.split("/")[-1], "port": PORT, "gradio": GRADIO_VERSION}
    texts = {
        file: environment.from_string(Path(__file__).with_name(template).read_text(encoding="utf-8")).render(values)
        for file, template in TEMPLATES.items()
    }
    texts["requirements.txt"] = f"ttt-hf[serve]>={__version__}\n"
    for name, text in texts.items():
        (made / name).write_text(text, encoding="utf-8")
    return {name: made / name for name in texts}


def push_space(files: Mapping[str, Path], repo: str, private: bool = True) -> str:
    """Uploads a Space in one commit; it is private by default. Returns the commit's URL.

    Raises:
        PermissionError, ConnectionError: As of `uploads.upload_files`.
    """
    return upload_files(repo, files, "Demo of the model", private=private, space_sdk="gradio")
