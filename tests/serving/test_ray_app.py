"""Replicas by Ray Serve: who answers, what stays with one of them, and what the death of one costs."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest


pytestmark = pytest.mark.slow  # some ten processes
pytest.importorskip("ray", reason="replicas need the extra `ray`")

KEY = "se-cret"
QUESTION = {"model": "embedded", "messages": [{"role": "user", "content": "What is two plus three?"}], "seed": 0}
ANSWER = "Two plus three is five."
# A request has an answer or an error within it, whatever dies.
BOUND = 30.0


class Replicas:
    """`ttt-hf serve embedded` with two replicas.

    Args:
        log: File for stderr.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        command = [sys.executable, "-m", "ttt_hf", "serve", "embedded", "--port", "0", "--replicas", "2"]
        environment = {**os.environ, "TTT_HF_API_KEY": KEY}
        with log.open("w") as file:
            self.process = subprocess.Popen(command, stderr=file, env=environment, start_new_session=True)
        end = time.monotonic() + 180
        while not (found := re.search(r"http://\S+(?=/v1)", log.read_text())):
            assert self.process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        self.url = found[0]

    def pids(self) -> set[int]:
        """Processes of the replicas that are alive."""
        return {pid for pid in descendants(self.process.pid) if b"ray::ServeReplica" in command_of(pid)}

    def client(self, session: str | None = None, retries: int = 0) -> openai.OpenAI:
        headers = {"x-session-id": session} if session else {}
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=KEY, max_retries=retries, timeout=BOUND, default_headers=headers
        )

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=90)


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def descendants(root: int) -> set[int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, more = set(), {root}
    while more:
        found |= more
        more = {pid for pid, parent in parents.items() if parent in found} - found
    return found - {root}


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    if not Path("/proc/self/stat").exists():
        pytest.skip("processes are found by /proc")
    running = Replicas(tmp_path_factory.mktemp("ray") / "log")
    yield running
    processes = descendants(running.process.pid)
    assert running.end() == 0
    assert not [pid for pid in processes if b"ray::" in command_of(pid)]
    log = running.log.read_text()
    assert "Traceback" not in log and KEY not in log


def ask(client: openai.OpenAI) -> str | None:
    return client.chat.completions.create(**QUESTION).choices[0].message.content


def error_of(client: openai.OpenAI, request: dict[str, Any]) -> openai.BadRequestError | None:
    try:
        client.chat.completions.create(**request)
    except openai.BadRequestError as error:
        return error
    return None


def test_the_key_is_needed(replicas: Replicas) -> None:
    assert httpx.get(f"{replicas.url}/health", timeout=BOUND).status_code == 200
    refused = httpx.get(f"{replicas.url}/v1/models", timeout=BOUND)
    assert refused.status_code == 401 and refused.json()["error"]["code"] == "invalid_api_key"
    assert [model.id for model in replicas.client().models.list()] == ["embedded"]


def test_a_conversation_goes_on_at_the_replica_of_its_session(replicas: Replicas) -> None:
    spoken = {"modalities": ["text", "audio"], "audio": {"voice": "default", "format": "wav"}}
    audio = replicas.client("a").chat.completions.create(**QUESTION, **spoken).choices[0].message.audio
    history = [*QUESTION["messages"], {"role": "assistant", "audio": {"id": audio.id}}, *QUESTION["messages"]]
    later = {**QUESTION, "messages": history}
    for _ in range(4):
        assert replicas.client("a").chat.completions.create(**later).choices[0].message.content
    errors = [error_of(replicas.client(f"session {number}"), later) for number in range(16)]
    refusals = [error for error in errors if error]
    # Both replicas answer, and the other one does not know the reply.
    assert 0 < len(refusals) < 16
    assert all(error.code == "audio_not_found" and "send its text" in str(error) for error in refusals)


def test_a_spoken_conversation_over_one_connection(replicas: Replicas) -> None:
    with replicas.client().realtime.connect(model="embedded") as connection:
        connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
        content = [{"type": "input_text", "text": "What is two plus three?"}]
        connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
        connection.response.create()
        done = next(event for event in connection if event.type == "response.done")
    assert done.response.output[0].content[0].text == ANSWER


class Load:
    """Clients that ask again and again within the block.

    Args:
        replicas: Who is asked.
        clients: How many ask at the same time.
    """

    def __init__(self, replicas: Replicas, clients: int = 8) -> None:
        self.replicas = replicas
        self.answers: list[str | None] = []
        self.errors: list[Exception] = []
        self.longest = 0.0
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        client = self.replicas.client(retries=5)
        while not self._ended.is_set():
            started = time.monotonic()
            try:
                self.answers.append(ask(client))
            except Exception as error:
                self.errors.append(error)
            self.longest = max(self.longest, time.monotonic() - started)

    def wait_for_answers(self, more: int) -> None:
        target, end = len(self.answers) + more, time.monotonic() + BOUND
        while len(self.answers) < target:
            assert time.monotonic() < end
            time.sleep(0.01)

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(timeout=BOUND)
        assert not any(thread.is_alive() for thread in self._threads)


def test_a_killed_replica_is_replaced_and_nothing_hangs(replicas: Replicas) -> None:
    before = replicas.pids()
    victim = min(before)
    with Load(replicas) as load:
        load.wait_for_answers(50)
        os.kill(victim, signal.SIGKILL)
        # The other one answers while the replacement starts.
        load.wait_for_answers(50)
        end = time.monotonic() + 120
        while len(after := replicas.pids()) < 2:
            assert time.monotonic() < end
            time.sleep(0.1)
        load.wait_for_answers(50)
    assert not load.errors and set(load.answers) == {ANSWER} and load.longest < BOUND
    assert len(before) == len(after) == 2 and after - before and victim not in after


def test_what_runs_at_the_end_is_finished(tmp_path: Path) -> None:
    replicas = Replicas(tmp_path / "log")
    stream = replicas.client().chat.completions.create(**QUESTION, stream=True)
    chunks = [next(iter(stream))]
    replicas.process.send_signal(signal.SIGTERM)
    chunks += stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ANSWER
    assert replicas.process.wait(timeout=90) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--replicas", "two"], 2, "'two' is no number of replicas: write 2, or 1-8"),
        (["--replicas", "3-2"], 2, "There cannot be 3 to 2 replicas"),
        (["--replicas", "2", "--replica-cpus", "0"], 2, "A replica needs at least 1 core"),
        (["--replicas", "2", "--host", "0.0.0.0"], 2, "set TTT_HF_API_KEY"),
        (["--replicas", "2", "--replica-cpus", "1000"], 1, "2 replicas of 1000 cores are too many for"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(arguments: list[str], code: int, message: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TTT_HF_API_KEY"}
    command = [sys.executable, "-m", "ttt_hf", "serve", "embedded", "--port", "0", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
    assert done.returncode == code and message in done.stderr and "Traceback" not in done.stderr
