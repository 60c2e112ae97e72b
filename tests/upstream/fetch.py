"""Fetches transformers' own tests, from the source distribution of the installed version, into build/upstream.

    python tests/upstream/fetch.py

Nothing of them is kept in this repository. `make test-upstream` calls this and runs them on our classes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path


FOLDER = Path(__file__).parents[2] / "build" / "upstream"
PACKAGE = "transformers_tests"  # the name under which the tests are imported
# What the tests import, and we do not.
REQUIREMENTS = ["parameterized>=0.9"]


def fetch(folder: Path = FOLDER) -> Path:
    """Downloads the tests unless the folder holds those of the installed version.

    Args:
        folder: Folder to put on the path of Python: `PACKAGE` and what it needs.

    Returns:
        The folder.
    """
    wanted = version("transformers")
    stamp = folder / "version"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder), *REQUIREMENTS], check=True)
    with tempfile.TemporaryDirectory() as downloads:
        source = ["--no-deps", "--no-binary", "transformers", f"transformers=={wanted}"]
        subprocess.run([*pip, "download", *source, "--dest", downloads], check=True)
        (archive,) = Path(downloads).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(downloads, filter="data")
        shutil.move(str(Path(downloads) / f"transformers-{wanted}" / "tests"), folder / PACKAGE)
    # Left out of the distribution, and read by a test's import.
    (folder / PACKAGE / "__init__.py").touch()
    stamp.write_text(wanted, encoding="utf-8")
    return folder


if __name__ == "__main__":
    print(fetch())
