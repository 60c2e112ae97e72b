"""Encodings of data that have changed: what differs is encoded again, and the rest is taken over."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ttt_hf
from ttt_hf.data import encode_source, load_source, open_source
from ttt_hf.processing.listening import load_recording


pq = pytest.importorskip("pyarrow.parquet", reason="needs the extra train")
pytest.importorskip("datasets", reason="needs the extra train")
pytestmark = pytest.mark.usefixtures("prepared_data")

CODEC = Path(ttt_hf.embedded_checkpoint()) / "codec"
SETTINGS = {"name": "tones", "shard_size": 3}


@pytest.fixture
def table(tmp_path, make_audio):
    """`write(rows)` writes a table; `rows` are eight recordings with their texts."""
    for number in range(8):
        make_audio(f"clips/{number}.wav", pitch=200 + 40 * number)

    def write(rows):
        path = tmp_path / "data.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    write.rows = [{"audio": f"clips/{number}.wav", "text": f"tone {number}"} for number in range(8)]
    return write


@pytest.fixture
def count_reads(monkeypatch):
    """The recordings that were decoded."""
    read = []

    def counting(source, *arguments, **keywords):
        read.append(Path(source).name if isinstance(source, str) else "bytes")
        return load_recording(source, *arguments, **keywords)

    monkeypatch.setattr("ttt_hf.data.shards.load_recording", counting)
    return read


def shards_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "encoding.json"}


def encode(path, out, task="asr", **settings):
    return encode_source(open_source(path, task=task), CODEC, out, **{**SETTINGS, **settings})


def assert_as_new(path, out, **settings):
    """The folder holds, byte for byte, what a run into a new folder gives."""
    fresh = out.with_name("fresh")
    encode(path, fresh, **settings)
    assert shards_of(out) == shards_of(fresh)
    assert json.loads((out / "encoding.json").read_text()) == json.loads((fresh / "encoding.json").read_text())
    shutil.rmtree(fresh)


def test_a_corrected_transcript_is_encoded_again_and_nothing_else(tmp_path, table, count_reads, caplog):
    out = tmp_path / "out"
    assert encode(table(table.rows), out).changed == 0
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*")}
    assert (len(before), len(count_reads), caplog.messages) == (3, 8, [])
    table.rows[4]["text"] = "a corrected text"
    count_reads.clear()
    report = encode(table(table.rows), out)
    assert (report.changed, report.rows, count_reads) == (1, 8, ["4.wav"])
    assert caplog.messages == [f"{out}: 1 of 8 rows changed: encoding them again"]
    assert [row["messages"][1]["content"][0]["text"] for row in load_source(out)][4] == "a corrected text"
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*")}
    assert {name for name in before if before[name] != after[name]} == {"shard-00001-of-00003.parquet"}
    assert_as_new(table(table.rows), out)
    count_reads.clear()
    assert encode(table(table.rows), out).changed == 0
    assert (count_reads, len(caplog.messages)) == ([], 1)


def test_a_recording_of_the_same_name_and_size_is_noticed_by_its_time(tmp_path, table, make_audio, caplog):
    path, out = table(table.rows), tmp_path / "out"
    encode(path, out)
    codes = [row["messages"][0]["content"][0]["codes"] for row in load_source(out)]
    recording = tmp_path / "clips" / "2.wav"
    size, time_before = recording.stat().st_size, recording.stat().st_mtime_ns
    make_audio("clips/2.wav", pitch=900)
    os.utime(recording, ns=(time_before, time_before - 5_000_000_000))
    assert recording.stat().st_size == size
    assert encode(path, out).changed == 1
    assert "1 of 8 rows changed" in caplog.text
    changed = [row["messages"][0]["content"][0]["codes"] for row in load_source(out)]
    assert [number for number in range(8) if codes[number] != changed[number]] == [2]
    assert_as_new(path, out)


def test_another_task_makes_other_rows(tmp_path, table, caplog):
    path, out = table(table.rows), tmp_path / "out"
    encode(path, out)
    assert encode(path, out, task="tts").changed == 8
    assert "8 of 8 rows changed" in caplog.text
    assert {row["task"] for row in load_source(out)} == {"tts"}
    assert_as_new(path, out, task="tts")


def test_other_codecs_variants_and_seeds_are_other_encodings(tmp_path, table):
    path, out = table(table.rows), tmp_path / "out"
    encode(path, out, variants=1)
    before = shards_of(out)
    for settings, what in (({"variants": 2}, "variants"), ({"variants": 0}, "variants"), ({"seed": 1}, "seed")):
        with pytest.raises(ValueError, match=f"holds another encoding .its {what} differs.: name a new folder"):
            encode(path, out, **{"variants": 1, **settings})
    assert shards_of(out) == before


@pytest.mark.parametrize("variants", [0, 1])
@pytest.mark.parametrize(
    "order",
    [[3, 1, 4, 0, 5, 7, 2, 6], [1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3], [7, 0, 1, 2, 3, 4, 5, 6, 7, 7]],
    ids=["reordered", "first removed", "last removed", "repeated"],
)
def test_rows_that_moved_keep_their_codes(tmp_path, table, count_reads, caplog, order, variants):
    rows, out = table.rows, tmp_path / "out"
    encode(table(rows), out, variants=variants)
    count_reads.clear()
    path = table([rows[number] for number in order])
    report = encode(path, out, variants=variants)
    assert report.rows == len(order)
    assert [row["messages"][1]["content"][0]["text"] for row in load_source(out)] == [f"tone {n}" for n in order]
    if variants:  # they depend on the number of the row
        assert len(count_reads) == sum(number != place for place, number in enumerate(order))
    else:
        assert not count_reads and "rows were removed, moved" in caplog.text
    assert_as_new(path, out, variants=variants)


def test_a_row_that_is_repaired_is_no_longer_listed_as_broken(tmp_path, table, make_audio):
    path, out = table(table.rows), tmp_path / "out"
    (tmp_path / "clips" / "1.wav").write_bytes(b"no audio")
    assert encode(path, out, max_broken=0.2).skipped == 1
    assert (out / "broken.jsonl").is_file()
    make_audio("clips/1.wav")
    report = encode(path, out)
    assert (report.rows, report.skipped, report.changed) == (8, 0, 1)
    assert not (out / "broken.jsonl").exists()


def test_changed_bytes_in_a_parquet_file_of_the_same_time_are_noticed(tmp_path, make_audio):
    import pyarrow as pa

    path, out = tmp_path / "data.parquet", tmp_path / "out"

    def write(texts):
        audio = [{"bytes": make_audio(f"{text}.wav", pitch=300).read_bytes(), "path": None} for text in texts]
        pq.write_table(pa.table({"audio": audio, "text": texts}), path)
        os.utime(path, ns=(0, 10**18))

    write(["one", "two"])
    size = path.stat().st_size
    encode(path, out)
    write(["one", "six"])
    assert path.stat().st_size == size
    assert encode(path, out).changed == 1
    assert [row["messages"][1]["content"][0]["text"] for row in load_source(out)] == ["one", "six"]


def test_a_table_of_the_same_size_and_time_is_read_again(tmp_path, table):
    path = table([{"text": "one"}])
    os.utime(path, ns=(0, 10**18))
    assert [row["content"][0]["text"] for row in load_source(path)] == ["one"]
    table([{"text": "six"}])
    os.utime(path, ns=(0, 10**18))
    assert [row["content"][0]["text"] for row in load_source(path)] == ["six"]


def test_shards_that_were_replaced_are_not_read_from_a_cache(tmp_path, table):
    out = tmp_path / "out"
    encode(table(table.rows), out)
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*")}
    assert len(load_source(out)) == 8
    table.rows[0]["text"] = "tone X"
    encode(table(table.rows), out)
    for name, time_ in times.items():  # as a copy with `rsync --times` from another computer may have
        os.utime(out / name, ns=(time_, time_))
    assert next(iter(load_source(out)))["messages"][1]["content"][0]["text"] == "tone X"


def test_an_encoding_of_an_older_version_says_that_it_cannot_be_compared(tmp_path, table, caplog):
    path, out = table(table.rows), tmp_path / "out"
    encode(path, out)
    for shard in out.glob("shard-*"):
        content = pq.read_table(shard)
        statistics = json.loads(content.schema.metadata[b"ttt_hf"])
        older = {key: value for key, value in statistics.items() if key not in ("start", "keys", "row_seconds")}
        metadata = {**content.schema.metadata, b"ttt_hf": json.dumps(older)}
        pq.write_table(content.replace_schema_metadata(metadata), shard)
    assert encode(path, out).rows == 8
    assert "an older version wrote it" in caplog.text
    assert_as_new(path, out)


def test_a_shard_that_is_a_pipe_is_not_waited_for(tmp_path, table):
    out = tmp_path / "out"
    encode(table(table.rows), out)
    shard = next(out.glob("shard-*"))
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(ValueError, match=f"{shard.name} is damaged: delete it, and run the same command again"):
        encode(table(table.rows), out)


def test_an_interruption_of_the_second_run_loses_nothing(tmp_path, table, count_reads, monkeypatch):
    rows, out = table.rows, tmp_path / "out"
    encode(table(rows), out)
    path = table([{**rows[7], "text": "new"}, *rows])

    def stop(*arguments, **keywords):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ttt_hf.data.shards.load_recording", stop)
        with pytest.raises(KeyboardInterrupt):
            encode(path, out)
    with pytest.raises(ValueError, match="is not finished"):
        load_source(out)
    count_reads.clear()
    encode(path, out)
    assert count_reads == ["7.wav"]
    assert_as_new(path, out)


def test_a_second_process_is_refused_or_waits(tmp_path, table):
    from ttt_hf.atomic_files import lock_folder

    path, out = table(table.rows), tmp_path / "out"
    with lock_folder(out), pytest.raises(BlockingIOError, match=f"Another process is writing to {out}"):
        encode(path, out)
    encode(path, out)
    # Where there is nothing to do, nothing is locked: processes of a training read the folder together.
    with lock_folder(out):
        assert encode(path, out).rows == 8


RUN = """
import sys
import datasets
from ttt_hf.data import encode_source, open_source

