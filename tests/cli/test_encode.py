"""`ttt-hf encode`: codes, what it says about them, and every bad input: one sentence, an exit code."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fixed_reply import tone, write_wav
from ttt_hf.atomic_files import lock_folder
from ttt_hf.data import check_fingerprint, load_source
from ttt_hf.names import EXAMPLE_QUESTION
from ttt_hf.processing import TtTProcessor


datasets = pytest.importorskip("datasets", reason="needs the extra train")


@pytest.fixture(autouse=True)
def prepared_data(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps what `datasets` prepares out of the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Four recordings of different rates with their texts; the last one is broken."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    lines = ["file_name,text"]
    for number, rate in enumerate((8000, 16000, 22050)):
        write_wav(folder / f"{number}.wav", tone(0.5 + number / 10, rate), rate)
        lines.append(f"{number}.wav,tone {number}")
    (folder / "3.wav").write_bytes(b"this is no audio")
    (folder / "metadata.csv").write_text("\n".join([*lines, "3.wav,noise"]) + "\n")
    return folder


def assert_one_error(result: object, message: str, code: int = 1) -> None:
    assert result.code == code, result
    assert result.err.startswith("ttt-hf: error: "), result
    assert result.err.count("\n") == 1, result.err
    assert message in result.err
    assert not result.out


def test_help_has_examples_and_tasks(run: Callable) -> None:
    result = run("encode", "--help")
    assert result.code == 0
    assert "examples:\n  ttt-hf encode" in result.out
    assert "tts" in result.out and "--json" in result.out


def test_codec_by_name(run: Callable, checkpoint: Path, recordings: Path, tmp_path: Path) -> None:
    model = shutil.copytree(checkpoint, tmp_path / "model", ignore=shutil.ignore_patterns("codec"))
    arguments = ("encode", recordings, "--task", "asr", "--out", tmp_path / "out", "--model", model, "--workers", "1")
    assert_one_error(run(*arguments), "or name it with --codec")
    assert run(*arguments, "--codec", checkpoint / "codec").code == 0
    check_fingerprint(tmp_path / "out", TtTProcessor.from_pretrained(checkpoint).codec)


def test_damaged_codec(run: Callable, checkpoint: Path, recordings: Path, tmp_path: Path) -> None:
    codec = Path(shutil.copytree(checkpoint / "codec", tmp_path / "codec"))
    settings = json.loads((codec / "config.json").read_text())
    (codec / "config.json").write_text(json.dumps({**settings, "hop_length": "/"}))
    result = run("encode", recordings, "--task", "asr", "--out", tmp_path / "out", "--codec", codec, "--workers", "1")
    assert_one_error(result, "codec/config.json cannot be used (hop_length expected int, got str")


def test_folder_of_recordings(run: Callable, checkpoint: Path, recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "encoded"
    arguments = ("encode", recordings, "--task", "asr", "--out", out, "--model", checkpoint, "--workers", "1")
    result = run(*arguments)
    assert (result.code, result.out) == (0, f"3 rows, 1.8 s of audio, shards: 1, in {out}\n")
    assert f"ttt-hf: rows left out because they cannot be used: 1, see {out / 'broken.jsonl'}" in result.err
    rows = load_source(out)
    assert [row["messages"][1]["content"][0]["text"] for row in rows] == ["tone 0", "tone 1", "tone 2"]
    # 12.5 codes a second, the last one begun.
    assert [len(row["messages"][0]["content"][0]["codes"]) for row in rows] == [7, 8, 9]
    check_fingerprint(rows, TtTProcessor.from_pretrained(checkpoint).codec)
    shards = {path: path.stat().st_mtime_ns for path in out.glob("shard-*")}
    assert run(*arguments).out == result.out  # goes on from what is there: nothing is left to do
    assert {path: path.stat().st_mtime_ns for path in out.glob("shard-*")} == shards


def test_json(run: Callable, checkpoint: Path, recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "encoded"
    result = run(
        "encode", recordings, "--task", "tts", "--out", out, "--model", checkpoint, "--shard-size", 3, "--json",
        "--workers", 1,
    )  # fmt: skip
    facts = json.loads(result.out)
    assert result.out.count("\n") == 1
    assert facts == {
        "rows": 3,
        "skipped": 1,
        "seconds": pytest.approx(1.8, abs=0.01),
        "shards": 2,
        "fingerprint": json.loads((out / "encoding.json").read_text())["fingerprint"],
        "out": str(out),
    }


def test_variants(run: Callable, checkpoint: Path, recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "encoded"
    arguments = ("encode", recordings, "--task", "asr", "--out", out, "--model", checkpoint, "--workers", 1)
    made = run(*arguments, "--variants", 2, "--seed", 7)
    assert made.out == f"3 rows, 1.8 s of audio, 6 variants, shards: 1, in {out}\n"
    rows = load_source(out)
    assert [len(row["messages"][0]["content"][0]["variants"]) for row in rows] == [2, 2, 2]
    assert json.loads(run(*arguments, "--variants", 2, "--seed", 7, "--json").out)["variants"] == 6
    result = run(*arguments, "--variants", 3, "--seed", 7)
    assert_one_error(result, "another encoding (its variants differs)")


def test_changed_data(run: Callable, checkpoint: Path, recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "encoded"
    arguments = ("encode", recordings, "--task", "asr", "--out", out, "--model", checkpoint, "--workers", "1")
    assert run(*arguments).code == 0
    metadata = recordings / "metadata.csv"
    metadata.write_text(metadata.read_text().replace("tone 1", "a better text"))
    result = run(*arguments, "--json")
    assert (json.loads(result.out)["changed"], json.loads(result.out)["rows"]) == (1, 3)
    assert f"{out}: 1 of 4 rows changed: encoding them again\n" in result.err
    assert [row["messages"][1]["content"][0]["text"] for row in load_source(out)][1] == "a better text"
    write_wav(recordings / "3.wav", tone(1.0, 8000), 8000)
    assert run(*arguments).out.startswith("4 rows, ")
    assert run(*arguments[:3], "tts", *arguments[4:], "--json").code == 0
    assert {row["task"] for row in load_source(out)} == {"tts"}


def test_a_second_process_is_refused(run: Callable, checkpoint: Path, recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "encoded"
    arguments = ("encode", recordings, "--task", "asr", "--out", out, "--model", checkpoint, "--workers", "1")
    with lock_folder(out):
        assert_one_error(run(*arguments), f"Another process is writing to {out}: wait until it is done")
    assert run(*arguments).code == 0


def test_private_files_and_addresses(run: Callable, checkpoint: Path, recordings: Path, tmp_path: Path) -> None:
    metadata = recordings / "metadata.csv"
    metadata.write_text(metadata.read_text() + "../secret.wav,a secret\n")
    write_wav(tmp_path / "secret.wav", tone(1.0, 8000), 8000)
    arguments = ("encode", recordings, "--task", "asr", "--model", checkpoint, "--workers", "1", "--json", "--out")
    assert json.loads(run(*arguments, tmp_path / "without").out)["skipped"] == 2
    assert json.loads(run(*arguments, tmp_path / "with", "--allow-private").out)["skipped"] == 1


def test_embedded_codec_is_the_default(run: Callable, tmp_path: Path) -> None:
    row = {"question_audio": str(EXAMPLE_QUESTION), "answer": "A vegetable."}
    (tmp_path / "data.jsonl").write_text(json.dumps(row) + "\n")
    result = run("encode", tmp_path / "data.jsonl", "--out", tmp_path / "out", "--json")
    assert json.loads(result.out)["rows"] == 1
    (row,) = load_source(tmp_path / "out")
    assert row["task"] == "chat"
    assert len(row["messages"][0]["content"][0]["codes"]) == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encode"], "SOURCE"),
        (["encode", "data.jsonl"], "--out"),
        (["encode", "data.jsonl", "--out", "x", "--task", "sing"], "invalid choice: 'sing'"),
        (["encode", "data.jsonl", "--out", "x", "--workers", "0"], "--workers must be at least 1"),
        (["encode", "data.jsonl", "--out", "x", "--shard-size", "0"], "--shard-size must be at least 1"),
        (["encode", "data.jsonl", "--out", "x", "--max-broken", "2"], "--max-broken is a share from 0 to 1"),
        (["encode", "data.jsonl", "--out", "x", "--variants", "-1"], "--variants must not be negative"),
        (["encode", "data.jsonl", "--out", "x", "--seed", "-1"], "--seed must not be negative"),
    ],
)
def test_usage_errors(run: Callable, arguments: list[str], message: str) -> None:
    assert_one_error(run(*arguments), message, code=2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "data.jsonl is empty"),
        ("\n", "data.jsonl is empty"),
        ('{"text": "only text"}\n', "no audio to encode"),
        ('{"audio": "a.wav", "text": "Hi."}\n', "needs a task, asr or tts"),
        ('{"speech": "a.wav"}\n', "'speech'"),
        ('{"audio": "missing.wav"}\n', "There is no audio file"),
    ],
)
def test_bad_data(run: Callable, checkpoint: Path, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "data.jsonl").write_text(content)
    result = run("encode", tmp_path / "data.jsonl", "--out", tmp_path / "out", "--model", checkpoint, "--workers", 1)
    assert_one_error(result, message)
    assert not list(tmp_path.glob("out/shard-*.part"))


def test_bad_places(run: Callable, checkpoint: Path, recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("encode", tmp_path / "missing.jsonl", "--out", out, "--model", checkpoint)
    assert_one_error(result, "There is no file or folder")
    result = run("encode", recordings, "--out", out, "--model", tmp_path / "nothing", "--task", "asr")
    assert_one_error(result, "There is no folder")
    result = run("encode", recordings, "--out", recordings / "0.wav", "--model", checkpoint, "--task", "asr")
    assert_one_error(result, "0.wav is a file: name a folder")
    result = run("encode", recordings, "--out", recordings, "--model", checkpoint, "--task", "asr")
    assert_one_error(result, "is not empty")
    assert not out.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to the superuser")
def test_forbidden_output(run: Callable, checkpoint: Path, recordings: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    result = run("encode", recordings, "--out", locked / "out", "--model", checkpoint, "--task", "asr")
    assert_one_error(result, "cannot be written")


def test_output_below_a_file_cannot_be_written(
    run: Callable, checkpoint: Path, recordings: Path, tmp_path: Path
) -> None:
    result = run("encode", recordings, "--out", recordings / "0.wav" / "out", "--model", checkpoint, "--task", "asr")
    assert_one_error(result, "cannot be written")


@pytest.mark.slow  # six processes that import everything
def test_processes_of_a_launcher_share_a_folder(recordings: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    alone = [sys.executable, "-m", "ttt_hf.cli"]
    together = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launched = [*together, "-m", "ttt_hf.cli"]

    def encode(command: list[str], name: str) -> tuple[str, str]:
        words = ["encode", str(recordings), "--task", "asr", "--out", str(tmp_path / name), "--shard-size", "1"]
        result = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout.replace(name, "OUT"), result.stderr

    def content(name: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}

    assert encode(launched, "shared")[0] == encode(alone, "single")[0]
    assert content("shared") == content("single")
    assert len(content("shared")) == 6  # four shards, encoding.json, broken.jsonl
    # One recording is another one now: its row is encoded again, by whichever process, and told once.
    write_wav(recordings / "1.wav", tone(0.9, 16000), 16000)
    output, errors = encode(launched, "shared")
    assert "1 of 4 rows changed" in errors
    assert output == encode(alone, "single")[0]
    assert content("shared") == content("single")
