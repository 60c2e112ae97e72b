"""Rows as users have them, brought into the one form that everything behind reads: the canonical row.

A canonical row is a conversation, `{"messages": [{"role", "content": [items]}], "task"}`, or, for pre-training,
content without roles, `{"content": [items], "task"}`. An item is `{"type": "text", "text"}` or `{"type": "audio"}` and
one of `path`, `url`, `bytes`, `audio` (samples, next to `sampling_rate`) or `codes`. The text of a reply may have time
stamps, `"words": [{"text", "start", "end"}]` in seconds; with `"interleaved": true`, the items of a message are taken
in their order. An audio item's `span` says which markers enclose it, where its place does not; `variants`, next to its
`codes`, are the codes of the same recording said once more, of which training draws one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..processing.conversation import AUDIO_KEYS, ROLES, SYSTEM_PROMPTS
from .official_format import is_official, parse_official


Row = dict[str, Any]
Item = dict[str, Any]

ACCEPTED_FORMS = (
    "'messages' (chat), 'content' or 'text' (pre-training), 'audio' and 'text' (task asr or tts), or 'question' or "
    "'question_audio' and 'answer' (task chat)"
)
# Keys of an item that are not its source, and survive.
_ITEM_EXTRAS = ("sampling_rate", "span", "variants", "words")
# Those of them that mean nothing when they are empty.
_LISTS = ("variants", "words")


def canonical_row(row: Mapping[str, Any], task: str | None = None, folder: Path | None = None) -> Row:
    """Brings a row into the canonical form. Canonical rows stay as they are.

    Args:
        row: A row in one of the accepted forms: columns `messages`; `content`; `text`; `audio` and `text`; `question`
            or `question_audio` with `answer` and perhaps `answer_audio`. A plain string that writes spans of audio
            out, as the official data do, is read as that audio; text items always stay text.
        task: What the columns mean (`asr`, `tts`, `chat`) and whose system prompt a conversation gets; by default the
            row's own column `task`.
        folder: Where relative paths of audio files begin.

    Returns:
        `messages` or `content`, and `task`; `codec_fingerprint` where the row says whose codes it holds.

    Raises:
        ValueError: If the row has none of these forms, or is malformed.
    """
    found = {name: value for name, value in row.items() if value is not None}
    task = task or found.get("task")
    if task is not None and task not in SYSTEM_PROMPTS:
        raise ValueError(f"There is no task {task!r}: choose one of {', '.join(SYSTEM_PROMPTS)}.")
    result: Row = {}
    if "messages" in found:
        result["messages"] = [_message(message, folder) for message in _nonempty(found["messages"], "messages")]
        if task == "asr" and not any(item["type"] == "audio" for item in row_items(result)):
            raise ValueError(
                "This row is of the task asr, but holds no audio to listen to: add it, or change its task."
            )
    elif "content" in found:
        result["content"] = _items(found["content"], folder)
    elif "question" in found or "question_audio" in found:
        result["messages"], task = _question_and_answer(found, task, folder)
    elif "audio" in found and task in ("asr", "tts") and row.get("text", "") is None:
        raise ValueError("This row has audio, but its text is empty: fill it in, or delete the row.")
    elif "audio" in found and task in ("asr", "tts"):
        result["messages"] = _speech_and_text(found, task, folder)
    elif "audio" in found and "text" in found:
        raise ValueError("A row with 'audio' and 'text' needs a task, asr or tts: does the model listen or speak?")
    elif "audio" in found:
        result["content"] = [_audio_item(found["audio"], folder)]
    elif "text" in found and task in (None, "text"):
        result["content"] = _items(found["text"], folder)
    else:
        raise ValueError(_missing(found, task))
    result["task"] = task
    if "codec_fingerprint" in found:
        result["codec_fingerprint"] = found["codec_fingerprint"]
    return result


def row_items(row: Mapping[str, Any]) -> Iterator[Item]:
    """The content items of a canonical row, message by message.

    Args:
        row: A canonical row.

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


def _message(message: Any, folder: Path | None) -> Row:
    if not isinstance(message, Mapping) or message.get("content") is None or message.get("role") not in ROLES:
        raise ValueError(f"A message needs 'content' and a 'role', one of {', '.join(ROLES)}.")
    content = message["content"]
    canonical: Row = {"role": message["role"], "content": _items(content, folder)}
    # What an official string writes out is written in the order that is meant.
    if message.get("interleaved") or (isinstance(content, str) and is_official(content)):
        canonical["interleaved"] = True
    return canonical


def _speech_and_text(row: Row, task: str, folder: Path | None) -> list[Row]:
    if "text" not in row:
        raise ValueError(_missing(row, task))
    text = {"type": "text", "text": _string(row["text"], "text")}
    audio = _audio_item(row["audio"], folder)
    if task == "asr":
        return _turns([audio], [text])
    return _turns([dict(text)], [_timed(text, row), audio])


