"""Folders of every layout: as many rows are read as there are, whatever files and folders are called."""

import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from both_readers import READERS, Reader, evaluation_rows, train_rows

from ttt_hf.data import listing, load_source
from ttt_hf.data.listing import list_folder
from ttt_hf.data.reading import open_table


pytest.importorskip("datasets", reason="needs the extra train")
pytestmark = pytest.mark.usefixtures("prepared_data")


@pytest.fixture
def data(tmp_path: Path, make_audio: Callable[..., Path]) -> Callable[..., Path]:
    """`data("a/b.wav", ...)` writes tones; `data({"a.csv": "..."})` writes text; returns the folder."""

    def write(*names: str | dict[str, str]) -> Path:
        for name in names:
            if isinstance(name, dict):
                for file, content in name.items():
                    (tmp_path / "data" / file).parent.mkdir(parents=True, exist_ok=True)
                    (tmp_path / "data" / file).write_text(content, encoding="utf-8")
            elif name.lower().endswith((".wav", ".flac")):
                make_audio(f"data/{name}")
        return tmp_path / "data"

    return write


def jsonl(*names: str) -> str:
    """A row for each recording, whose text is its name without the suffix."""
    return "".join(json.dumps({"audio": name, "text": Path(name).stem}) + "\n" for name in names)


def metadata(*names: str, delimiter: str = ",") -> str:
    return f"file_name{delimiter}text\n" + "".join(f"{name}{delimiter}{Path(name).stem}\n" for name in names)


# Folders of audio alone: every file is a row.
AUDIO = {
    "a word of a file name": ("dog barks.wav", "train whistle.wav", "rain.wav"),
    "a word of a folder name": ("session1/a.wav", "session2/b.wav", "train_station/c.wav"),
    "a speaker who is called test": ("anna/a.wav", "test/b.wav", "otto/c.wav"),
    "a folder of a split beside recordings": ("train/a.wav", "b.wav"),
    "splits below folders": ("anna/train/a.wav", "anna/test/b.wav", "otto/test/c.wav"),
    "names that are patterns": ("take [1]/a*.wav", "take [2]/b?.wav", "{c}.wav"),
    "names of splits in upper case": ("Train/a.wav", "TEST/b.wav"),
    "suffixes of several kinds": ("a.WAV", "b.flac", "c.wav"),
    "names that datasets knows": ("test-00000-of-00001.wav", "dev.wav", "validation_1.wav", "eval.wav"),
}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("names", AUDIO.values(), ids=AUDIO)
def test_folders_of_audio(data: Callable[..., Path], names: tuple[str, ...], read: Reader) -> None:
    assert sorted(read(data(*names), task=None)) == sorted((Path(name).name, "") for name in names)


# Tables, and folders of audio with metadata: (recordings, files of text).
TABLES = {
    "metadata of a folder": (["a.wav", "test/b.wav"], {"metadata.csv": metadata("a.wav", "test/b.wav")}),
    "metadata of each subfolder": (
        ["one/a.wav", "test/b.wav", "test/more/c.wav"],
        {"one/metadata.csv": metadata("a.wav"), "test/metadata.jsonl": '{"file_name": "b.wav", "text": "b"}\n'
         '{"file_name": "more/c.wav", "text": "c"}\n'},
    ),
    "headers in different cases": (
        ["a/a.wav", "b/b.wav"],
        {"a/metadata.csv": metadata("a.wav").replace("text", "Text"), "b/metadata.csv": metadata("b.wav")},
    ),
    "metadata with tabs": (["a.wav", "b.wav"], {"metadata.tsv": metadata("a.wav", "b.wav", delimiter="\t")}),
    "names of splits": (
        ["a.wav", "b.wav", "c.wav"],
        {"train.jsonl": jsonl("a.wav"), "test.jsonl": jsonl("b.wav"), "validation.jsonl": jsonl("c.wav")},
    ),
    "tables in subfolders": (
        ["one/a.wav", "test/b.wav", "c.wav"],
        {"one/rows.jsonl": jsonl("a.wav"), "test/rows.jsonl": jsonl("b.wav"), "rows.jsonl": jsonl("c.wav")},
    ),
    "CSV files": (
        ["a.wav", "b.wav"],
        {"dev.csv": metadata("a.wav").replace("file_name", "audio"), "x.csv": "text;audio\nb;b.wav\n"},
    ),
    "Kaldi": (
        ["wav/a.wav", "wav/b.wav"],
        {"wav.scp": "u1 wav/a.wav\nu2\twav/b.wav\n", "text": "u2 b\nu1 a\n"},
    ),
    "hidden files": (["a.wav"], {"rows.jsonl": jsonl("a.wav"), ".rows.jsonl": jsonl("b.wav"), ".x/b.csv": "no"}),
}  # fmt: skip


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(("recordings", "files"), TABLES.values(), ids=TABLES)
def test_folders_of_tables(
    data: Callable[..., Path], recordings: list[str], files: dict[str, str], read: Reader
) -> None:
    expected = sorted((Path(name).name, Path(name).stem) for name in recordings)
    assert sorted(read(data(*recordings, files))) == expected


