"""The API server under load, on this machine, with the embedded model.

    python benchmarks/serving.py                       # all parts
    python benchmarks/serving.py --parts load --clients 32 --requests 10

`load`: clients at the same time, each with requests of mixed kinds one after the other (text, speech, transcription,
sampled with seeds, whole and streamed), some of which are cut off by their client or malformed, while one client does
not read what it is sent. Every reply must hold the ids that `generate()` gives alone. `throughput`: the same requests
by several clients, and one after the other. `first_audio`: from a request to its first samples over HTTP, and from a
call of `generate()` to the first samples by the same codec.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from common import machine

from ttt_hf import embedded_checkpoint
from ttt_hf.loading import load_checkpoint
from ttt_hf.modeling import TtTStreamer
from ttt_hf.processing.reply_streams import ReplyStream


QUESTION = Path(__file__).resolve().parents[1] / "examples" / "question.wav"
TEXTS = ("What is two plus three?", "What colour is the sky?", "Say hello.", "How many days has a week?")
CANCELLED, MALFORMED = 0.10, 0.05
PARTS = ("first_audio", "throughput", "load")


@dataclass(frozen=True)
class Question:
    """One request, and the ids that must come.

    Attributes:
        body: Body of `/v1/chat/completions`.
        ids: What `generate()` gives alone.
    """

    body: dict[str, Any]
    ids: list[int]


@dataclass
class Counts:
    """What has come of requests."""

    right: int = 0
    wrong: int = 0
    cancelled: int = 0
    refused: int = 0
    lost: list[str] = field(default_factory=list)

    @property
    def all(self) -> int:
        """All requests that have ended."""
        return self.right + self.wrong + self.cancelled + self.refused + len(self.lost)


def make_questions(model: Any, processor: Any, count: int) -> list[Question]:
    """Requests of mixed kinds, answered alone."""
    recording = base64.b64encode(QUESTION.read_bytes()).decode()
    questions = []
    for index in range(count):
        audio = {"type": "input_audio", "input_audio": {"data": recording, "format": "wav"}}
        content: Any = [audio] if index % 4 == 2 else TEXTS[index // 4 % len(TEXTS)]
        task = ("chat", "text", "asr", "tts")[index % 4]
        settings: dict[str, Any] = {"seed": index, "temperature": 0}
        if index % 3 == 1:
            settings |= {"temperature": 1.0, "audio_temperature": 0.7}
        messages = [{"role": "user", "content": content}]
        modalities = ["text"] if task in ("text", "asr") else ["text", "audio"]
        body = {"model": "embedded", "messages": messages, "task": task, "modalities": modalities, **settings}
        inputs = processor.apply_chat_template(messages, task=task, add_generation_prompt=True)
        sampled = settings.pop("temperature") > 0
        ids = model.generate(**inputs, do_sample=sampled, temperature=1.0 if sampled else None, **settings)
        questions.append(Question({**body, "return_token_ids": True}, ids[0, inputs["input_ids"].shape[1] :].tolist()))
    return questions


class Server:
    """A server in a process of its own.

    Attributes:
        url: Its address.
    """

    def __init__(self, folder: Path) -> None:
        self._log = folder / "log"
        command = [sys.executable, "-m", "ttt_hf", "serve", "embedded", "--port", "0"]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, stderr=log)
        while not (found := re.search(r"http://\S+(?=/v1)", self._log.read_text())):
            if self._process.poll() is not None:
                raise RuntimeError(self._log.read_text())
            time.sleep(0.1)
        self.url = found[0]

    @property
    def is_alive(self) -> bool:
        """Whether it runs and says that it is well."""
        return self._process.poll() is None and httpx.get(f"{self.url}/health").status_code == 200

    @property
    def megabytes(self) -> float:
        """Its memory."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    @property
    def processor_seconds(self) -> float:
        """Processor time that it has taken."""
        times = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")

    def numbers(self) -> dict[str, float]:
        """Its own numbers, those without labels."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    def close(self) -> int:
        """Asks it to end; returns its exit code."""
        self._process.terminate()
        return self._process.wait(timeout=60)


def open_client(server: Server) -> httpx.AsyncClient:
    """A client with as many connections as it needs."""
    return httpx.AsyncClient(base_url=server.url, timeout=300, limits=httpx.Limits(max_connections=None))


async def ask(client: httpx.AsyncClient, question: Question, streams: bool) -> list[int]:
    """The ids of a reply, whole or streamed."""
    body = {**question.body, "stream": streams}
    if not streams:
        response = await client.post("/v1/chat/completions", json=body)
        response.raise_for_status()
        return response.json()["choices"][0]["token_ids"]
    ids: list[int] = []
    async for chunk in events(client, body):
        for choice in chunk["choices"]:
            ids = choice.get("token_ids", ids)
    return ids


async def events(client: httpx.AsyncClient, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The chunks of a streamed reply."""
    async with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))


# -- load -------------------------------------------------------------------------------------------------------------


async def load(server: Server, questions: list[Question], clients: int, requests: int) -> dict[str, Any]:
    """Many clients at a time, well and badly behaved."""
    counts = Counts()
    choose = random.Random(0)
    plans = [[(choose.choice(questions), choose.random()) for _ in range(requests)] for _ in range(clients)]
    before, started = server.megabytes, time.perf_counter()
    staller = stall(server.url, questions[0].body)
    async with open_client(server) as client:
        await asyncio.gather(*(one_client(client, plan, counts) for plan in plans))
        seconds = time.perf_counter() - started
        middle = server.megabytes
        # Once more, in the same way: what has grown by then has not grown for good.
        await asyncio.gather(*(one_client(client, plan, Counts()) for plan in plans))
    staller.close()
    return {
        **{name: value if name != "lost" else len(value) for name, value in vars(counts).items()},
        "errors": dict(Counter(counts.lost)),
        "seconds": round(seconds, 1),
        "mib": [round(before), round(middle), round(server.megabytes)],
        "rows_in_a_step": round(server.numbers()["ttt_step_rows_sum"] / server.numbers()["ttt_step_rows_count"], 1),
        "alive": server.is_alive,
    }


