"""`python -m tests.fuzz.serving`: damaged requests to a server, which refuses them in a sentence and goes on.

Bodies of JSON and multipart, and messages of a WebSocket, damaged as values and as bytes. A case passes if the status
is neither 5xx nor the connection lost, the answer has OpenAI's form, and nothing was logged as an error; at the end
nothing runs, and the memory of the process is what it was.
"""

from __future__ import annotations

import argparse
import base64
import collections
import json
import logging
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch
from local_server import LocalServer
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from ttt_hf.loading import load_checkpoint

from .kinds.material import write_checkpoint, write_recordings
from .mutations import Damage


KINDS = ("chat", "speech", "transcription", "realtime")
UNDAMAGED = 2
CLIENTS = 8
WARM_UP = 100  # cases
FRAMES = 5  # messages of a connection that are damaged in a case
TIMEOUT = 60.0
MEMORY = 400 * 2**20  # bytes that the process may grow, buffers of its libraries included


@dataclass
class Outcome:
    """How a case ended: its status, and what was wrong, if anything."""

    kind: str
    case: int
    status: int
    fault: str


class Errors(logging.Handler):
    """Collects what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class Cases:
    """Cases of all kinds against one server.

    Args:
        server: The server.
        recording: A recording, as the content of a WAV file.
    """

    def __init__(self, server: LocalServer, recording: bytes) -> None:
        self.server = server
        self.client = httpx.Client(base_url=server.url, timeout=TIMEOUT)
        data = base64.b64encode(recording).decode()
        self.recording = recording
        self.chat = {
            "model": "embedded",
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": [
                    {"type": "text", "text": "Hello."},
                    {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}},
                ]},
                {"role": "assistant", "content": "Hi."},
                {"role": "user", "content": "Again."},
            ],
            "modalities": ["text", "audio"], "audio": {"voice": "default", "format": "wav"}, "stream": False,
            "temperature": 0.5, "top_p": 0.9, "max_tokens": 60, "seed": 1, "stop": ["x"],
            "stream_options": {"include_usage": True}, "audio_steps_per_block": 2, "audio_temperature": 0.5,
            "audio_block_length": 9, "audio_remasking": "margin", "top_k": 5, "n": 1, "task": "chat",
        }  # fmt: skip
        self.speech = {
            "model": "embedded", "input": "Hello.", "voice": "default", "response_format": "wav", "seed": 1, "speed": 1
        }  # fmt: skip
        self.fields = {"model": "embedded", "response_format": "verbose_json", "temperature": "0.5", "language": "en"}
        item = {"type": "message", "role": "user", "id": "mine", "content": [{"type": "input_text", "text": "Hello."}]}
        turns = {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 200}
        self.events: list[dict[str, Any]] = [
            {"type": "session.update", "event_id": "a", "session": {
                "type": "realtime", "instructions": "Be kind.", "output_modalities": ["text"],
                "audio": {"input": {"turn_detection": turns, "transcription": {"model": "embedded"}}},
                "generation": {"seed": 1, "audio_steps_per_block": 2}}},
            {"type": "input_audio_buffer.append", "audio": base64.b64encode(recording[44:]).decode()},
            {"type": "input_audio_buffer.commit"},
            {"type": "conversation.item.create", "item": item},
            {"type": "response.create", "response": {"max_output_tokens": 5, "metadata": {"a": 1}}},
            {"type": "input_audio_buffer.clear"},
            {"type": "conversation.item.truncate", "item_id": "mine", "content_index": 0, "audio_end_ms": 100},
            {"type": "conversation.item.retrieve", "item_id": "mine"},
            {"type": "conversation.item.delete", "item_id": "mine"},
        ]  # fmt: skip

    def run(self, kind: str, case: int, seed: int) -> Outcome:
        """Runs one case."""
        damage = Damage(f"{seed}/serving/{kind}/{case}", is_off=case < UNDAMAGED)
        try:
            status, fault = getattr(self, f"_{kind}")(damage)
        except (httpx.HTTPError, ConnectionClosed, TimeoutError) as error:
            status, fault = 0, f"{type(error).__name__}: {error}"
        if not fault and case < UNDAMAGED and status >= 400:
            fault = "failed without damage"
        return Outcome(kind, case, status, fault)

    def _chat(self, damage: Damage) -> tuple[int, str]:
        return self._post("/v1/chat/completions", {**self.chat, "stream": damage.chance(0.3)}, damage)

    def _speech(self, damage: Damage) -> tuple[int, str]:
        return self._post("/v1/audio/speech", self.speech, damage)

    def _post(self, path: str, body: dict[str, Any], damage: Damage) -> tuple[int, str]:
        if damage.chance(0.6):
            content = json.dumps(damage.tree(body)).encode()
        else:
            content = damage.bytes(json.dumps(body).encode())
        kind = damage.word()[:50] if damage.chance(0.05) else "application/json"
        headers = {b"Content-Type": kind.encode("latin-1", "replace").replace(b"\n", b"").replace(b"\r", b"").strip()}
        return self._judge(self.client.post(path, content=content, headers=headers))

    def _transcription(self, damage: Damage) -> tuple[int, str]:
        fields, recording = dict(self.fields), self.recording
        if damage.chance(0.4):
            fields[damage.choice([*fields, "seed", "prompt", "file", "x"])] = damage.word()
        elif damage.chance(0.5):
            recording = damage.bytes(recording)
        data = {name: value.encode("utf-8", "replace") for name, value in fields.items()}
        request = self.client.build_request(
            "POST", "/v1/audio/transcriptions", data=data, files={"file": ("a.wav", recording)}
        )
        content = request.read()
        if damage.chance(0.5):
            content = damage.bytes(content)
        headers = {"Content-Type": request.headers["Content-Type"]}
        return self._judge(self.client.post(request.url, content=content, headers=headers))

    def _realtime(self, damage: Damage) -> tuple[int, str]:
        with connect(f"ws://127.0.0.1:{self.server.port}/v1/realtime", open_timeout=TIMEOUT) as socket:
            for event in self.events if damage.is_off else damage.choices(self.events, k=FRAMES):
                if damage.is_off or damage.chance(0.4):
                    socket.send(json.dumps(event))
                elif damage.chance(0.6):
                    socket.send(json.dumps(damage.tree(event)))
                else:
                    text = damage.bytes(json.dumps(event).encode())
                    # A message of text is UTF-8, or the client's library would not send it.
                    socket.send(text if damage.chance(0.1) else text.decode("utf-8", "replace"))
            return self._answers(socket)

    def _answers(self, socket: ClientConnection) -> tuple[int, str]:
        """Reads until the answer to a last, sound message; all before it must be of the known form."""
        socket.send(json.dumps({"type": "input_audio_buffer.clear", "event_id": "last"}))
        status = 200
        while True:
            event = json.loads(socket.recv(timeout=TIMEOUT))
            if event["type"] == "input_audio_buffer.cleared":
                return status, ""
            if event["type"] == "error":
                status = 400
                if event["error"]["type"] == "server_error":
                    return 500, event["error"]["message"]

    @staticmethod
    def _judge(response: httpx.Response) -> tuple[int, str]:
        status = response.status_code
        if status >= 500 or '"server_error"' in response.text:
            return status, response.text[:300]
        if status >= 400 and set(response.json().get("error", ())) != {"message", "type", "param", "code"}:
            return status, f"not in OpenAI's form: {response.text[:300]}"
        return status, ""


def run_cases(kinds: tuple[str, ...], numbers: range, seed: int, folder: Path) -> Iterator[Outcome]:
    """Runs cases of some kinds against one server, several at a time; then looks at the server itself."""
    write_checkpoint(folder / "checkpoint")
    write_recordings(folder, 1)
    recording = next(folder.glob("*.wav")).read_bytes()
    errors = Errors()
    logging.getLogger().addHandler(errors)
    try:
        with LocalServer(load_checkpoint(folder / "checkpoint"), slots=4) as server:
            cases, memory = Cases(server, recording), 0
            with ThreadPoolExecutor(CLIENTS) as pool:
                waiting = [pool.submit(cases.run, kind, case, seed) for case in numbers for kind in kinds]
                for count, outcome in enumerate(waiting):
                    yield outcome.result()
                    if count == WARM_UP:  # what is allocated once has been
                        memory = _resident()
            yield _judge_server(server, memory, errors.lines)
    finally:
        logging.getLogger().removeHandler(errors)


def _judge_server(server: LocalServer, memory: int, errors: list[str]) -> Outcome:
    end = time.monotonic() + TIMEOUT
    while (server.engine.num_running or server.engine.num_waiting) and time.monotonic() < end:
        time.sleep(0.1)
    fault = f"logged {errors[0][:1000]}" if errors else ""
    if server.engine.num_running or server.engine.num_waiting:
        fault = f"{server.engine.num_running} requests run for ever"
    elif memory and _resident() > memory + MEMORY:
        fault = f"the process has grown by {(_resident() - memory) >> 20} MiB"
    status = httpx.get(f"{server.url}/health", timeout=TIMEOUT).status_code
    return Outcome("server", 0, status, fault or ("" if status == 200 else "the server is not well"))


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.serving", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=400, help="number of cases of all kinds together")
    parser.add_argument("--seed", type=int, default=0, help="seed of all cases")
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this kind")
    parser.add_argument("--case", type=int, help="only this case")
    args = parser.parse_args()
    torch.set_num_threads(1)
    kinds = tuple(args.kind or KINDS)
    numbers = range(-(-args.cases // len(kinds))) if args.case is None else range(args.case, args.case + 1)
    codes: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        for outcome in run_cases(kinds, numbers, args.seed, Path(folder)):
            codes[outcome.kind][outcome.status] += 1
            if outcome.fault:
                faults += 1
                again = f"python -m tests.fuzz.serving --seed {args.seed} --kind {outcome.kind} --case {outcome.case}"
                print(f"  {again}\n    {outcome.status}: {outcome.fault}", flush=True)
    for kind, counts in codes.items():
        listed = ", ".join(f"{code}: {count}" for code, count in sorted(counts.items()))
        print(f"{kind:<14}{sum(counts.values()):>6} cases, statuses {listed}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