@pytest.mark.parametrize("read", READERS)
def test_folders_of_parquet(tmp_path: Path, make_audio: Callable[..., Path], read: Reader) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ["train-00000-of-00001", "data/test-00000-of-00001", "data [1]/validation*"]
    for number, name in enumerate(names):
        file = tmp_path / "data" / f"{name}.parquet"
        make_audio(f"data/{name}.wav")
        audio = f"{file.stem}.wav"  # beside its own table
        pq.write_table(pa.table({"audio": [audio, audio], "text": [f"row {number}", "more"]}), file)
    rows = read(tmp_path / "data")
    assert sorted(text for _, text in rows) == ["more", "more", "more", "row 0", "row 1", "row 2"]
    table = open_table(tmp_path / "data")
    assert all(Path(row.folder, row.cells["audio"]).is_file() for row in table.rows())
    pq.write_table(pa.table({"audio": ["a.wav", "b.wav"], "text": ["fine", None]}), tmp_path / "data" / "z.parquet")
    with pytest.raises(ValueError, match=r"data/z.parquet, row 2"):
        read(tmp_path / "data")


@pytest.mark.parametrize("read", READERS)
def test_metadata_in_parquet(data: Callable[..., Path], read: Reader) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = data("more/a.wav", "b.wav")
    pq.write_table(pa.table({"file_name": ["a.wav"], "text": ["a"]}), folder / "more" / "metadata.parquet")
    assert read(folder) == [("a.wav", "a")]
    assert [row.folder for row in open_table(folder).rows()] == [folder / "more"]


@pytest.mark.parametrize("read", READERS)
def test_linked_folders(data: Callable[..., Path], tmp_path: Path, read: Reader) -> None:
    folder = data("a.wav")
    shutil.copytree(folder, tmp_path / "elsewhere")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    assert len(read(folder, task=None)) == 2


# -- splits -----------------------------------------------------------------------------------------------------------