async def one_client(client: httpx.AsyncClient, plan: list[tuple[Question, float]], counts: Counts) -> None:
    """The requests of one client, one after the other; the number of each decides how it behaves."""
    for question, number in plan:
        try:
            if number < CANCELLED:
                async for _ in events(client, question.body):
                    break
                counts.cancelled += 1
            elif number < CANCELLED + MALFORMED:
                response = await client.post("/v1/chat/completions", json={**question.body, "seed": "none"})
                counts.refused += response.status_code == 400
            elif await ask(client, question, streams=number > 0.5) == question.ids:
                counts.right += 1
            else:
                counts.wrong += 1
        except (httpx.HTTPError, KeyError) as error:
            counts.lost.append(f"{type(error).__name__}: {error}")


def stall(url: str, body: dict[str, Any]) -> socket.socket:
    """A client that asks for a stream and never reads it."""
    address = httpx.URL(url)
    content = json.dumps({**body, "stream": True}).encode()
    connection = socket.create_connection((address.host, address.port))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return connection


# -- throughput -------------------------------------------------------------------------------------------------------


async def throughput(server: Server, questions: list[Question], clients: int) -> dict[str, Any]:
    """The same requests one after the other, and by several clients."""
    result: dict[str, Any] = {}
    async with open_client(server) as client:
        for name, width in (("one_after_the_other", 1), ("together", clients)):
            waiting = iter(questions)
            wall, processor = time.perf_counter(), server.processor_seconds
            right = sum(await asyncio.gather(*(ask_all(client, waiting) for _ in range(width))))
            result[name] = {
                "seconds": round(time.perf_counter() - wall, 2),
                "processor_seconds": round(server.processor_seconds - processor, 2),
                "right": right,
            }
    alone, together = result["one_after_the_other"], result["together"]
    ratios = {f"ratio_{name}": round(alone[name] / together[name], 2) for name in ("seconds", "processor_seconds")}
    return {"requests": len(questions), "clients": clients, **result, **ratios}


async def ask_all(client: httpx.AsyncClient, waiting: Iterator[Question]) -> int:
    """Asks what nobody has asked yet; the number of right replies."""
    return sum([await ask(client, question, False) == question.ids for question in waiting])


# -- first audio ------------------------------------------------------------------------------------------------------


class FirstSamples(TtTStreamer):
    """Notes when the first samples of a reply have been decoded."""

    def __init__(self, processor: Any) -> None:
        self._stream = ReplyStream(processor)
        self.start = time.perf_counter()
        self.seconds = 0.0

    def put_block(self, token_ids: list[int]) -> None:
        samples = self._stream.speech(self._stream.codes(token_ids))
        if len(samples) and not self.seconds:
            self.seconds = time.perf_counter() - self.start


async def first_audio(server: Server, model: Any, processor: Any, repeat: int) -> dict[str, Any]:
    """Seconds to the first samples over HTTP and by `generate()`, in turns, as other load comes and goes."""
    messages = [{"role": "user", "content": TEXTS[0]}]
    body = {"model": "embedded", "messages": messages, "modalities": ["text", "audio"], "seed": 0}
    own, http = [], []
    async with open_client(server) as client:
        for _ in range(repeat + 1):
            streamer = FirstSamples(processor)
            inputs = processor.apply_chat_template(messages, task="chat", add_generation_prompt=True)
            model.generate(**inputs, seed=0, streamer=streamer)
            own.append(streamer.seconds)
            start = time.perf_counter()
            async for chunk in events(client, body):
                if any(choice["delta"].get("audio", {}).get("data") for choice in chunk["choices"]):
                    http.append(time.perf_counter() - start)
                    break
            await asyncio.sleep(0.2)
    # The first run of each is a warm-up.
    seconds = {"generate": own[1:], "http": http[1:]}
    return {
        **{name: {"median": round(median(all_), 4), "least": round(min(all_), 4)} for name, all_ in seconds.items()},
        "difference_of_medians": round(median(http[1:]) - median(own[1:]), 4),
        "difference_of_least": round(min(http[1:]) - min(own[1:]), 4),
    }


async def run(args: argparse.Namespace) -> dict[str, Any]:
    """Runs the parts that are asked for."""
    model, processor = load_checkpoint(Path(embedded_checkpoint()))
    results: dict[str, Any] = {"machine": machine("cpu")}
    questions = make_questions(model, processor, args.questions) if args.parts != ["first_audio"] else []
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            if "first_audio" in args.parts:
                results["first_audio"] = await first_audio(server, model, processor, args.repeat)
            if "throughput" in args.parts:
                results["throughput"] = await throughput(server, questions, args.together)
            if "load" in args.parts:
                results["load"] = await load(server, questions, args.clients, args.requests)
        finally:
            results["exit_code"] = server.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--clients", type=int, default=32, help="clients of the part load")
    parser.add_argument("--requests", type=int, default=10, help="requests of each of them")
    parser.add_argument("--together", type=int, default=16, help="clients of the part throughput")
    parser.add_argument("--questions", type=int, default=32, help="different requests")
    parser.add_argument("--repeat", type=int, default=15, help="runs of the part first_audio")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to a file")
    args = parser.parse_args()
    text = json.dumps(asyncio.run(run(args)), indent=1)
    print(text)
    if args.json is not None:
        args.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
