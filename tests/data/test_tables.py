"""Cells and lines of text tables: the same in training and in evaluation, text as it is written."""

import codecs
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from both_readers import READERS, Reader

from ttt_hf.data import load_source
from ttt_hf.data.tables import MAX_CELL, list_problems, read_table, resolve_path


pytest.importorskip("datasets", reason="needs the extra train")
pytestmark = pytest.mark.usefixtures("prepared_data")


@pytest.fixture
def table(tmp_path: Path, make_audio: Callable[..., Path]) -> Callable[..., Path]:
    """`table("data.csv", "audio,text\\na.wav,hi\\n")` writes a file beside the recordings a.wav and b.wav."""

    def write(name: str, content: str | bytes) -> Path:
        for recording in ("a.wav", "b.wav"):
            make_audio(recording)
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path / name

    return write


# -- cells ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("word", ["007", "null", "NA", "None", "N/A", "nan", "True", "1e5", "3.0", "-", "[1]", "{}"])
def test_text_is_text(table: Callable[..., Path], word: str, read: Reader) -> None:
    assert read(table("data.csv", f"audio,text\na.wav,{word}\n")) == [("a.wav", word)]
    # A column of nothing else is one of text, too.
    assert read(table("more.csv", f"audio,text\na.wav,{word}\nb.wav,{word}\n")) == [("a.wav", word), ("b.wav", word)]
    line = json.dumps({"audio": "a.wav", "text": word})
    assert read(table("data.jsonl", line)) == read(table("data.json", f"[{line}]")) == [("a.wav", word)]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("value", [7, 1.5, True])
def test_numbers_of_json_are_no_text(table: Callable[..., Path], value: object, read: Reader) -> None:
    with pytest.raises(ValueError, match=r"data.jsonl, line 1.*: write it as (a string|text)"):
        read(table("data.jsonl", json.dumps({"audio": "a.wav", "text": value})))


@pytest.mark.parametrize("read", READERS)
def test_blanks_around_cells_are_no_part_of_them(table: Callable[..., Path], read: Reader) -> None:
    assert read(table("data.csv", " Audio , TEXT \n a.wav ,  two  words \n")) == [("a.wav", "two  words")]
    rows = [{" Audio": " a.wav", "TEXT ": "\ttwo words\n"}]
    assert read(table("data.jsonl", json.dumps(rows[0]))) == [("a.wav", "two words")]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_delimiters_are_told_apart(table: Callable[..., Path], delimiter: str, suffix: str, read: Reader) -> None:
    lines = [["speaker, room", "text", "audio"], ["anna", "one, two; three\tfour", "a.wav"], ["otto", "x", "b.wav"]]
    content = "\r\n".join(delimiter.join(f'"{cell}"' for cell in line) for line in lines)
    assert read(table(f"data.{suffix}", content)) == [("a.wav", "one, two; three\tfour"), ("b.wav", "x")]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("kind", ["csv", "jsonl", "json"])
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (b"", "utf-16-le"),
        (b"", "utf-16-be"),
    ],
)
def test_unicode_in_every_encoding(
    table: Callable[..., Path], kind: str, mark: bytes, encoding: str, read: Reader
) -> None:
    row = json.dumps({"audio": "a.wav", "text": "Grüße, 你好\u2028!"}, ensure_ascii=False)
    content = {"csv": 'audio,text\na.wav,"Grüße, 你好\u2028!"\n', "jsonl": row, "json": f"[{row}]"}[kind]
    assert read(table(f"data.{kind}", mark + content.encode(encoding))) == [("a.wav", "Grüße, 你好\u2028!")]


# -- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", ["data.csv", "data.jsonl"])
def test_backslashes_lead_into_folders(
    tmp_path: Path, make_audio: Callable[..., Path], name: str, read: Reader
) -> None:
    audio = make_audio("clips/more/a.wav")
    rows = {
        "data.csv": "audio,text\nclips\\more\\a.wav,hi\n",
        "data.jsonl": '{"audio": "clips\\\\more\\\\a.wav", "text": "hi"}',
    }
    (tmp_path / name).write_text(rows[name])
    assert read(tmp_path / name) == [("a.wav", "hi")]
    assert resolve_path("clips\\more\\a.wav", tmp_path) == str(audio)
    literal = make_audio("clips\\more\\a.wav")
    assert resolve_path("clips\\more\\a.wav", tmp_path) == str(literal)


def test_paths_begin_at_their_table_or_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert resolve_path("a/b.wav", tmp_path) == str(tmp_path / "a" / "b.wav")
    assert resolve_path("~/b.wav", tmp_path) == str(tmp_path / "home" / "b.wav")
    assert resolve_path("/b.wav", tmp_path) == "/b.wav"
    assert resolve_path("b.wav", None) == "b.wav"
    assert resolve_path("https://example.org/a\\b.wav", tmp_path) == "https://example.org/a\\b.wav"


