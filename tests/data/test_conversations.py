"""Rows of all accepted forms become canonical ones."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from ttt_hf.data import SampleBuilder, canonical_row, encode_row


ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")


TEXT = {"type": "text", "text": "Hello."}
SPEECH = {"type": "audio", "path": "a.wav"}


def turns(user, assistant):
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def test_typed_messages_keep_what_they_say():
    words = [{"text": "Hello.", "start": 0.1, "end": 0.5}]
    messages = [
        {"role": "system", "content": "Be kind."},
        *turns([SPEECH, TEXT], [{**TEXT, "words": words}, {"type": "audio", "codes": [1, 2]}]),
        {"role": "user", "content": "More?"},
        {"role": "assistant", "content": [TEXT, {"type": "audio", "codes": [3]}], "interleaved": True},
    ]
    row = canonical_row({"messages": messages, "task": "chat", "id": 7})
    assert row["task"] == "chat"
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    assert row["messages"][0]["content"] == [{"type": "text", "text": "Be kind."}]
    assert row["messages"][2]["content"][0]["words"] == words
    assert row["messages"][4]["interleaved"] is True
    assert canonical_row(row) == row


def test_items_as_other_apis_write_them():
    items = [
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "audio_url", "audio_url": {"url": "https://host/a.wav"}},
        # As in a Parquet file, where every item has the keys of all.
        {"type": "audio", "path": "a.wav", "audio_url": None, "text": None},
        {"type": "audio", "path": None, "audio_url": "a.wav", "text": None},
    ]
    row = canonical_row({"messages": turns(items, [TEXT])})
    url = {"type": "audio", "path": "https://host/a.wav"}
    assert row["messages"][0]["content"] == [{"type": "audio", "bytes": b"RIFF"}, url, SPEECH, SPEECH]


def test_recognition_and_reading_aloud():
    row = {"audio": "a.wav", "text": "Hello.", "speaker": 3}
    assert canonical_row(row, "asr") == {"messages": turns([SPEECH], [TEXT]), "task": "asr"}
    assert canonical_row(row, "tts") == {"messages": turns([TEXT], [TEXT, SPEECH]), "task": "tts"}
    assert canonical_row({**row, "task": "asr"})["task"] == "asr"
    words = [{"text": "Hello.", "start": 0.0, "end": 0.4}]
    assert canonical_row({**row, "words": words}, "tts")["messages"][1]["content"][0]["words"] == words


@pytest.mark.parametrize(
    ("row", "user", "assistant", "task"),
    [
        ({"question": "Hello.", "answer": "Hello."}, [TEXT], [TEXT], "text"),
        ({"question": "Hello.", "answer": "Hello.", "answer_audio": "a.wav"}, [TEXT], [TEXT, SPEECH], "chat"),
        ({"question_audio": "a.wav", "question": "Bye.", "answer": "Hello."}, [SPEECH], [TEXT], "chat"),
        ({"question_audio": "a.wav", "answer_audio": "a.wav"}, [SPEECH], [SPEECH], "chat"),
    ],
)
def test_questions_and_answers(row, user, assistant, task):
    assert canonical_row(row) == {"messages": turns(user, assistant), "task": task}


def test_pre_training():
    assert canonical_row({"text": "Hello."}) == {"content": [TEXT], "task": None}
    assert canonical_row({"audio": "a.wav"}) == {"content": [SPEECH], "task": None}
    assert canonical_row({"content": [TEXT, SPEECH]}) == {"content": [TEXT, SPEECH], "task": None}


@pytest.mark.parametrize(
    ("audio", "item"),
    [
        ("/data/a.wav", {"path": "/data/a.wav"}),
        ("https://example.org/a.wav", {"path": "https://example.org/a.wav"}),
        ({"path": "a.wav", "bytes": None}, {"path": "folder/a.wav"}),
        ({"path": "a.wav", "bytes": b"RIFF"}, {"bytes": b"RIFF"}),
        (b"RIFF", {"bytes": b"RIFF"}),
        ([1, 2, 3], {"codes": [1, 2, 3]}),
    ],
)
def test_audio_cells(tmp_path, audio, item):
    row = canonical_row({"audio": audio}, folder=tmp_path)
    if item.get("path") == "folder/a.wav":
        item = {"path": str(tmp_path / "a.wav")}
    assert row["content"] == [{"type": "audio", **item}]


def test_samples_keep_their_rate():
    samples = np.zeros(10, dtype=np.float32)
    item = canonical_row({"audio": {"array": samples, "sampling_rate": 8000}})["content"][0]
    assert item["audio"] is samples
    assert item["sampling_rate"] == 8000


@pytest.mark.parametrize(
    ("row", "task", "message"),
    [
        ({"speech": "a.wav", "label": 1}, None, "'speech', 'label'"),
        ({"audio": "a.wav", "transcript": "Hi"}, "asr", "needs 'audio' and 'text'.*'audio', 'transcript'"),
        ({"text": "Hi"}, "tts", "needs 'audio' and 'text'.*'text'"),
        ({"question": "Hi?"}, None, "'question'"),
        ({"audio": "a.wav", "text": "Hi"}, None, "needs a task, asr or tts"),
        ({"text": "Hi"}, "sing", "no task 'sing'"),
        ({"messages": []}, None, "'messages' must be a list that is not empty"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, None, "'role'"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, None, "Content items"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, None, "exactly one of"),
        ({"content": [{"type": "audio", "path": "a", "codes": [1]}]}, None, "exactly one of"),
        ({"audio": 3}, None, "Audio is a path"),
        ({"audio": "a.wav", "text": 3}, "asr", "'text' must be a string, not int: write it as text"),
        ({"audio": "a.wav", "text": None}, "tts", "its text is empty: fill it in"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "asr", "holds no audio to listen to"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(row, task, message):
    with pytest.raises(ValueError, match=message) as raised:
        canonical_row(row, task)
    assert "\n" not in str(raised.value)


# -- documentation ----------------------------------------------------------------------------------------------------


def documented_rows() -> list[dict]:
    """Every JSON example of docs/data.md, items of a reply as the conversation they are part of."""
    decoder, found = json.JSONDecoder(), []
    for block in re.findall(r"^ *```json\n(.*?)^ *```$", PAGE, re.S | re.M):
        rest = block.strip()
        while rest:
            value, end = decoder.raw_decode(rest)
            if "type" in value:
                reply = [value, {"type": "audio", "path": "answer.wav"}]
                value = {"messages": [{"role": "user", "content": "Five plus three?"},
                                      {"role": "assistant", "content": reply}]}  # fmt: skip
            found.append(value)
            rest = rest[end:].strip()
    return found


def test_documented_rows_can_be_learned(embedded, embedded_config, make_audio, tmp_path):
    # A tone that is longer than a second is no question to a model that hears speech.
    for name, seconds in (("question.wav", 0.9), ("answer.wav", 3.0), ("clip.wav", 0.9)):
        make_audio(name, seconds=seconds)
    builder = SampleBuilder(embedded, embedded_config)
    rows = documented_rows()
    assert len(rows) == 11
    for row in rows:
        encoded, _ = encode_row(canonical_row(row, folder=tmp_path), embedded.codec)
        assert any(label != -100 for label in builder(encoded)["labels"])
