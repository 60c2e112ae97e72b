"""The one place that turns what libraries raise for a file of a checkpoint into one sentence with file and key."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .file_checks import read_json, walk


PACKAGE = Path(__file__).parents[1]
# Already a message for users, and not about the content of a file.
CLEAR_ERRORS = (OSError, ImportError)
MAX_REASON = 200
# How long to look for the key that an error is about.
MAX_SECONDS = 2.0


@contextmanager
def clear_errors(path: Path, use: Callable[[dict[str, Any]], Any] | None = None) -> Iterator[None]:
    """Turns errors about the content of a file into a `ValueError` that names the file, and the key if it is known.

    Args:
        path: The file, or the folder of files, that is read within the block.
        use: Does the same with the content of the file, to find the key that an error is about.

    Raises:
        ValueError: For any error but those that this package raises itself, missing files and a lack of memory.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    # Not Exception: a panic of the tokenizers library is none.
    except BaseException as error:
        # torch's error by its name, since importing torch takes seconds.
        is_clear = isinstance(error, CLEAR_ERRORS) and "trust_remote_code" not in str(error)
        if is_clear or type(error).__name__ == "OutOfMemoryError" or _is_ours(error):
            raise
        reason = reason_of(error)
        if use is not None and path.is_file() and (key := _key_of(reason, read_json(path.parent, path.name), use)):
            reason = f"{key}: {reason}"
        raise ValueError(f"{path} cannot be used ({reason}): fetch the checkpoint again.") from error


def _key_of(reason: str, settings: dict[str, Any], use: Callable[[dict[str, Any]], Any]) -> str | None:
    """The key without which there is no error; `None` if the reason names one already, or there is none."""
    if any(re.search(rf"\b{re.escape(key)}\b", reason) for key, _ in walk(settings)):
        return None
    candidates = list(_without(settings))
    for part, inner in settings.items():
        if isinstance(inner, dict):
            candidates += [(key, {**settings, part: changed}) for key, changed in _without(inner)]
    deadline = time.process_time() + MAX_SECONDS
    for key, without in candidates:
        if time.process_time() > deadline:
            break
        try:
            use(without)
        except Exception:
            continue
        return key
    return None


def _without(settings: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The settings without each of their simple values, or with 1 in the place of one that is not positive."""
    for key, value in settings.items():
        if isinstance(value, int) and value <= 0:
            yield key, {**settings, key: 1}
        if not isinstance(value, dict):
            yield key, {name: other for name, other in settings.items() if name != key}


def reason_of(error: BaseException) -> str:
    """What is wrong, in a few words."""
    if "trust_remote_code" in str(error):
        return "it needs code that comes with it, which is never run"
    # The strict dataclasses of huggingface_hub wrap the error of a field or a check in one that names it.
    field = re.search(r"for field '(\w+)'", str(error))
    cause: BaseException = error
    while type(cause).__name__.startswith("StrictDataclass") and cause.__cause__ is not None:
        cause = cause.__cause__
    text = " ".join(str(cause).split()).rstrip(".:")
    if isinstance(cause, KeyError):
        text = f"{text} is missing or unknown"
    elif not isinstance(cause, (ValueError, RuntimeError, TypeError)) or not text:
        text = f"{type(cause).__name__} {text}".strip()
    text = re.sub(r"^Field '(\w+)'", r"\1", text)
    if field and field[1] not in text:
        text = f"{field[1]}: {text}"
    return text if len(text) <= MAX_REASON else text[:MAX_REASON].rstrip() + " ..."


def _is_ours(error: BaseException) -> bool:
    """Whether an error was raised by this package, with a message for users."""
    if not isinstance(error, ValueError):
        return False
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and PACKAGE in Path(last.tb_frame.f_code.co_filename).parents