# -- lines ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", READERS)
def test_rows_are_named_by_the_line_where_they_start(table: Callable[..., Path], read: Reader) -> None:
    content = '\naudio,text\na.wav,"one\n\ntwo"\n\nb.wav,x,y\n'
    with pytest.raises(ValueError, match=r"data.csv, line 7: This row has 3 cells, but the header names 2"):
        read(table("data.csv", content))
    assert read(table("data.csv", content.replace(",y", ""))) == [("a.wav", "one\n\ntwo"), ("b.wav", "x")]
    with pytest.raises(ValueError, match=r"data.jsonl, line 3"):
        read(table("data.jsonl", '{"audio": "a.wav", "text": "x"}\n\n{"audio": "b.wav"}\n'))
    with pytest.raises(ValueError, match=r"data.json, row 2"):
        read(table("data.json", '[{"audio": "a.wav", "text": "x"},\n\n{"audio": "b.wav"}]'))


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.csv", "audio,text\na.wav,Gr\xfc\xdfe\n".encode("cp1252"), r"data.csv, line 2 is not UTF-8 text"),
        ("data.jsonl", '{"text": "x"}\n\n{"text": "\xfc"}\n'.encode("latin-1"), r"data.jsonl, line 3 is not UTF-8"),
        ("data.csv", "audio,text\na.wav,x\n".encode("utf-16") + b"a", r"data.csv, line 3 is not UTF-16 text"),
        ("data.csv", b"audio,text\na.wav,x\x00y\n", r"data.csv, line 2 holds a NUL byte"),
        ("data.csv", b"", r"data.csv is empty \(0 bytes\)"),
        ("data.csv", b"audio,text\n\n", r"data.csv is empty: it has no rows"),
        ("data.csv", b"audio,text\n,\n ,\n", r"data.csv is empty: it has no rows"),
        ("data.csv", b"audio,text, Text\na.wav,x,y\n", r"data.csv has two columns 'Text': rename one"),
        ("data.csv", b'audio,text\na.wav,"x\nb.wav,y\n', r"data.csv, line 2: the quotes of this row cannot be read"),
        ("data.csv", b'audio,text\na.wav,x\na.wav,"Hi" he said\n', r"data.csv, line 3: the quotes of this row"),
        ("data.json", b"{}", r"data.json must hold a list of rows"),
        ("data.json", b"[{]", r"data.json: This is not JSON"),
        ("data.jsonl", b'{"audio": "a.wav"', r"data.jsonl, line 1: This is not JSON"),
        ("data.jsonl", b"[" * 100_000, r"data.jsonl, line 1: This is not JSON"),
        ("data.jsonl", b"null\n", r"data.jsonl, line 1: A row is an object, not NoneType"),
        ("data.txt", b"x", r"data.txt is of an unknown type: JSONL"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read(
    table: Callable[..., Path], name: str, content: bytes, message: str, read: Reader
) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        read(table(name, content))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("read", READERS)
def test_long_cells(table: Callable[..., Path], read: Reader) -> None:
    text = "word " * 40_000 + "end"
    assert read(table("data.csv", f"audio,text\na.wav,{text}\n")) == [("a.wav", text)]


@pytest.mark.parametrize("read", READERS)
def test_columns_without_a_name_do_not_count(table: Callable[..., Path], read: Reader) -> None:
    assert read(table("data.csv", ",audio,text,\n0,a.wav,x,\n1,b.wav,y\n")) == [("a.wav", "x"), ("b.wav", "y")]


# -- all errors at once -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", READERS)
def test_all_rows_that_cannot_be_used_are_listed(table: Callable[..., Path], read: Reader) -> None:
    lines = ["{", '{"audio": "a.wav"}', "3", '{"audio": "a.wav", "text": "x"}', '{"audio": "a.wav", "text": 1}']
    with pytest.raises(ValueError, match=r"data.jsonl, line 1") as raised:
        read(table("data.jsonl", "\n".join(lines)))
    told = str(raised.value)
    assert [f"data.jsonl, line {number}" in told for number in range(1, 6)] == [True, True, True, False, True]
    assert "\n" not in told


@pytest.mark.parametrize("read", READERS)
def test_a_long_list_ends_in_a_number(table: Callable[..., Path], read: Reader) -> None:
    with pytest.raises(ValueError, match="and 5 more") as raised:
        read(table("data.csv", "audio,text\na.wav,fine\n" + "a.wav,b,c\n" * 25))
    assert str(raised.value).count("data.csv, line ") == 20
    assert list_problems(["a.", "b"]) == "a; b"


@pytest.mark.parametrize("text", ["", "  ", None])
def test_empty_transcripts_are_errors_in_training(table: Callable[..., Path], text: str | None) -> None:
    path = table("data.jsonl", json.dumps({"audio": "a.wav", "text": text}))
    with pytest.raises(
        ValueError, match=r"data.jsonl, line 1: This row holds 'audio', but its text is empty: fill it"
    ):
        load_source(path, task="asr")
    path = table("data.csv", f"audio,text\na.wav,hi\nb.wav,{text or ''}\n")
    with pytest.raises(ValueError, match=r"data.csv, line 3: This row holds 'audio', but its text is empty: fill it"):
        load_source(path, task="tts")


def test_streams_say_it_when_they_reach_the_row(table: Callable[..., Path]) -> None:
    rows = iter(load_source(table("data.csv", "audio,text\na.wav,hi\nb.wav,\n"), streaming=True, task="asr"))
    assert next(rows)["task"] == "asr"
    with pytest.raises(ValueError, match=r"data.csv, line 3: .*its text is empty"):
        next(rows)


def test_a_header_too_long_for_csv(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b"a" * (MAX_CELL + 9))
    with path.open("rb") as file, pytest.raises(ValueError, match=r"data.csv, line 1: .*field larger"):
        list(read_table(path, file))
