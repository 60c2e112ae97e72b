"""Task files: a benchmark is defined by a YAML file, so that a new task needs no code.

A file may begin with `base: NAME` and hold only the keys that differ from that task. Keys of its `source` may be
overridden without naming `source`: `load_task("librispeech_clean", path="copies/librispeech")`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ..overrides import merge, nearest, read_yaml, shorten
from ..processing.conversation import SYSTEM_PROMPTS
from .concepts import DatasetSource, Task
from .layouts import check_type, parse_json
from .store import digest


TASK_FILES = Path(__file__).with_name("task_files")
PRESETS = Path(__file__).with_name("presets.yaml")

COLUMNS = ("audio", "references", "id", "question", "seconds")
# Key in the file -> field. `name` is the name of the task, so the Hub's name of a configuration is the key `config`.
_SOURCE_KEYS = {("config" if field.name == "name" else field.name): field for field in fields(DatasetSource)}
_TASK_KEYS = {field.name: field for field in fields(Task)}
_REQUIRED = ("version", "source", "prompt", "output", "scorer")
# The results of a task are in a folder of its name.
_FOLDER_NAME = re.compile(r"\w[\w .+@-]{0,99}")
# Keys that the replies of a model do not depend on.
_SCORING_KEYS = ("scorer", "scorer_options", "judge", "language")


def task_names() -> list[str]:
    """Names of the tasks that this package ships, in order."""
    return sorted(path.stem for path in TASK_FILES.glob("*.yaml"))


def load_task(name_or_yaml: str | Path, **overrides: Any) -> Task:
    """Reads a task.

    Args:
        name_or_yaml: Name of a shipped task, or path of a YAML file. If `path` in a file begins with a dot, it is
            relative to the file.
        **overrides: Keys of the file with other values; keys of `source` may be given alone, and a dot leads into a
            mapping (`{"columns.references": "sentence"}`). A new `path` drops the `revision`, a new `scorer` drops the
            options of the scorer and the judge.

    Raises:
        FileNotFoundError: If there is no such task; names the nearest one.
        ValueError: If the file or an override is not valid.
    """
    path = _task_file(name_or_yaml)
    document = _read(path, ())
    changes: dict[str, Any] = {}
    for key, value in overrides.items():
        # `path=...` for `source.path=...`: the keys of both levels differ, so that this is unambiguous.
        _set(changes, f"source.{key}" if key.split(".", 1)[0] in _SOURCE_KEYS else key, value)
    return _build(_override(document, changes), path)


def find_tasks(names: str | Path | Iterable[str | Path], overrides: Mapping[str, Any]) -> dict[str, Task]:
    """Loads tasks by the names that a user gives: tasks, presets or files.

    Args:
        names: Names of tasks or presets, or paths of YAML files; one or several.
        overrides: Keys of the files with other values, for all of them.

    Returns:
        What `load_task` takes to load a task again (its name, or the absolute path of its file) -> task, each once.
    """
    presets = _presets()
    given = [str(names)] if isinstance(names, (str, Path)) else [str(name) for name in names]
    if not given:
        raise ValueError("Name a task or a preset: `ttt-hf eval tasks` lists them.")
    found: dict[str, Task] = {}
    # A task may be named twice, by itself and within a preset: it runs once.
    for name in dict.fromkeys(task for word in given for task in presets.get(word, [word])):
        task = load_task(name, **overrides)
        # The name is that of the folder: two tasks would write into one.
        if any(task.name == other.name for other in found.values()):
            raise ValueError(f"Two tasks are called {task.name}: rename one, or run them into two folders.")
        # Absolute, so that the scores can be computed from another working directory.
        found[str(Path(name).resolve()) if name.endswith((".yaml", ".yml")) else name] = task
    return found


def is_task_key(key: str) -> bool:
    """Whether `load_task` takes this key, such as `scorer` or `columns.references`, as an override."""
    return key.split(".", 1)[0] in (*_TASK_KEYS, *_SOURCE_KEYS)


def preset_names() -> list[str]:
    """Names of the presets, in the order of their file."""
    return list(_presets())


def preset(name: str) -> list[str]:
    """Names of the tasks of a preset, such as `tiny`.

    Raises:
        ValueError: If there is no such preset.
    """
    known = _presets()
    if name not in known:
        raise ValueError(f"There is no preset {name}: choose one of {', '.join(known)}.")
    return known[name]


def fingerprint(task: Task, content: str | None = None) -> str:
    """Hashes all of a task that may change the replies of a model: data, prompt, instruction, kind of reply, settings.

    Two tasks that differ only in their scoring have the same fingerprint.

    Args:
        content: Hash of its data if they are local; it stands for their path, so that they may move.

    Returns:
        16 hexadecimal digits.
    """
    # Names and descriptions may change without another run.
    kept = {key: value for key, value in asdict(task).items() if key not in ("name", "description", *_SCORING_KEYS)}
    # `expected` is checked when the data are loaded, `hint` is shown only, and what may be read changes no recording.
    others = ("hint", "expected", "allow_private")
    source = {key: value for key, value in kept["source"].items() if key not in others}
    return digest({**kept, "source": {**source, "path": content} if content else source})


# -- files ------------------------------------------------------------------------------------------------------------


def _task_file(name_or_yaml: str | Path) -> Path:
    path = Path(name_or_yaml)
    if path.suffix in (".yaml", ".yml"):
        # Unlike `Path.is_file`, false for names that no file can have.
        if not os.path.isfile(path):
            raise FileNotFoundError(f"There is no task file {path}: check the path.")
        return path
    shipped = TASK_FILES / f"{name_or_yaml}.yaml"
    if str(name_or_yaml) in task_names():
        return shipped
    raise FileNotFoundError(
        f"There is no task {shorten(str(name_or_yaml))} ({_hint(str(name_or_yaml), task_names())}): give the path "
        "of a YAML file, or a name that `ttt-hf eval tasks` lists."
    )


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """Reads a task file and merges it into its base."""
    document = _read_task_file(path)
    # One file has many paths: `../tasks/a.yaml` names a.yaml beside itself.
    file = path.resolve()
    if file in seen:
        raise ValueError(f"{file}: its base leads back to itself.")
    # Before merging: each path is relative to the file that names it, and not to the one that inherits it.
    _resolve_path(document, path)
    base = document.pop("base", None)
    if base is None:
        return {"source": {}, **document}
    if not isinstance(base, str):
        raise ValueError(f"{path}: base is the name of a task or of a YAML file, not {shorten(repr(base))}.")
    # Another file beside this one, or a shipped task by its name.
    inherited = path.parent / base if str(base).endswith((".yaml", ".yml")) else base
    return _override(_read(_task_file(inherited), (*seen, file)), document)


def _read_task_file(path: Path) -> dict[str, Any]:
    document = read_yaml(path)
    if not isinstance(document, dict) or not isinstance(document.get("source", {}), dict):
        raise ValueError(f"{path} must hold the keys of a task, and under `source` those of its data.")
    return document


def _resolve_path(document: dict[str, Any], file: Path) -> None:
    """Makes a path that begins with a dot relative to the task file, wherever the command is run."""
    path = document.get("source", {}).get("path")
    if isinstance(path, str) and path.startswith("."):
        document["source"]["path"] = str((file.parent / path).resolve())


def _override(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merges changes into a task. Keys that belong to the old data or the old scorer are dropped."""
    kept = dict(base)
    # A revision is a commit of one repository: other data do not have it.
    if "path" in (changes.get("source") or {}):
        kept["source"] = {key: value for key, value in base["source"].items() if key != "revision"}
    # Options and judge belong to the old scorer: another one would refuse or misread them.
    if changes.get("scorer", base.get("scorer")) != base.get("scorer"):
        kept = {key: value for key, value in kept.items() if key not in ("scorer_options", "judge")}
    return merge(kept, changes)


