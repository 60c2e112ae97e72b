"""What a single row can do wrong: it is named, counted under `max_broken`, and the other rows are used."""

import io
import json
import os
import signal
import struct
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

import ttt_hf
from ttt_hf.data import encode_source, load_source, open_source
from ttt_hf.data.reading import open_table
from ttt_hf.data.sources import allowed_broken


pytest.importorskip("datasets", reason="needs the extra train")
pytestmark = pytest.mark.usefixtures("prepared_data")

CODEC = Path(ttt_hf.embedded_checkpoint()) / "codec"
HALF = "\ud83d"


@contextmanager
def at_most(seconds):
    """Fails instead of waiting for ever."""

    def stop(*arguments):
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def write(tmp_path, make_audio):
    make_audio("good.wav")

    def write(rows, name="data.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def claiming_flac(samples=48_000 * 3600, rate=48_000, channels=8):
    """A FLAC file of 50 bytes whose header promises an hour of eight channels."""
    head = struct.pack(">HH", 4096, 4096) + bytes(6)
    packed = (rate << 44) | ((channels - 1) << 41) | (15 << 36) | samples
    return b"fLaC" + b"\x80\x00\x00\x22" + head + packed.to_bytes(8, "big") + bytes(16) + bytes(8)


def test_the_default_limit_is_small_and_never_most_of_the_data():
    limits = {rows: allowed_broken(rows, None) for rows in (1, 2, 3, 4, 6, 9, 15, 100, 500, 600, 10_000)}
    assert limits == {1: 0, 2: 1, 3: 1, 4: 2, 6: 3, 9: 4, 15: 5, 100: 5, 500: 5, 600: 6, 10_000: 100}


def test_rows_that_cannot_be_stored_are_counted_alone(write):
    rows = [
        {"text": "one"},
        {"text": f"half {HALF}"},
        {"content": [{"type": "audio", "codes": [10**12]}]},
        {"content": [{"type": "text", "text": "x", "words": "no list"}]},
        {"content": [{"type": "text", "text": "x", "words": 1.5}]},
        {"text": "x", "task": ["asr"]},
        {"audio": f"{HALF}.wav"},
        {"text": "two"},
    ]
    path = write(rows)
    with pytest.raises(ValueError, match="line 2: A text or a file name holds half a character") as raised:
        load_source(path)
    told = str(raised.value)
    for line, reason in ((3, "another type"), (4, "another type"), (5, "must be a list"), (6, "no task"), (7, "half")):
        assert f"line {line}: " in told and reason in told.split(f"line {line}: ")[1].split(";")[0], told
    told.encode()
    usable = load_source(path, max_broken=0.75)
    assert [row["content"][0]["text"] for row in usable] == ["one", "two"]


@pytest.mark.parametrize("column", ["text", "question", "answer", "system"])
def test_half_a_character_in_any_text(write, column):
    rows = {
        "text": {"text": HALF},
        "question": {"question": HALF, "answer": "Eight."},
        "answer": {"question": "Five plus three?", "answer": HALF},
        "system": {"messages": [{"role": "system", "content": HALF}, {"role": "assistant", "content": "Eight."}]},
    }
    path = write([rows[column], {"text": "good"}])
    assert len(load_source(path, max_broken=0.5)) == 1


def test_a_recording_whose_name_is_no_text(tmp_path, make_audio):
    folder = tmp_path / "clips"
    make_audio("clips/good.wav")
    os.link(folder / "good.wav", os.fsencode(folder) + b"/caf\xe9.wav")
    with pytest.raises(ValueError, match=r"caf\\udce9.wav: .*rename the file"):
        load_source(folder)
    assert len(load_source(folder, max_broken=0.5)) == 1


def test_broken_rows_do_not_stop_an_encoding(tmp_path, write):
    (tmp_path / "claims.flac").write_bytes(claiming_flac())
    os.mkfifo(tmp_path / "pipe.wav")
    sound = io.BytesIO()
    soundfile.write(sound, np.sin(np.arange(8000) / 5), 16000, format="FLAC")
    (tmp_path / "cut.flac").write_bytes(sound.getvalue()[:2000])
    bad = ["claims.flac", "pipe.wav", "cut.flac", "http://a b.invalid/c.wav", "http://[::1", "data:audio/wav;base64,x",
           f"{HALF}.wav", "a\0b.wav", "/dev/zero", "x" * 5000]  # fmt: skip
    rows = [{"audio": name, "text": name[:20]} for name in ["good.wav", *bad, "good.wav"]]
    path = write(rows)
    with at_most(60):
        report = encode_source(open_source(path, task="asr"), CODEC, tmp_path / "out", max_broken=0.9)
    assert (report.rows, report.skipped) == (2, len(bad))
    lines = (tmp_path / "out" / "broken.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in lines] == list(range(2, 2 + len(bad)))
    assert all(len(json.loads(line)["error"]) < 400 for line in lines)
    with at_most(60), pytest.raises(ValueError, match="More rows cannot be used than the 5 allowed"):
        encode_source(open_source(path, task="asr"), CODEC, tmp_path / "other")


def test_whatever_a_codec_raises_for_a_row_is_counted(tmp_path, write, monkeypatch):
    def fail_once(waveform, codec, calls=[]):  # noqa: B006
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("not enough memory: you tried to allocate 10 GB")
        return [1, 2]

    monkeypatch.setattr("ttt_hf.data.shards._encode", fail_once)
    path = write([{"audio": "good.wav"}] * 4)
    report = encode_source(open_source(path), CODEC, tmp_path / "out")
    assert [(entry["row"], entry["error"]) for entry in report.broken] == [
        (2, "RuntimeError: not enough memory: you tried to allocate 10 GB")
    ]


def test_addresses_that_could_not_be_fetched_are_tried_again(tmp_path, write, serve):
    path = write([{"audio": "good.wav"}, {"audio": f"{serve.url}/later.wav"}, {"audio": "good.wav"}])
    arguments = {"name": "x"}
    source = open_source(path, allow_private=True)
    assert encode_source(source, CODEC, tmp_path / "out", **arguments).skipped == 1
    (tmp_path / "later.wav").write_bytes((tmp_path / "good.wav").read_bytes())
    report = encode_source(source, CODEC, tmp_path / "out", **arguments)
    assert (report.rows, report.skipped, report.changed) == (3, 0, 0)


# -- what rows may name -----------------------------------------------------------------------------------------------


@pytest.fixture
def serve(tmp_path):
    """A server of this machine that gives the files of the folder."""
    import functools
    import http.server
    import threading

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_GET(self):
            self.server.asked.append(self.path)
            super().do_GET()

    handler = functools.partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.asked = []
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def secret(tmp_path, make_audio):
    """A recording beside the folder of the data, and that folder."""
    (tmp_path / "data" / "clips").mkdir(parents=True)
    make_audio("data/clips/own.wav")
    return make_audio("secret.wav"), tmp_path / "data"


OUTSIDE = ["../secret.wav", "clips/../../secret.wav", "{folder}/../secret.wav", "..\\secret.wav"]
ABSOLUTE = ["{secret}", "file://{secret}", "FILE://localhost{secret}"]


def table_of(folder, kind, name):
    own = "clips/own.wav"
    if kind == "metadata":
        (folder / "metadata.csv").write_text(f"file_name,text\n{own},a\n{name},b\n")
        return folder
    if kind == "kaldi":
        (folder / "wav.scp").write_text(f"a {own}\nb {name}\n")
        (folder / "text").write_text("a one\nb two\n")
        return folder
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"audio": [own, name], "text": ["a", "b"]}), folder / "data.parquet")
        return folder / "data.parquet"
    rows = [{"audio": own, "text": "a"}, {"audio": {"path": name}, "text": "b"}]
    (folder / "data.json").write_text(json.dumps(rows))
    return folder / "data.json"


