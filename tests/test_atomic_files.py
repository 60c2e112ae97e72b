"""Atomic writes: complete or not there, whatever happens in between."""

import errno
import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import save_file

from ttt_hf.atomic_files import (
    atomic_folder,
    atomic_update,
    atomic_write,
    atomic_write_text,
    check_file,
    check_folder,
    lock_folder,
)


WRITERS = {"file": atomic_write, "folder": atomic_folder, "update": atomic_update}


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def content(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_write(path) as part:
        part.write_text("all of it")
        assert not path.exists()
    assert content(tmp_path) == {"a.txt": "all of it"}
    atomic_write_text(path, "sch\u00f6n")
    assert path.read_bytes() == "sch\u00f6n".encode()


def test_a_new_folder_appears_when_it_is_complete(tmp_path):
    folder = tmp_path / "parent" / "new"
    with atomic_folder(folder) as part:
        (part / "a.txt").write_text("a")
        assert not folder.exists()
    assert content(tmp_path) == {"parent/new/a.txt": "a"}


def test_an_empty_folder_is_filled_and_another_one_replaced_on_request_alone(tmp_path):
    for round_ in ("first", "second"):
        (tmp_path / "new").mkdir(exist_ok=True)
        with atomic_folder(tmp_path / "new", replace=round_ == "second") as part:
            (part / round_).write_text(round_)
        assert content(tmp_path) == {f"new/{round_}": round_}
    with pytest.raises(OSError, match="new cannot be written"), atomic_folder(tmp_path / "new") as part:
        (part / "third").write_text("third")
    assert content(tmp_path) == {"new/second": "second"}


def test_files_of_an_update_appear_together(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "other.txt").write_text("stays")
    with atomic_update(tmp_path) as part:
        (part / "codec").mkdir()
        (part / "codec" / "b.txt").write_text("b")
        (part / "a.txt").write_text("new")
        assert (tmp_path / "a.txt").read_text() == "old"
    assert content(tmp_path) == {"a.txt": "new", "codec/b.txt": "b", "other.txt": "stays"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "codec", "other.txt"]


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("writer", WRITERS)
def test_an_error_leaves_everything_as_it_was(tmp_path, writer, error):
    target = tmp_path / "target"
    if writer == "file":
        target.write_text("old")
    elif writer == "update":
        target.mkdir()
        (target / "a.txt").write_text("old")
    before = content(tmp_path)

    def write():
        with WRITERS[writer](target) as part:
            (part if writer == "file" else part / "a.txt").write_text("half of it")
            raise error

    with pytest.raises(type(error)):
        write()
    assert content(tmp_path) == before
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("x" * 2000),
        lambda path: save_file({"a": torch.zeros(1000)}, path),
        lambda path: soundfile.write(path, torch.rand(16000).numpy(), 16000, format="WAV"),
    ],
    ids=["text", "safetensors", "audio"],
)
def test_a_full_disk_is_one_sentence(tmp_path, writer, write, limit_file_size):
    target = tmp_path / "target"
    failure = pytest.raises(OSError, match=r"target cannot be written \([^\n]*[^.]\): free some space")
    with limit_file_size(1000), failure, WRITERS[writer](target) as part:
        write(part if writer == "file" else part / "a")
    assert not list(tmp_path.rglob("*.part"))


def test_errors_of_something_else_stay_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError) as raised, atomic_write(tmp_path / "a.txt"):
        Path(tmp_path / "source.txt").read_text()
    assert raised.value.filename == str(tmp_path / "source.txt")
    with pytest.raises(BrokenPipeError), atomic_write(tmp_path / "a.txt"):  # the reader of stdout has gone
        raise BrokenPipeError(32, "Broken pipe")
    sentence = OSError("The Hub cannot be reached: connect to the network.")
    with pytest.raises(OSError, match="The Hub cannot be reached") as raised, atomic_write(tmp_path / "a.txt"):
        raise sentence
    assert raised.value is sentence


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("writer", WRITERS)
def test_permissions_are_those_of_any_new_file(tmp_path, writer):
    with WRITERS[writer](tmp_path / "target") as part:
        if writer == "file":
            part.write_text("a")
        else:
            save_file({"a": torch.zeros(1)}, part / "a.safetensors")  # makes files for their owner alone
    (path,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    if writer != "file":
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750


def test_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_write(path) as first, atomic_write(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert content(tmp_path) == {"a.txt": "first"}
    texts = [str(number) * 100_000 for number in range(10)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: atomic_write_text(path, text), texts))
    assert path.read_text() in texts and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_said_before(tmp_path):
    (tmp_path / "file").write_text("")
    check_file(tmp_path / "new.txt")
    check_folder(tmp_path / "a" / "b" / "new")
    for path, error, message in (
        (tmp_path / "no" / "a.txt", FileNotFoundError, "make it first"),
        (tmp_path / "file" / "a.txt", NotADirectoryError, "is not a folder"),
        (tmp_path, IsADirectoryError, "name a file"),
    ):
        with pytest.raises(error, match=message):
            check_file(path)
    with pytest.raises(NotADirectoryError, match="is a file: name a folder"):
        check_folder(tmp_path / "file")
    with pytest.raises(PermissionError, match="name another folder"):
        check_folder(tmp_path / "file" / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# Locks a folder, says whether it could, and keeps the lock until stdin is closed.
LOCKER = """
import sys
from pathlib import Path
from ttt_hf.atomic_files import lock_folder
try:
    with lock_folder(Path(sys.argv[1])):
        print("locked", flush=True)
        sys.stdin.read()
except BlockingIOError as error:
    print(error, flush=True)
"""


@pytest.fixture
def start_locker():
    processes = []

    def start(folder):
        command = [sys.executable, "-c", LOCKER, str(folder)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_a_folder_is_written_by_one_process_at_a_time(tmp_path, start_locker):
    folder = tmp_path / "a" / "new"
    first, said = start_locker(folder)
    assert said == "locked"
    refused = rf"^Another process is writing to {folder}: wait until it is done, or name another folder\.$"
    with pytest.raises(BlockingIOError, match=refused), lock_folder(folder):
        pass
    with lock_folder(tmp_path / "a" / "other"):
        pass
    first.communicate(timeout=30)
    # What was locked and not used is as it was before.
    assert not (tmp_path / "a").exists()
    with lock_folder(folder):
        (folder / "a.txt").write_text("a")
        assert start_locker(folder)[1].startswith("Another process is writing to")
    assert content(tmp_path) == {"a/new/a.txt": "a"}


def test_the_lock_of_a_killed_process_is_free(tmp_path, start_locker):
    first, said = start_locker(tmp_path)
    assert said == "locked"
    first.send_signal(signal.SIGKILL)
    first.wait()
    with lock_folder(tmp_path), atomic_update(tmp_path) as part:
        (part / "a.txt").write_text("a")
    assert content(tmp_path) == {"a.txt": "a"}


@pytest.mark.parametrize("replace", [False, True])
def test_a_locked_folder_can_be_written_as_a_whole(tmp_path, replace):
    folder = tmp_path / "new"
    with lock_folder(folder), atomic_folder(folder, replace=replace) as part:
        (part / "a.txt").write_text("a")
    assert content(tmp_path) == {"new/a.txt": "a"}


def test_a_file_system_without_locks_is_written_without(tmp_path, monkeypatch):
    import fcntl

    def refuse(*arguments):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock_folder(tmp_path), lock_folder(tmp_path):
        (tmp_path / "a.txt").write_text("a")
    assert content(tmp_path) == {"a.txt": "a"}
