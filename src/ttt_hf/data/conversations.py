"""The canonical row: the one form that rows of all kinds are brought into before they are encoded or learned.

A canonical row is a conversation, `{"messages": [{"role", "content": [items]}], "task"}`, or, for pre-training,
content without roles, `{"content": [items], "task"}`. An item is `{"type": "text", "text"}` or `{"type": "audio"}`
with one of `path`, `url`, `bytes`, `audio` (samples, next to `sampling_rate`) or `codes`. The text of a reply may have
time stamps, `"words": [{"text", "start", "end"}]` in seconds; with `"interleaved": true`, the items of a message are
taken in their order. The `span` of an audio item says which markers enclose it, where its position does not;
`variants`, next to its `codes`, are further encodings of the same recording, of which training draws one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..processing.conversation import AUDIO_KEYS, ROLES, SYSTEM_PROMPTS, plain_item
from .official_format import is_official, parse_official
from .tables import resolve_path


Row = dict[str, Any]
Message = dict[str, Any]
Item = dict[str, Any]

ACCEPTED_FORMS = (
    "'messages' (chat), 'content' or 'text' (pre-training), 'audio' and 'text' (task asr or tts), or 'question' or "
    "'question_audio' and 'answer' (task chat)"
)
_COLUMNS = {
    "asr": ("audio", "text"),
    "tts": ("audio", "text"),
    "chat": ("messages", "question", "question_audio", "answer", "answer_audio"),
}
# Keys of an item that are kept besides its source.
_ITEM_EXTRAS = ("sampling_rate", "span", "variants", "words")
# Those of them that mean nothing when they are empty.
_LISTS = ("variants", "words")
# A recipe may imply the task, so that training recognises this error.
NEEDS_TASK = "A row with 'audio' and 'text' needs a task, asr or tts: does the model listen or speak?"


def canonical_row(row: Mapping[str, Any], task: str | None = None, folder: Path | None = None) -> Row:
    """Brings a row of a table into the canonical form. Canonical rows stay as they are.

    Args:
        row: Cells in one of the accepted forms: columns `messages`; `content`; `text`; `audio` and `text`; `question`
            or `question_audio` with `answer` and perhaps `answer_audio`. Names of columns are compared without regard
            to case; empty cells count as missing. A plain string that writes spans of audio out, as the official data
            do, is read as that audio; text items always stay text.
        task: What the columns mean (`asr`, `tts`, `chat`) and whose system prompt a conversation gets; by default the
            row's own column `task`.
        folder: Folder that relative paths of audio files start from.

    Returns:
        `messages` or `content`, and `task`; `codec_fingerprint` where the row says whose codes it holds.

    Raises:
        ValueError: If the row has none of these forms, or is malformed.
    """
    cells = _filled_cells(row)
    task = task or cells.get("task")
    # A cell may hold what cannot be looked up, such as a list.
    if task is not None and not (isinstance(task, str) and task in SYSTEM_PROMPTS):
        raise ValueError(f"There is no task {task!r}: choose one of {', '.join(SYSTEM_PROMPTS)}.")
    result: Row = {}
    # From the most explicit form to the least: a row of messages may have further columns, such as `text`.
    if "messages" in cells:
        result["messages"] = [_message(message, folder) for message in _nonempty(cells["messages"], "messages")]
        if task == "asr" and not any(item["type"] == "audio" for item in row_items(result)):
            raise ValueError(
                "This row is of the task asr, but holds no audio to listen to: add it, or change its task."
            )
    elif "content" in cells:
        result["content"] = _items(cells["content"], folder)
    elif "question" in cells or "question_audio" in cells:
        if "answer" not in cells and "answer_audio" not in cells:
            raise ValueError(_missing(row, cells, task or "chat"))
        result["messages"], task = _question_and_answer(cells, task, folder)
    elif task in ("asr", "tts") and {"audio", "text"} <= cells.keys():
        result["messages"] = _speech_and_text(cells, task, folder)
    elif task in ("asr", "tts"):
        raise ValueError(_missing(row, cells, task))
    elif "audio" in cells and "text" in cells:
        raise ValueError(NEEDS_TASK)
    elif "audio" in cells:
        result["content"] = [_audio_item(cells["audio"], folder)]
    elif "text" in cells and task in (None, "text"):
        result["content"] = _items(_string(cells["text"], "text"), folder)
    else:
        raise ValueError(_missing(row, cells, task))
    result["task"] = task
    if "codec_fingerprint" in cells:
        result["codec_fingerprint"] = cells["codec_fingerprint"]
    return result


def row_items(row: Mapping[str, Any]) -> Iterator[Item]:
    """The content items of a canonical row, message by message.

    Yields:
        An item; changing it changes the row.
    """
    yield from row.get("content") or ()
    for message in row.get("messages") or ():
        yield from message["content"]


def audio_source(item: Mapping[str, Any]) -> Any:
    """What an audio item's sound is read from (path, URL, bytes or samples); `None` when it holds codes."""
    return next((item[key] for key in AUDIO_KEYS if key != "codes" and item.get(key) is not None), None)


