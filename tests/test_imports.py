"""Who may import whom, what the core may need, and that every third-party import is a declared dependency."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "ttt_hf"
MODULES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "recipes").rglob("*.py")])
REMOTE_CODE = sorted(path for path in (PACKAGE / "modeling").glob("*.py") if path.name != "__init__.py")

# Which extra a room of the package may count on; rooms that are not named have to make do with the core.
EXTRAS_OF_ROOM = {
    "processes.py": {"train", "eval"},
    "cli": ("train", "completion", "sound"),
    "data": {"train"},
    "evaluation": {"eval", "train", "funasr", "lmms"},
    "loading": {"train"},
    "processing": {"audio", "pictures"},
    "training": {"train", "eval"},
    "serving": {"serve", "ray"},
}


# What makes the training speech, and other projects that we plug into, need not be installed where the tests run.
PROVIDERS = {
    "piper": ["piper-tts"],
    "funasr": ["funasr"],
    "lmms_eval": ["lmms-eval"],
    "ray": ["ray"],
    **packages_distributions(),
}


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (level, module) of every import statement in a file; level 0 is an absolute import."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""


def declared_dependencies() -> dict[str, set[str]]:
    """Names in pyproject.toml by extra; the core is the extra ''."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    tables = {"": re.search(r"^dependencies = \[(.*?)^\]", text, re.S | re.M).group(1)}
    extras = text.split("[project.optional-dependencies]")[1].split("[project.scripts]")[0]
    tables.update(re.findall(r"^(\w+) = \[(.*?)\]$", extras, re.S | re.M))
    return {
        extra: {re.sub(r"[-_.]+", "-", name).lower() for name in re.findall(r'"([A-Za-z0-9][\w.-]*)', table)}
        for extra, table in tables.items()
    }


def test_imports_go_one_way() -> None:
    # In a process of its own: import-linter configures logging, which switches off every logger that exists already.
    command = Path(sys.executable).with_name("lint-imports")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    result = subprocess.run(
        [command, "--no-cache"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("path", REMOTE_CODE, ids=lambda path: path.name)
def test_remote_code_needs_only_its_siblings_torch_and_transformers(path: Path) -> None:
    assert path.name.endswith("_ttt.py"), "saved flat next to other models' code, so the name has to be unique"
    for level, module in imports_of(path):
        top = module.split(".")[0]
        if level:
            assert level == 1, f"{path.name} imports {'.' * level}{module}: only siblings travel with it"
            assert (path.parent / f"{module}.py").is_file(), f"{path.name} imports .{module}"
        else:
            # huggingface_hub is what transformers loads remote code with, so it is always there.
            available = {"torch", "transformers", "huggingface_hub"} | sys.stdlib_module_names
            assert top in available, f"{path.name} imports {module}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_third_party_import_is_declared(path: Path) -> None:
    dependencies = declared_dependencies()
    room = path.relative_to(PACKAGE).parts[0]
    allowed = set.union(dependencies[""], *(dependencies[extra] for extra in EXTRAS_OF_ROOM.get(room, ())))
    for level, module in imports_of(path):
        top = module.split(".")[0]
        if level or top in sys.stdlib_module_names or top == "ttt_hf":
            continue
        names = {re.sub(r"[-_.]+", "-", name).lower() for name in PROVIDERS.get(top, [top])}
        assert names & allowed, f"{path.name} imports {module}, which no dependency of the {room} part names"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_open_with_a_docstring_and_stay_readable(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(source)), f"{path.name} does not say what it is for"
    assert source.count("\n") <= 500, f"{path.name} wants to be two files"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_leave_types_to_the_signature(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            continue
        docstring = ast.get_docstring(node) or "A sentence."
        where = f"{path.name}, {getattr(node, 'name', 'module')}"
        assert docstring[0] != "\n" and docstring.strip(), f"{where}: the summary stands on the opening line"
        typed = re.search(r"^ +\**\w+ \(`.*?\):", docstring, re.M)
        assert typed is None, f"{where}: {typed.group().strip()} repeats the type in the signature"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_fit_on_a_screen(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = [part for part in node.body if not (isinstance(part, ast.Expr) and part is node.body[0])]
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 60, f"{path.name}, {node.name} has {lines} lines: split it where a step has a name"


def test_no_module_name_stands_twice() -> None:
    names = [path.stem for path in PACKAGE.rglob("*.py") if not path.stem.startswith("__")]
    assert sorted(names) == sorted(set(names))


def test_architecture_page_lists_every_file() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([\w/.-]+)` \|", page, re.M))
    files = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*")
        if path.suffix in {".py", ".yaml", ".jinja", ".html", ".css", ".js"}
        and path.is_file()
        and "__pycache__" not in path.parts
    }
    files = {name for name in files if not name.endswith("__init__.py") or name == "__init__.py"}
    files = {name for name in files if not name.startswith("checkpoints/")}
    recipe = ROOT / "recipes" / "tiny"
    files |= {f"recipes/tiny/{path.name}" for path in recipe.iterdir() if path.is_file() and path.stem != "__init__"}
    assert listed == files, f"missing: {sorted(files - listed)}, gone: {sorted(listed - files)}"