def _question_and_answer(row: Row, task: str | None, folder: Path | None) -> tuple[list[Row], str]:
    if "answer" not in row and "answer_audio" not in row:
        raise ValueError(_missing(row, task or "chat"))
    user: list[Item] = []
    # The spoken question is the question; its transcript, if there is one, is not given away.
    if "question_audio" in row:
        user.append(_audio_item(row["question_audio"], folder))
    else:
        user.append({"type": "text", "text": _string(row["question"], "question")})
    assistant: list[Item] = []
    if "answer" in row:
        assistant.append(_timed({"type": "text", "text": _string(row["answer"], "answer")}, row))
    if "answer_audio" in row:
        assistant.append(_audio_item(row["answer_audio"], folder))
    is_written = "question_audio" not in row and "answer_audio" not in row
    return _turns(user, assistant), task or ("text" if is_written else "chat")


def _turns(user: list[Item], assistant: list[Item]) -> list[Row]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def _timed(text: Item, row: Row) -> Item:
    return {**text, "words": row["words"]} if row.get("words") else text


# -- items ------------------------------------------------------------------------------------------------------------


def _items(content: Any, folder: Path | None) -> list[Item]:
    if isinstance(content, str):
        return parse_official(content) if is_official(content) else [{"type": "text", "text": content}]
    return [_item(item, folder) for item in _nonempty(content, "content")]


def _item(item: Any, folder: Path | None) -> Item:
    kind = item.get("type") if isinstance(item, Mapping) else None
    if kind == "text" and isinstance(item.get("text"), str):
        return {"type": "text", "text": item["text"], **_extras(item)}
    if kind != "audio":
        raise ValueError('Content items are {"type": "text", "text": ...} and {"type": "audio", ...}.')
    given = [key for key in AUDIO_KEYS if item.get(key) is not None]
    if len(given) != 1:
        raise ValueError(f"An audio item needs exactly one of {', '.join(AUDIO_KEYS)}.")
    value = item[given[0]]
    if given[0] in ("path", "url") or (given[0] == "audio" and isinstance(value, (str, Mapping))):
        return {**_audio_item(value, folder), **_extras(item)}
    return {"type": "audio", given[0]: value, **_extras(item)}


def _audio_item(value: Any, folder: Path | None) -> Item:
    """An audio item of a cell: a path or URL, a file's bytes, codes, or what `datasets` gives undecoded or decoded."""
    if isinstance(value, Mapping):
        if value.get("bytes") is not None:
            return {"type": "audio", "bytes": value["bytes"]}
        if value.get("array") is not None:
            return {"type": "audio", "audio": value["array"], "sampling_rate": value.get("sampling_rate")}
        value = value.get("path")
    if isinstance(value, (bytes, bytearray)):
        return {"type": "audio", "bytes": bytes(value)}
    if isinstance(value, (str, os.PathLike)):
        return {"type": "audio", "path": _resolve(os.fspath(value), folder)}
    if isinstance(value, (list, tuple)) and all(isinstance(code, int) for code in value):
        return {"type": "audio", "codes": list(value)}
    raise ValueError("Audio is a path, a URL, the bytes of a file, samples with their rate, or a list of codes.")


def _extras(item: Mapping[str, Any]) -> Item:
    extras = {key: item[key] for key in _ITEM_EXTRAS if item.get(key) is not None}
    return {key: value for key, value in extras.items() if key not in _LISTS or len(value)}


def _resolve(path: str, folder: Path | None) -> str:
    if folder is None or "://" in path or os.path.isabs(path):
        return path
    return str(folder / path)


def _nonempty(value: Any, name: str) -> list[Any]:
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__len__") or len(value) == 0:
        raise ValueError(f"'{name}' must be a list that is not empty.")
    return list(value)


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        hint = ""
        if isinstance(value, (int, float)):
            hint = " (in CSV, digits are read as a number): write the data as JSONL, with quotes around it"
        raise ValueError(f"'{name}' must be a string, not {type(value).__name__}{hint}.")
    return value


def _missing(row: Row, task: str | None) -> str:
    needs = {
        "asr": "'audio' and 'text'",
        "tts": "'audio' and 'text'",
        "chat": "'messages', or 'question' or 'question_audio' and 'answer' or 'answer_audio'",
    }.get(task or "", ACCEPTED_FORMS)
    found = ", ".join(repr(name) for name in row) or "nothing"
    what = f"Task {task} needs" if task in ("asr", "tts", "chat") else "A row needs"
    return f"{what} {needs}, but this row holds {found}: rename its columns."