def test_splits_are_folders_that_hold_everything(data: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    folder = data("train/a.wav", "test/b.wav", "test/c.wav", {"README.md": "# Recordings\n"})
    assert train_rows(folder, task=None) == [("a.wav", "")]
    assert "left out: split test (2 files)" in caplog.text
    assert train_rows(folder, task=None, split="test") == [("b.wav", ""), ("c.wav", "")]
    assert evaluation_rows(folder, task=None) == [("b.wav", ""), ("c.wav", "")]
    assert evaluation_rows(folder, task=None, split="train") == [("a.wav", "")]
    for read in READERS:
        with pytest.raises(ValueError, match=r"has no split validation, but \['train', 'test'\]"):
            read(folder, task=None, split="validation")


@pytest.mark.parametrize("read", READERS)
def test_splits_of_tables(data: Callable[..., Path], read: Reader) -> None:
    folder = data("train/a.wav", "test/b.wav", {"train/rows.jsonl": jsonl("a.wav"), "test/rows.jsonl": jsonl("b.wav")})
    assert read(folder, split="train") == [("a.wav", "a")]
    assert read(folder, split="test") == [("b.wav", "b")]
    data({"rows.jsonl": jsonl("train/a.wav")})  # beside them: the folders are no splits any more
    assert sorted(read(folder)) == [("a.wav", "a"), ("a.wav", "a"), ("b.wav", "b")]


def test_a_split_of_data_without_splits(data: Callable[..., Path]) -> None:
    folder = data("a.wav", {"rows.jsonl": jsonl("a.wav")})
    for path in (folder, folder / "rows.jsonl"):
        assert len(load_source(path, task="asr", split="train")) == 1
        with pytest.raises(ValueError, match=r"has no split test, but \['train'\]"):
            load_source(path, task="asr", split="test")
        assert evaluation_rows(path) == [("a.wav", "a")]


# -- what is left out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", READERS)
def test_what_is_left_out_is_counted_and_said(
    data: Callable[..., Path], caplog: pytest.LogCaptureFixture, read: Reader
) -> None:
    folder = data(
        "a.wav", "more/b.wav", "c.wav",
        {"metadata.csv": metadata("a.wav"), "more/rows.jsonl": jsonl("b.wav"), "x.pdf": "?", "y.pdf": "?"},
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        assert read(folder) == [("a.wav", "a")]
    (said,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert said == (
        f"{folder}: left out: 1 file (.jsonl); 2 files (.pdf); 2 audio files without a row in metadata.csv"
    )


@pytest.mark.parametrize("read", READERS)
def test_nothing_is_said_where_nothing_is_left_out(
    data: Callable[..., Path], caplog: pytest.LogCaptureFixture, read: Reader
) -> None:
    read(data("clips/a.wav", "b.wav", {"rows.jsonl": jsonl("clips/a.wav", "./b.wav")}))
    assert "left out" not in caplog.text


@pytest.mark.parametrize("read", READERS)
def test_transcripts_without_recordings_are_counted(
    data: Callable[..., Path], caplog: pytest.LogCaptureFixture, read: Reader
) -> None:
    read(data("a.wav", {"wav.scp": "u1 a.wav\n", "text": "u1 a\nu2 b\nu3 c\n"}))
    assert "left out: 2 transcripts without a recording" in caplog.text


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.csv": "audio,text\n", "b.jsonl": "{}"}, r"holds files of several types \(.csv, .jsonl\): name one file"),
        ({"metadata.csv": metadata("a.wav"), "metadata.jsonl": "{}"}, r"has metadata.csv and metadata.jsonl: delete"),
        ({"metadata.csv": "file_name,text\n"}, "metadata.csv is empty: give it a row for each audio file"),
        ({"metadata.csv": "file_name,text\n,hi\n"}, "metadata.csv, line 2: This row has no file_name"),
        ({"metadata.csv": "name,text\na.wav,hi\n"}, "metadata.csv, line 2: This row has no file_name"),
        ({"wav.scp": "u1 a.wav\n"}, "has a wav.scp, but no transcripts beside it"),
        ({"wav.scp": "u1 a.wav\n", "text": "u2 hi\n"}, "wav.scp, line 1: text has no transcript of u1"),
        ({"wav.scp": "u1 sox a.wav -t wav - |\n", "text": "u1 hi\n"}, "This is a command, and commands are not run"),
        ({"wav.scp": "u1 a.wav\n", "text": "u1 hi\nu1 ho\n"}, "has two lines for u1"),
        ({"notes.txt": "nothing"}, "holds no data that can be read"),
    ],
)
def test_folders_that_cannot_be_read(
    data: Callable[..., Path], files: dict[str, str], message: str, read: Reader
) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        read(data(files))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("read", READERS)
def test_the_whole_file_system_is_no_data(data: Callable[..., Path], read: Reader) -> None:
    # By any of its names, such as a link among the data.
    for folder in ("/", "/..", (link := data("a.wav") / "link")):
        link.is_symlink() or link.symlink_to("/")
        with pytest.raises(ValueError, match=r"is the root of the file system: name the folder of the data\.$"):
            read(Path(folder))


@pytest.mark.parametrize("read", READERS)
def test_too_many_files(data: Callable[..., Path], read: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_FILES", 2)
    assert len(read(data("a.wav", "b/b.wav"), task=None)) == 2
    with pytest.raises(ValueError, match="has more than 2 files: name the folder of the data, or a table"):
        read(data("c.wav"), task=None)


def test_columns_of_recordings_in_metadata(data: Callable[..., Path]) -> None:
    line = {"question_audio_file_name": "a.wav", "answer": "Yes.", "answer_audio_file_name": "b.wav"}
    folder = data("a.wav", "b.wav", {"metadata.jsonl": json.dumps(line) + "\n"})
    (row,) = load_source(folder)
    paths = [item["path"] for message in row["messages"] for item in message["content"] if item["path"]]
    assert paths == [str(folder / "a.wav"), str(folder / "b.wav")]


def test_many_recordings_take_no_time_to_speak_of(tmp_path):
    for number in range(10_000):
        (tmp_path / f"{number}.wav").touch()
    begin = time.process_time()
    assert len(list_folder(tmp_path, None, True).audio) == 10_000
    assert time.process_time() - begin < 3


@pytest.mark.parametrize("header", ["[" * 5000, "a: 2026-45-01", "a: [", "a: !!python/name:os.system"])
def test_a_card_that_is_no_yaml_declares_nothing(data, header):
    folder = data("a.wav", {"README.md": f"---\n{header}\n---\n"})
    assert len(list(open_table(folder).rows())) == 1
