"""What is said about recordings that are broken, data that are wrong, and data sets that the Hub does not give."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from source_files import local, summary, tone_writer, write_jsonl

from ttt_hf.evaluation.concepts import Task
from ttt_hf.evaluation.task_samples import load_samples
from ttt_hf.evaluation.tasks import load_task


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def make_audio(tmp_path: Path) -> Callable[..., Path]:
    return tone_writer(tmp_path)


@pytest.fixture
def prepared_data(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps what `datasets` prepares out of the user's cache."""
    datasets = pytest.importorskip("datasets", reason="needs the extra train")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


# -- what is wrong with samples: they stay, with an error -------------------------------------------------------------


def test_broken_recordings_stay_in_the_set_with_their_errors(tmp_path, make_audio):
    make_audio("good.wav")
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("no audio", encoding="utf-8")
    good = (tmp_path / "good.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(good[:60])
    names = ["good.wav", "empty.wav", "text.wav", "cut.wav", "absent.wav", ""]
    rows = [{"audio": name, "text": "x"} for name in names]
    rows.append({"audio": {"bytes": None, "path": None}, "text": "x"})
    samples = load_samples(local(write_jsonl(tmp_path / "data.jsonl", rows)))
    assert len(samples) == 7
    found = summary(samples)
    assert found[0][3] is None
    assert all(entry[1] == 0 for entry in found[1:])
    errors = [entry[3] for entry in found[1:]]
    words = ["is empty", "not audio", "cut", "no audio file", "no recording", "no recording"]
    assert all(word in error for word, error in zip(words, errors, strict=True))
    assert all(error.endswith(".") and "\n" not in error for error in errors)
    assert samples.seconds[1:3] == [0.0, 0.0]


def test_recordings_are_decoded_when_asked_for(tmp_path, make_audio):
    audio = make_audio("a.wav")
    samples = load_samples(local(write_jsonl(tmp_path / "data.jsonl", [{"audio": "a.wav", "text": "x"}])))
    assert samples[0][1] is None
    audio.write_bytes(b"")
    assert "is empty" in samples[0][1]


# -- what is wrong with data: one sentence, before anything begins ----------------------------------------------------


def one_sentence(error: type[Exception], task: Task) -> str:
    with pytest.raises(error) as info:
        load_samples(task)
    text = str(info.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


def test_other_columns(tmp_path, make_audio):
    make_audio("a.wav")
    path = write_jsonl(tmp_path / "data.jsonl", [{"audio": "a.wav", "sentence": "x"}])
    text = one_sentence(ValueError, local(path))
    assert "has no column 'text', which task local reads as references, but audio, sentence" in text
    assert "columns.references=NAME" in text
    assert len(load_samples(local(path, **{"columns.references": "sentence"}))) == 1


def test_other_number_of_samples(tmp_path, make_audio):
    make_audio("a.wav")
    path = write_jsonl(tmp_path / "data.jsonl", [{"id": str(n), "audio": "a.wav", "text": "x"} for n in range(3)])
    text = one_sentence(ValueError, load_task("fsdd", path=str(path)))
    assert "has 3 samples, but task fsdd has 300" in text
    assert "expected=3" in text
    assert len(load_samples(load_task("fsdd", path=str(path), expected=3))) == 3


def test_ids_that_come_twice(tmp_path, make_audio):
    make_audio("a.wav")
    path = write_jsonl(tmp_path / "data.jsonl", [{"id": n, "audio": "a.wav", "text": "x"} for n in ("a", "b", "a")])
    text = one_sentence(ValueError, local(path, **{"columns.id": "id"}))
    assert f"data.jsonl, line 3 has the id 'a', as has {path}, line 1" in text
    assert len(load_samples(local(path))) == 3


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"audio": "a.wav"}, "data.jsonl, line 2 has nothing in its column 'text'"),
        ({"audio": "a.wav", "text": None}, "data.jsonl, line 2 has nothing in its column 'text'"),
        ({"audio": "a.wav", "text": 1.5}, "data.jsonl, line 2 has no text in its column 'text', but 1.5"),
        ({"audio": "a.wav", "text": ["x", True]}, "has no text in its column 'text', but True"),
    ],
)
def test_rows_without_a_reference(tmp_path, make_audio, row, words):
    make_audio("a.wav")
    path = write_jsonl(tmp_path / "data.jsonl", [{"audio": "a.wav", "text": "x"}, row])
    with pytest.raises(ValueError, match=words):
        load_samples(local(path))