if __name__ == "__main__":
    path, codec, out, cache, workers = sys.argv[1:]
    datasets.config.HF_DATASETS_CACHE = cache
    source = open_source(path, task="asr")
    print("begins", flush=True)
    encode_source(source, codec, out, name="tones", shard_size=3, variants=2, workers=int(workers))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "runs"), [(1, 10), (2, 4)])
def test_kills_at_random_moments_change_nothing(tmp_path, make_audio, table, workers, runs):
    for number in range(40):
        make_audio(f"clips/{number}.wav", pitch=200 + 10 * number, seconds=2)
    rows = [{"audio": f"clips/{number}.wav", "text": f"tone {number}"} for number in range(40)]
    rows[17]["audio"] = "missing.wav"
    path, out = table(rows), tmp_path / "out"
    (tmp_path / "run.py").write_text(RUN)
    arguments = [str(argument) for argument in (path, CODEC, out, tmp_path / "cache", workers)]
    command = [sys.executable, str(tmp_path / "run.py"), *arguments]
    generator, kills = random.Random(workers), 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(runs):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        assert process.stdout.readline() == "begins\n", process.stderr.read()
        # By what is done, since machines differ in speed: some kills hit the start, most of them the work.
        wanted = len(list(out.glob("shard-*"))) + generator.randrange(3)
        while process.poll() is None and len(list(out.glob("shard-*"))) < wanted:
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        # Its workers hold its output, and end with it.
        process.communicate(timeout=120)
        kills += process.returncode == -signal.SIGKILL
        # The data change in the meantime, too.
        rows[generator.randrange(40)]["text"] += "!"
        table(rows)
    assert kills > runs // 2
    subprocess.run(command, check=True, env=environment)
    assert_as_new(path, out, variants=2)