# -- forms ------------------------------------------------------------------------------------------------------------


def _filled_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """The cells that are not empty, by the names of their columns in lower case."""
    cells: dict[str, Any] = {}
    for name, value in row.items():
        folded = name.strip().casefold()
        is_empty = value is None or (isinstance(value, str) and not value.strip())
        # Of columns that differ in case only, the one in lower case counts.
        if not is_empty and (folded not in cells or folded == name):
            cells[folded] = value
    return cells


def _message(message: Any, folder: Path | None) -> Message:
    if not isinstance(message, Mapping) or message.get("content") is None or message.get("role") not in ROLES:
        raise ValueError(f"A message needs 'content' and a 'role', one of {', '.join(ROLES)}.")
    content = message["content"]
    canonical: Message = {"role": message["role"], "content": _items(content, folder)}
    # The order of an official string is the order that is meant.
    if message.get("interleaved") or (isinstance(content, str) and is_official(content)):
        canonical["interleaved"] = True
    return canonical


def _speech_and_text(cells: Mapping[str, Any], task: str | None, folder: Path | None) -> list[Message]:
    text = {"type": "text", "text": _string(cells["text"], "text")}
    audio = _audio_item(cells["audio"], folder)
    if task == "asr":
        return _turns([audio], [text])
    # The reply says what the user wrote. A copy, since items may be changed in place.
    return _turns([dict(text)], [_timed(text, cells), audio])


def _question_and_answer(cells: Mapping[str, Any], task: str | None, folder: Path | None) -> tuple[list[Message], str]:
    user: list[Item] = []
    # Where the question is spoken, its transcript is not shown to the model.
    if "question_audio" in cells:
        user.append(_audio_item(cells["question_audio"], folder))
    else:
        user.append({"type": "text", "text": _string(cells["question"], "question")})
    assistant: list[Item] = []
    if "answer" in cells:
        assistant.append(_timed({"type": "text", "text": _string(cells["answer"], "answer")}, cells))
    if "answer_audio" in cells:
        assistant.append(_audio_item(cells["answer_audio"], folder))
    is_written = "question_audio" not in cells and "answer_audio" not in cells
    return _turns(user, assistant), task or ("text" if is_written else "chat")


def _turns(user: list[Item], assistant: list[Item]) -> list[Message]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def _timed(text: Item, cells: Mapping[str, Any]) -> Item:
    return {**text, "words": cells["words"]} if cells.get("words") else text


# -- items ------------------------------------------------------------------------------------------------------------


def _items(content: Any, folder: Path | None) -> list[Item]:
    if isinstance(content, str):
        # Only here: the text of an item is meant literally, even if it holds names of tokens.
        return parse_official(content) if is_official(content) else [{"type": "text", "text": content}]
    return [_item(item, folder) for item in _nonempty(content, "content")]