def _set(document: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        inner = document.get(parent)
        if inner is None:
            inner = document[parent] = {}
        if not isinstance(inner, dict):
            raise ValueError(f"{key} cannot be set: {parent} of the task is no mapping.")
        document = inner
    old = document.get(last)
    document[last] = merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value


def _build(document: dict[str, Any], file: Path) -> Task:
    _check_document(document, file)
    source = {("name" if key == "config" else key): value for key, value in document["source"].items()}
    # Empty in tasks whose data the user has to provide; a `Path` from callers in Python.
    path = source["path"] or ""
    source["path"] = str(path) if isinstance(path, Path) else path
    task = Task(**{"name": file.stem, **document, "source": DatasetSource(**source)})
    try:
        # As it will be read from the settings of a run.
        check_type(parse_json(json.dumps(asdict(task)).encode()), Task)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: {error}: correct it.") from None
    if not _FOLDER_NAME.fullmatch(task.name):
        raise ValueError(
            f"{file}: name is {shorten(repr(task.name))}, which is no name of a folder: take letters, digits, dots, "
            "dashes and underscores."
        )
    return task


def _check_document(document: Mapping[str, Any], file: Path) -> None:
    source = document["source"]
    _check_keys(document, _TASK_KEYS, file, "task")
    _check_keys(source, _SOURCE_KEYS, file, "source")
    missing = [key for key in _REQUIRED if key not in document]
    missing += [f"source.{key}" for key in ("path", "columns") if key not in source]
    if missing:
        raise ValueError(f"{file} lacks {', '.join(missing)}: a task needs them.")
    if document["prompt"] not in list(SYSTEM_PROMPTS):
        raise ValueError(
            f"{file}: prompt is {shorten(repr(document['prompt']))} and not one of {', '.join(SYSTEM_PROMPTS)}."
        )
    columns = source["columns"]
    if not isinstance(columns, dict):
        raise ValueError(f"{file}: columns is a mapping of {', '.join(COLUMNS)} to the data's own names.")
    _check_keys(columns, COLUMNS, file, "mapping of columns")
    if "audio" not in columns and "question" not in columns:
        raise ValueError(f"{file}: columns names neither audio nor question, so that nothing can be asked.")
    for key, value in columns.items():
        # Only references may come from several columns, such as the answers to one question.
        if key != "references" and not isinstance(value, str):
            raise ValueError(f"{file}: columns.{key} is the name of a column, not {shorten(repr(value))}.")


def _check_keys(document: Mapping[str, Any], known: Iterable[str], file: Path, what: str) -> None:
    known = list(known)
    for key in document:
        if key not in known:
            raise ValueError(f"{file}: a {what} has no key {shorten(repr(key))} ({_hint(str(key), known)}).")


def _presets() -> dict[str, list[str]]:
    return read_yaml(PRESETS)


def _hint(name: str, known: Iterable[str]) -> str:
    known = list(known)
    return nearest(name, known, f"there are {', '.join(known)}")