def test_everything_that_is_wrong_with_rows_is_said_at_once(tmp_path, make_audio):
    make_audio("a.wav")
    rows = [{"id": "a", "text": "x"}, {"id": "a", "text": "x"}, {"id": "", "text": "x"}, {"id": "b"}]
    rows.append({"id": True, "text": "x"})
    path = write_jsonl(tmp_path / "data.jsonl", [{"audio": "a.wav", **row} for row in rows])
    text = one_sentence(ValueError, local(path, **{"columns.id": "id"}))
    words = [
        "the id 'a', as has",
        "an empty id",
        "nothing in its column 'text'",
        "no text in its column 'id', but True",
    ]
    assert [text.count(f"{path}, line {number} has {word}") for number, word in enumerate(words, start=2)] == [1] * 4


def test_an_empty_cell_is_no_reference_where_there_is_no_other(tmp_path, make_audio):
    make_audio("a.wav")
    path = tmp_path / "data.csv"
    path.write_text("audio,text,more\na.wav,x,\na.wav,,y\na.wav,,\n", encoding="utf-8")
    text = one_sentence(ValueError, local(path, **{"columns.references": ["text", "more"]}))
    assert text == f"{path}, line 4 has nothing in its column 'text': fill it in, or delete the row."
    path.write_text("audio,text,more\na.wav,x,\na.wav,,y\n", encoding="utf-8")
    samples = load_samples(local(path, **{"columns.references": ["text", "more"]}))
    assert [entry[2] for entry in summary(samples)] == [("x",), ("y",)]


def test_durations_of_a_table_are_numbers(tmp_path, make_audio):
    make_audio("a.wav")
    path = tmp_path / "data.csv"
    path.write_text("audio,text,seconds\na.wav,x,7.5\na.wav,x,long\na.wav,x,\n", encoding="utf-8")
    assert load_samples(local(path, **{"columns.seconds": "seconds"})).seconds == [7.5, 0.5, 0.5]


def test_empty_reference_is_one(tmp_path, make_audio):
    make_audio("a.wav")
    path = write_jsonl(tmp_path / "data.jsonl", [{"audio": "a.wav", "text": ""}])
    assert load_samples(local(path))[0][0].references == ("",)


def test_audio_in_another_folder(tmp_path, make_audio):
    path = write_jsonl(tmp_path / "data.jsonl", [{"audio": f"gone/{n}.wav", "text": "x"} for n in range(3)])
    text = one_sentence(FileNotFoundError, local(path))
    assert "None of the 3 recordings of task local is there" in text
    assert "gone/0.wav" in text


def test_audio_in_another_folder_is_found_out_behind_an_empty_cell(tmp_path):
    rows = [{"audio": name, "text": "x"} for name in ("", "gone/1.wav", "gone/2.wav")]
    text = one_sentence(FileNotFoundError, local(write_jsonl(tmp_path / "data.jsonl", rows)))
    assert "None of the 2 recordings of task local is there, such as" in text
    assert "gone/1.wav" in text


def test_a_column_without_any_recording(tmp_path):
    rows = [{"audio": cell, "text": "x"} for cell in ("", None, {"bytes": None, "path": None})]
    path = write_jsonl(tmp_path / "data.jsonl", rows)
    text = one_sentence(ValueError, local(path))
    assert text == (
        f"{path} has no recording in any of its 3 rows, in the column that task local reads as audio: name the right "
        "one with columns.audio=NAME."
    )