def _item(item: Any, folder: Path | None) -> Item:
    item = plain_item(item) if isinstance(item, Mapping) else {}
    kind = item.get("type")
    if kind == "text" and isinstance(item.get("text"), str):
        return {"type": "text", "text": item["text"], **_extras(item)}
    if kind != "audio":
        raise ValueError('Content items are {"type": "text", "text": ...} and {"type": "audio", ...}.')
    given = [key for key in AUDIO_KEYS if item.get(key) is not None]
    if len(given) != 1:
        raise ValueError(f"An audio item needs exactly one of {', '.join(AUDIO_KEYS)}.")
    value = item[given[0]]
    # Paths are resolved and cells of `datasets` unpacked as in a column; other sources are taken as they are.
    if given[0] in ("path", "url") or (given[0] == "audio" and isinstance(value, (str, Mapping))):
        return {**_audio_item(value, folder), **_extras(item)}
    return {"type": "audio", given[0]: value, **_extras(item)}


def _audio_item(value: Any, folder: Path | None) -> Item:
    """An audio item of a cell: a path or URL, the bytes of a file, codes, or an `Audio` cell of `datasets`."""
    if isinstance(value, Mapping):
        # `datasets` gives audio undecoded (bytes, path) or decoded (array).
        if value.get("bytes") is not None:
            return {"type": "audio", "bytes": value["bytes"]}
        if value.get("array") is not None:
            return {"type": "audio", "audio": value["array"], "sampling_rate": value.get("sampling_rate")}
        value = value.get("path")
    if isinstance(value, (bytes, bytearray)):
        return {"type": "audio", "bytes": bytes(value)}
    if isinstance(value, (str, os.PathLike)):
        return {"type": "audio", "path": resolve_path(os.fspath(value), folder)}
    if isinstance(value, (list, tuple)) and all(isinstance(code, int) for code in value):
        return {"type": "audio", "codes": list(value)}
    raise ValueError("Audio is a path, a URL, the bytes of a file, samples with their rate, or a list of codes.")


def _extras(item: Mapping[str, Any]) -> Item:
    extras = {key: item[key] for key in _ITEM_EXTRAS if item.get(key) is not None}
    for key in _LISTS:
        if not hasattr(extras.get(key, ()), "__len__"):
            raise ValueError(f"'{key}' must be a list, not {type(extras[key]).__name__}.")
    return {key: value for key, value in extras.items() if key not in _LISTS or len(value)}


def _nonempty(value: Any, name: str) -> list[Any]:
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__len__") or len(value) == 0:
        raise ValueError(f"'{name}' must be a list that is not empty.")
    return list(value)


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"'{name}' must be a string, not {type(value).__name__}: write it as text, in quotes.")
    return value


def _missing(row: Mapping[str, Any], cells: Mapping[str, Any], task: str | None) -> str:
    """What a row lacks: the column as such, or what should be in it."""
    found = ", ".join(repr(name) for name in row if name.strip().casefold() in cells) or "nothing"
    wanted = _COLUMNS.get(task or "", {name for names in _COLUMNS.values() for name in names})
    empty = [name for name in row if name.strip().casefold() in wanted and name.strip().casefold() not in cells]
    # The column is there: renaming it would not help.
    if empty:
        return f"This row holds {found}, but its {' and its '.join(empty)} is empty: fill it in, or delete the row."
    needs = {
        "asr": "'audio' and 'text'",
        "tts": "'audio' and 'text'",
        "chat": "'messages', or 'question' or 'question_audio' and 'answer' or 'answer_audio'",
    }.get(task or "", ACCEPTED_FORMS)
    what = f"Task {task} needs" if task in ("asr", "tts", "chat") else "A row needs"
    return f"{what} {needs}, but this row holds {found}: rename its columns."
