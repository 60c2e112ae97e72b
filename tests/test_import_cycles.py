"""No module of the package imports itself, however many others stand between, and be it inside a function."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest


PACKAGE = Path(__file__).resolve().parents[1] / "src" / "ttt_hf"


def module_name(path: Path, package: Path) -> str:
    parts = (package.name, *path.relative_to(package).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_statements(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import below a node, those inside functions too; what only type checkers see is left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        yield from import_statements(child)


def import_graph(package: Path) -> dict[str, set[str]]:
    """Module -> the modules that its imports load: those that are named, and the packages on the way to them.

    A package is its `__init__.py`. Those around the importing module are loaded already and do not count.
    """
    paths = {module_name(path, package): path for path in package.rglob("*.py")}
    graph: dict[str, set[str]] = {name: set() for name in paths}
    for name, path in paths.items():
        here = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
        for statement in import_statements(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(statement, ast.Import):
                named = [alias.name for alias in statement.names]
            else:
                start = here[: len(here) - statement.level + 1] if statement.level else []
                base = ".".join([*start, *([statement.module] if statement.module else [])])
                # `from .room import thing` imports the module `thing`, or else a name of the room itself.
                named = [full if (full := f"{base}.{alias.name}") in paths else base for alias in statement.names]
            for module in named:
                parts = module.split(".")
                loaded = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
                around = {name[:end] for end, letter in enumerate(name) if letter == "."} - {module}
                graph[name] |= {other for other in loaded - around if other in paths and other != name}
    return graph


def find_cycle(graph: dict[str, set[str]]) -> list[str] | None:
    """The modules of one cycle, first and last the same; none if there is no cycle."""
    finished: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str] | None:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in finished:
            return None
        for imported in sorted(graph[module]):
            if cycle := visit(imported, [*path, module]):
                return cycle
        finished.add(module)
        return None

    return next((cycle for module in sorted(graph) if (cycle := visit(module, []))), None)


def test_no_module_imports_itself_through_others() -> None:
    cycle = find_cycle(import_graph(PACKAGE))
    assert cycle is None, " -> ".join(cycle or [])


@pytest.mark.parametrize(
    ("first", "second", "cycle"),
    [
        ("from .second import run", "from .third import run", None),
        ("from .second import run", "def run():\n    from .first import name", ["first", "second", "first"]),
        ("from . import second", "from thing.first import name", ["first", "second", "first"]),
        ("import thing.second", "from ..thing import first", ["first", "second", "first"]),
        ("from .room.inside import name", "", ["first", "room", "first"]),
        ("from .second import run", "if TYPE_CHECKING:\n    from .first import name", None),
    ],
)
def test_cycles_are_found_wherever_the_import_stands(
    tmp_path: Path, first: str, second: str, cycle: list[str] | None
) -> None:
    package = tmp_path / "thing"
    package.mkdir()
    (package / "room").mkdir()
    files = {"first": first, "second": second, "third": "", "room/__init__": "from .. import first", "room/inside": ""}
    for name, text in {"__init__": "", **files}.items():
        (package / f"{name}.py").write_text(f"{text}\n")
    expected = cycle and [f"thing.{name}" for name in cycle]
    assert find_cycle(import_graph(package)) == expected