def test_a_limit_does_not_decide_whether_there_are_recordings(tmp_path, make_audio):
    make_audio("a.wav")
    rows = [{"audio": name, "text": "x"} for name in ("", "gone.wav", "a.wav")]
    samples = load_samples(local(write_jsonl(tmp_path / "data.jsonl", rows)), limit=2)
    assert ["no recording" in samples[0][1], "no audio file" in samples[1][1]] == [True, True]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", "", "is empty (0 bytes)"),
        ("a.jsonl", "\n", "has no rows"),
        ("a.jsonl", '{"audio": "x", "text": "y"}\n{"audio": "x", "te', "line 2: This is not JSON"),
        ("a.jsonl", "[1]\n", "A row is an object, not list"),
        ("a.json", "{}", "must hold a list of rows"),
        ("a.csv", "audio,text\n", "has no rows"),
        ("a.txt", "x", "is of an unknown type"),
        ("a.csv", b"audio,text\n\xff\xfe,x\n", "a.csv, line 2 is not UTF-8"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert words in one_sentence(ValueError, local(path))


def test_folders_that_cannot_be_read(tmp_path, make_audio):
    (tmp_path / "bare").mkdir()
    assert "holds no data that can be read" in one_sentence(ValueError, local(tmp_path / "bare"))
    (tmp_path / "bare" / "wav.scp").write_text("a a.wav\n", encoding="utf-8")
    assert "no transcripts beside it: text or trans.txt" in one_sentence(ValueError, local(tmp_path / "bare"))
    (tmp_path / "bare" / "text").write_text("b hello\n", encoding="utf-8")
    assert "has no transcript of a" in one_sentence(ValueError, local(tmp_path / "bare"))
    (tmp_path / "bare" / "text").write_text("a hello\na hello\n", encoding="utf-8")
    assert "has two lines for a" in one_sentence(ValueError, local(tmp_path / "bare"))
    text = one_sentence(FileNotFoundError, load_task("llama_questions_s2t", path=str(tmp_path)))
    assert "There is no eval_datas/llama_questions/llama_questions.csv in" in text


def test_data_that_the_user_has_to_bring(tmp_path):
    text = one_sentence(FileNotFoundError, load_task("aishell2"))
    assert "Task aishell2 needs data of your own: give them with path=FILE_OR_FOLDER" in text
    assert "apply for AISHELL-2" in text
    text = one_sentence(FileNotFoundError, load_task("aishell2", path=str(tmp_path / "gone")))
    assert "There is no file or folder" in text
    assert "apply for AISHELL-2" in text


# -- the Hub, played by a server of our own ---------------------------------------------------------------------------


@contextmanager
def hub(status: int, code: str, message: str) -> Iterator[str]:
    """A server that answers every request as the Hub does for a data set that one may not have."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"error": message}).encode()
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", message)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_POST = do_GET

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def load_from_hub(names: list[str], endpoint: str, home: Path) -> list[str]:
    """What loading tasks and training data says; its own process, because the Hub's address is read at import."""
    code = (
        "import sys\n"
        "from ttt_hf.data import load_source\n"
        "from ttt_hf.evaluation.task_samples import load_samples\n"
        "from ttt_hf.evaluation.tasks import load_task\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        load_source(name) if '/' in name else load_samples(load_task(name))\n"
        "    except Exception as error:\n"
        "        print(f'{type(error).__name__}: {error}')\n"
    )
    settings = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "*"}
    environment = {**os.environ, **settings, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", code, *names]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


# A data set of Parquet files, and a table beside a folder of audio: they are fetched in different ways.
FETCHED = ["librispeech_clean", "llama_questions_s2t"]


@pytest.mark.slow  # two processes that import everything
@pytest.mark.usefixtures("prepared_data")
@pytest.mark.parametrize(
    ("status", "code", "error", "words"),
    [
        (403, "GatedRepo", "PermissionError", "is gated: accept its terms on https://huggingface.co/datasets/"),
        (404, "RepoNotFound", "FileNotFoundError", "is not on the Hub, or is private: log in with `hf auth login`"),
    ],
)
def test_data_sets_that_the_hub_does_not_give(tmp_path, status, code, error, words):
    with hub(status, code, "Access to this data set is restricted, or there is none.") as endpoint:
        *said, training = load_from_hub([*FETCHED, "organisation/dataset"], endpoint, tmp_path)
    subject = "There is no file or folder organisation/dataset, and the data set of that name"
    assert training.startswith(f"{error}: {subject} {words}")
    assert training.endswith(", or check the name.")
    for task, sentence in zip(FETCHED, said, strict=True):
        assert sentence.startswith(f"{error}: The data set {load_task(task).source.path} of task {task} {words}")
        assert "give a local copy with path=FOLDER" in sentence


@pytest.mark.usefixtures("prepared_data")
@pytest.mark.parametrize("task", FETCHED)
def test_no_network(task):
    text = one_sentence(FileNotFoundError, load_task(task))
    assert f"The data set {load_task(task).source.path} of task {task} cannot be downloaded" in text
    assert "give a local copy with path=FOLDER" in text


def test_rows_name_the_same_files_as_in_training(tmp_path, make_audio):
    path = make_audio("outside.wav")
    rows = [
        {"audio": name, "text": "x"}
        for name in ("../outside.wav", path.as_uri(), str(path), "http://127.0.0.1:1/a.wav")
    ]
    (tmp_path / "data").mkdir()
    table = write_jsonl(tmp_path / "data" / "rows.jsonl", rows)
    errors = [error for _, error in load_samples(local(table))]
    assert "is not in the folder of these data" in errors[0] and "allow_private" in errors[0]
    assert errors[2] is None and errors[3] is not None and "refused" not in errors[3]
    with pytest.raises(
        ValueError, match=r"None of the recordings of task local may be read: .*outside\.wav is not in"
    ):
        load_samples(local(write_jsonl(tmp_path / "data" / "outside.jsonl", rows[:1])))
    errors = [error for _, error in load_samples(local(table, allow_private=True))]
    assert errors[:3] == [None] * 3 and "refused" in errors[3].casefold()
