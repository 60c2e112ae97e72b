"""Opening data of every kind, as canonical rows."""

import ast
import csv
import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

import ttt_hf.data
from ttt_hf.data import canonical_row, load_source, open_source
from ttt_hf.data.sources import row_features


pytest.importorskip("datasets", reason="needs the extra train")
pytestmark = pytest.mark.usefixtures("prepared_data")

FSDD = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "fsdd" / "test.jsonl"
SPAN = "<|begin_of_audio|><|audio_1|><|audio_2|><|end_of_audio_new|>"


def write_jsonl(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_texts(path: Path, texts: list[str]) -> Path:
    path.write_text(json.dumps([{"text": text} for text in texts]), encoding="utf-8")
    return path


def bare(row: dict) -> dict:
    """A row without the columns and keys that are empty."""
    if isinstance(row, dict):
        return {key: bare(value) for key, value in row.items() if value is not None and value != []}
    return [bare(part) for part in row] if isinstance(row, list) else row


def texts_of(rows) -> list[str]:
    return [row["content"][0]["text"] for row in rows]


# -- kinds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
def test_jsonl_of_task_columns(tmp_path, make_audio, streaming):
    audio = make_audio("clips/a.wav")
    path = write_jsonl(tmp_path / "data.jsonl", [{"audio": "clips/a.wav", "text": "Hi.", "seconds": 1}] * 3)
    rows = list(load_source(path, streaming, task="asr"))
    assert len(rows) == 3
    assert bare(rows[0]) == {
        "messages": [
            {"role": "user", "content": [{"type": "audio", "path": str(audio)}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Hi."}]},
        ],
        "task": "asr",
    }


@pytest.mark.parametrize("streaming", [False, True])
def test_json_whose_content_is_now_a_string_now_a_list(tmp_path, streaming):
    rows = [
        {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": f"Yes.{SPAN}"}]},
        {"messages": [{"role": "assistant", "content": [{"type": "text", "text": "Hi.", "words": [
            {"text": "Hi.", "start": 0.0, "end": 0.5}]}]}]},
        {"text": f"{SPAN} and more"},
    ]  # fmt: skip
    (tmp_path / "data.json").write_text(json.dumps(rows), encoding="utf-8")
    loaded = load_source(tmp_path / "data.json", streaming)
    assert loaded.features == row_features()
    assert [bare(row) for row in loaded] == [bare(canonical_row(row)) for row in rows]
    assert [canonical_row(row) for row in loaded] == [canonical_row(row) for row in rows]


@pytest.mark.parametrize("streaming", [False, True])
def test_csv(tmp_path, make_audio, streaming):
    audio = make_audio("a.wav")
    with (tmp_path / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["audio", "text"], ["a.wav", "Hi."], ["a.wav", "Bye."]])
    rows = list(load_source(tmp_path / "data.csv", streaming, task="tts"))
    assert bare(rows[1]["messages"][1]["content"]) == [
        {"type": "text", "text": "Bye."},
        {"type": "audio", "path": str(audio)},
    ]


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_with_audio_inside(tmp_path, make_audio, streaming):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Audio, Features, Value

    content = make_audio("a.wav", rate=8000).read_bytes()
    features = Features({"audio": Audio(sampling_rate=16000), "text": Value("string")})
    rows = [{"audio": {"bytes": content, "path": None}, "text": "Hi."}]
    pq.write_table(pa.Table.from_pylist(rows, schema=features.arrow_schema), tmp_path / "data.parquet")
    (row,) = load_source(tmp_path / "data.parquet", streaming, task="asr")
    assert bare(row["messages"][0]["content"]) == [{"type": "audio", "bytes": content}]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("metadata", ["csv", "jsonl"])
def test_folder_of_audio(tmp_path, make_audio, metadata, streaming):
    names = ["one.wav", "two.wav"]
    paths = [make_audio(f"speech/{name}") for name in names]
    if metadata == "csv":
        lines = ["file_name,text", *(f"{name},{name[:3]}" for name in names)]
        (tmp_path / "speech" / "metadata.csv").write_text("\n".join(lines) + "\n")
    else:
        rows = [{"file_name": name, "text": name[:3]} for name in names]
        write_jsonl(tmp_path / "speech" / "metadata.jsonl", rows)
    loaded = load_source(tmp_path / "speech", streaming, task="asr")
    heard = {row["messages"][1]["content"][0]["text"]: row["messages"][0]["content"][0]["path"] for row in loaded}
    assert heard == {"one": str(paths[0]), "two": str(paths[1])}


def test_folder_of_audio_alone_is_for_pre_training(tmp_path, make_audio):
    path = make_audio("speech/one.wav")
    (row,) = load_source(tmp_path / "speech")
    assert bare(row) == {"content": [{"type": "audio", "path": str(path)}]}


def test_folder_of_files(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}])
    write_jsonl(tmp_path / "b.jsonl", [{"text": "b"}])
    assert texts_of(load_source(tmp_path)) == ["a", "b"]


def test_the_same_relative_name_elsewhere_is_another_folder(tmp_path, make_audio, monkeypatch):
    for place in ("first", "second"):
        audio = make_audio(f"{place}/recordings/a.wav")
        os.utime(audio, (0, 0))  # nothing but the place tells them apart
        monkeypatch.chdir(tmp_path / place)
        (row,) = load_source("recordings")
        assert str(tmp_path / place) in json.dumps(row)


def test_a_changed_file_is_read_anew(tmp_path):
    path = write_jsonl(tmp_path / "data.jsonl", [{"text": "old"}])
    assert texts_of(load_source(path)) == ["old"]
    write_jsonl(path, [{"text": "new"}, {"text": "newer"}])
    assert texts_of(load_source(path)) == ["new", "newer"]


@pytest.mark.skipif(not FSDD.is_file(), reason="the spoken digits are not here")
def test_spoken_digits():
    source = open_source(FSDD, task="asr")
    assert len(source.rows) == 300
    rows = [source.check(row, number) for number, row in enumerate(source.rows.select(range(5)))]
    assert {row["messages"][1]["content"][0]["text"] for row in rows} == {"zero"}
    assert all(os.path.isfile(row["messages"][0]["content"][0]["path"]) for row in rows)


# -- mixtures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
def test_mixture_holds_its_ratios_and_depends_on_the_seed_alone(tmp_path, make_audio, streaming):
    make_audio("a.wav")
    texts = write_jsonl(tmp_path / "texts.jsonl", [{"text": "t"}] * 300)
    speech = write_jsonl(tmp_path / "speech.jsonl", [{"audio": "a.wav", "text": "Hi."}] * 20)
    parts = [{"path": texts, "ratio": 3}, {"path": str(speech), "ratio": 1, "task": "asr"}]
    rows, again, other = (list(load_source(parts, streaming, seed=seed)) for seed in (0, 0, 1))
    assert rows == again
    assert [row["task"] for row in rows] != [row["task"] for row in other]
    counts = Counter(row["task"] for row in rows)
    assert counts[None] >= 300  # all of the larger set; the smaller one came again
    assert counts["asr"] / len(rows) == pytest.approx(0.25, abs=0.06)


def write_config(folder: Path) -> Path:
    write_texts(folder / "all.json", [f"a{number}" for number in range(10)])
    write_texts(folder / "half.json", [f"h{number}" for number in range(100)])
    write_texts(folder / "none.json", ["n"])
    entries = [
        {"path": "all.json", "sample_ratio": 1, "data_type": "PT"},
        {"path": str(folder / "half.json"), "sample_ratio": 0.5, "data_type": "PT"},
        {"path": "none.json", "sample_ratio": 0, "data_type": "IT"},
    ]
    (folder / "data_config.json").write_text(json.dumps(entries, indent=4))
    return folder / "data_config.json"


def test_official_data_config_takes_a_share_of_each_set_once(tmp_path):
    config = write_config(tmp_path)
    texts, again, other = (texts_of(load_source(config, seed=seed)) for seed in (0, 0, 1))
    assert texts == again != other
    assert len(texts) == len(set(texts)) == 60
    assert {text for text in texts if text[0] == "a"} == {f"a{number}" for number in range(10)}
    assert texts != sorted(texts)


def test_official_data_config_can_be_streamed_and_be_a_mapping(tmp_path):
    config = write_config(tmp_path)
    entries = json.loads(config.read_text())
    config.write_text(json.dumps({entry["path"]: entry for entry in entries}))
    texts = texts_of(load_source(config, streaming=True))
    assert len(texts) == len(set(texts))
    counts = Counter(text[0] for text in texts)
    assert counts["a"] == 10
    assert 30 <= counts["h"] <= 70
    assert counts["n"] == 0


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["missing.jsonl", "./missing", "/nowhere/at/all", "organisation/dataset", "missing"])
def test_what_is_not_there(name):
    with pytest.raises(FileNotFoundError, match="There is no file or folder") as raised:
        load_source(name)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.xlsx", "PK", "unknown type: JSONL, JSON, Parquet and CSV"),
        ("data.jsonl", "", "is empty"),
        ("data.json", "[]", "is empty: it has no rows"),
        ("data.csv", "audio,text\n", "data.csv"),
        ("data.jsonl", '{"text": "a"}\n{"text": \n', "line 2: This is not JSON"),
        ("data.jsonl", '{"speech": "a.wav", "label": 1}\n', "line 1: .*'speech', 'label'"),
        ("data.jsonl", '{"text": "a"}\n{"label": 1}\n', "line 2: .*'label'"),
        ("data.csv", "speech,label\na.wav,1\n", "'speech', 'label'"),
        ("data.csv", "audio,answer\na.wav,yes\n,no\n", "data.csv, line 3: .*'answer', but its audio is empty"),
        ("data.json", '{"text": "a"}', "must hold a list"),
        ("data.jsonl", "3\n", "line 1: A row is an object, not int"),
        ("data.parquet", "no parquet", "data.parquet"),
        ("config.json", '[{"path": "missing.json", "sample_ratio": 0}]', "names no data"),
        ("config.json", '[{"sample_ratio": 1}]', "needs 'path'"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as raised:
        load_source(tmp_path / name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content"), [("metadata.csv", "file_name,text\n"), ("metadata.csv", ""), ("metadata.jsonl", "\n")]
)
def test_metadata_without_rows(tmp_path, make_audio, name, content):
    make_audio("speech/one.wav")
    (tmp_path / "speech" / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name} is empty: give it a row for each audio file"):
        load_source(tmp_path / "speech", task="asr")


def test_folders_that_hold_nothing_to_read(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ValueError, match="holds no data that can be read"):
        load_source(tmp_path)
    (tmp_path / "encoding.json").write_text('{"complete": false}')
    with pytest.raises(ValueError, match="not finished: run the same `ttt-hf encode` again"):
        load_source(tmp_path)


def test_recordings_of_rows_that_need_a_task_are_not_said_to_have_none(tmp_path, caplog):
    (tmp_path / "a.wav").write_bytes(b"")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.wav,A.\n")
    opened = open_source(tmp_path)  # as training does, before it takes the task of the recipe
    assert opened.rows[0]["error"] and "without a row" not in caplog.text


def test_rows_that_cannot_be_used_are_left_out_up_to_a_share(tmp_path, caplog):
    path = write_jsonl(tmp_path / "data.jsonl", [{"text": "a"}, {"text": " "}, {"text": "b"}, {"speech": "c"}])
    assert texts_of(load_source(path, max_broken=0.5)) == ["a", "b"]
    assert f"{path}: rows left out because they cannot be used: 2 ({path}, line 2: " in caplog.text
    with pytest.raises(ValueError, match=r"More rows cannot be used than the 1 allowed: .*line 2.*line 4"):
        load_source([{"path": path}], max_broken=0.25)
    with pytest.raises(ValueError, match=r"None of the rows can be used: .*line 1"):
        load_source(write_jsonl(tmp_path / "none.jsonl", [{"text": ""}]), max_broken=1.0)
    with pytest.raises(ValueError, match="share of the rows, from 0 to 1, not 2"):
        load_source(path, max_broken=2)


@pytest.mark.parametrize("parts", [[], [{"path": "a.jsonl", "ratio": 0}], [{"ratio": 1}]])
def test_mixtures_that_are_none(parts):
    with pytest.raises(ValueError, match="mixture"):
        load_source(parts)


def test_missing_split_is_named(tmp_path, make_audio):
    make_audio("speech/one.wav")
    with pytest.raises(ValueError, match=r"test.*\['train'\]"):
        load_source(tmp_path / "speech", split="test")


def test_without_datasets_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'ttt-hf\[train\]'"):
        load_source("data.jsonl")


@pytest.mark.parametrize("path", sorted(Path(ttt_hf.data.__file__).parent.glob("*.py")), ids=lambda path: path.name)
def test_the_room_opens_without_the_packages_of_the_extra(path):
    statements = [node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {alias.name for node in statements if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in statements if isinstance(node, ast.ImportFrom) and not node.level}
    assert {name.split(".")[0] for name in names}.isdisjoint({"datasets", "pyarrow", "peft", "yaml", "tqdm"})


def test_a_mixture_that_would_repeat_its_rows_for_ever_is_refused(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text('{"text": "hello"}\n' * 3)
    for first, second in ((0.5, 2**31), (1e308, 1e308)):
        parts = [{"path": tmp_path / "a.jsonl", "ratio": first}, {"path": tmp_path / "b.jsonl", "ratio": second}]
        with pytest.raises(ValueError, match="rows would come more than 1,000 times"):
            load_source(parts, task="text")