@pytest.mark.parametrize("kind", ["metadata", "kaldi", "parquet", "json"])
@pytest.mark.parametrize("name", [*OUTSIDE, *ABSOLUTE])
def test_rows_name_files_of_their_folder(secret, kind, name):
    path, folder = secret
    spec = table_of(folder, kind, name.format(secret=path, folder=folder))
    # The user's own tables often hold absolute paths; metadata describe the files of their folder.
    if name in ABSOLUTE and kind != "metadata":
        assert len(load_source(spec, task="asr")) == 2
        return
    with pytest.raises(ValueError, match=r"(line|row) [23]: .*secret.wav is not in the folder of these data.*--allow"):
        load_source(spec, task="asr")
    assert len(load_source(spec, task="asr", allow_private=True)) == 2


def test_links_and_absolute_paths_within_the_folder_are_followed(secret):
    path, folder = secret
    (folder / "link.wav").symlink_to(path)
    (folder / "metadata.csv").write_text(f"file_name\nlink.wav\n{folder}/clips/own.wav\n./clips/../clips/own.wav\n")
    assert len(load_source(folder)) == 3


def test_an_encoding_names_no_recordings(secret):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ttt_hf.data.sources import row_features

    path, folder = secret
    row = {"content": [{"type": "audio", "path": str(path)}]}
    pq.write_table(pa.Table.from_pylist([row], row_features().arrow_schema), folder / "shard-00000-of-00001.parquet")
    (folder / "encoding.json").write_text('{"complete": true, "fingerprint": "sha256:0"}')
    with pytest.raises(ValueError, match="holds audio instead of codes"):
        encode_source(open_source(folder), CODEC, folder.with_name("out"))


def test_what_was_downloaded_names_nothing_of_this_machine(secret, tmp_path, monkeypatch):
    path, folder = secret
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    for name in ("../secret.wav", str(path), f"file://{path}", "~/secret.wav"):
        spec = table_of(folder, "json", name)
        with pytest.raises(ValueError, match=r"(line|row) 2: .* is not in the folder of these data"):
            load_source(spec, task="asr")
    assert len(load_source(table_of(folder, "json", "clips/own.wav"), task="asr")) == 2


def test_a_data_set_of_the_hub_names_nothing_of_this_machine(secret, monkeypatch):
    import datasets

    path, folder = secret
    monkeypatch.chdir(folder)
    names = [str(path), "../secret.wav", "clips/own.wav", f"file://{path}"]
    rows = datasets.Dataset.from_dict({"audio": [{"path": n, "bytes": None} for n in names], "text": ["a"] * 4})
    monkeypatch.setattr(datasets, "load_dataset", lambda *arguments, **settings: rows)
    table = open_table("organisation/name")
    with pytest.raises(ValueError, match=r"organisation/name, row 3: clips/own.wav is not in the folder"):
        load_source("organisation/name", task="asr")
    assert table.reach.access.private_addresses is False
    assert len(load_source("organisation/name", task="asr", allow_private=True)) == 4


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0x7f.1"])
def test_addresses_of_this_machine_are_fetched_when_the_caller_allows_it(tmp_path, write, serve, host):
    address = f"http://{host}:{serve.server_port}/good.wav"
    path = write([{"audio": "good.wav"}, {"audio": address}, {"audio": "good.wav"}])
    report = encode_source(open_source(path), CODEC, tmp_path / "out")
    assert (report.rows, report.skipped, serve.asked) == (2, 1, [])
    if host == "127.0.0.1":
        report = encode_source(open_source(path, allow_private=True), CODEC, tmp_path / "other")
        assert (report.rows, serve.asked) == (3, ["/good.wav"])
