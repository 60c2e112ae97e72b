"""An audio chat model behind an API, against a real server on this machine: normal, speaking, slow, busy, broken."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
import soundfile
from model_samples import make_task, noise, silent, written

from ttt_hf.evaluation.models import load_model


class Server(ThreadingHTTPServer):
    """Answers with what `script` makes of a request's body and its number: (status, content[, headers])."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.script: Callable[[dict[str, Any], int], tuple] = lambda body, number: (200, say("Hello."))
        self.lock = threading.Lock()

    @property
    def spec(self) -> str:
        return f"openai:http://127.0.0.1:{self.server_port}/v1#listener"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append({"path": self.path, **body})
            self.server.keys.append(self.headers.get("Authorization"))
            number = len(self.server.bodies)
        status, content, *headers = self.server.script(body, number)
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        try:
            self.send_response(status)
            for name, value in dict(*headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except ConnectionError:
            pass  # the client has waited long enough

    def log_message(self, *args: object) -> None:
        """Keeps the test's output clean."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def say(text: str | None, reason: str | None = "stop", **message: Any) -> dict[str, Any]:
    return {
        "choices": [{"message": {"role": "assistant", "content": text, **message}, "finish_reason": reason}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 5},
    }


def wav(waveform: np.ndarray, rate: int) -> str:
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format="WAV", subtype="PCM_16")
    return base64.b64encode(file.getvalue()).decode()


def test_the_recording_goes_in_as_wav_and_text_comes_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    model = load_model(server.spec, top_p=0.5)
    sample = noise("one", 1.0, rate=8000)
    task = make_task(
        "audio", instruction="Which sound is this?", generation={"max_new_tokens": 9, "audio_cfg_scale": 1}
    )
    reply = model.respond([sample], task)[0]
    assert (reply.text, reply.finish_reason, reply.tokens, reply.audio) == ("Hello.", "stop", 5, None)
    assert reply.seconds > 0

    body = server.bodies[0]
    assert body["path"] == "/v1/chat/completions" and server.keys == ["Bearer a-key"]
    assert {key: body[key] for key in ("model", "temperature", "top_p", "max_tokens")} == {
        "model": "listener",
        "temperature": 0,
        "top_p": 0.5,
        "max_tokens": 9,
    }
    assert "audio_cfg_scale" not in body and "modalities" not in body
    system, user = body["messages"]
    assert system == {"role": "system", "content": "You are a helpful audio model."}
    audio, text = user["content"]
    assert text == {"type": "text", "text": "Which sound is this?"} and audio["input_audio"]["format"] == "wav"
    sent, rate = soundfile.read(io.BytesIO(base64.b64decode(audio["input_audio"]["data"])), dtype="float32")
    assert rate == 8000 and np.abs(sent - sample.audio).max() < 1e-4
    description = json.dumps(model.description)
    assert "listener" in description and '"top_p": 0.5' in description and "a-key" not in description


def test_speech_comes_out_where_the_task_wants_it(server: Server) -> None:
    spoken = noise("answer", 0.5, rate=24000).audio
    audio = {"id": "a", "data": wav(spoken, 24000), "transcript": "It is five."}
    server.script = lambda body, number: (200, say(None, audio=audio))
    reply = load_model(server.spec).respond([written("sum", "What is two plus three?")], make_task("chat", "speech"))[
        0
    ]
    assert (reply.text, reply.sampling_rate, reply.error) == ("It is five.", 24000, None)
    assert np.abs(reply.audio - spoken).max() < 1e-4
    body = server.bodies[0]
    assert body["modalities"] == ["text", "audio"] and body["audio"] == {"voice": "alloy", "format": "wav"}
    assert body["messages"][1]["content"] == [{"type": "text", "text": "What is two plus three?"}]


def test_replies_come_back_in_order_and_a_bad_sample_is_not_sent(server: Server) -> None:
    def slow_at_first(body: dict[str, Any], number: int) -> tuple:
        text = body["messages"][1]["content"][0]["text"]
        time.sleep(0.3 if text == "0" else 0.0)
        return 200, say(f"answer {text}", "length" if text == "2" else "stop")

    server.script = slow_at_first
    samples = [written("a", "0"), written("b", "1"), silent("c"), written("d", "2")]
    replies = load_model(server.spec).respond(samples, make_task("chat"))
    assert [reply.text for reply in replies] == ["answer 0", "answer 1", "", "answer 2"]
    assert [reply.finish_reason for reply in replies] == ["stop", "stop", "error", "length"]
    assert "silent" in replies[2].error and len(server.bodies) == 3


@pytest.mark.parametrize(
    "trouble", [(429, b"busy", {"Retry-After": "0"}), (500, b"oops"), (503, b""), (200, b"<html>")]
)
def test_what_passes_is_tried_again(server: Server, trouble: tuple) -> None:
    server.script = lambda body, number: (200, say("At last.")) if number == 3 else trouble
    reply = load_model(server.spec, pause=0.01).respond([written("a", "Hello?")], make_task("chat"))[0]
    assert (reply.text, reply.error, len(server.bodies)) == ("At last.", None, 3)


@pytest.mark.parametrize(
    ("answer", "what", "requests"),
    [
        ((429, b"busy", {"Retry-After": "0"}), "429", 2),
        ((500, b"oops"), "500", 2),
        ((400, b"the audio is too long"), "the audio is too long", 1),
        ((200, b"not json"), "not JSON", 2),
        ((200, {"choices": []}), "holds no message", 1),
        ((200, {"choices": [{"message": None}]}), "holds no message", 1),
        ((200, say(None, audio={"data": "%%%", "transcript": "Hi."})), "not WAV in base64", 1),
        ((200, say("", "content_filter")), "'content_filter'", 1),
        ((200, say(7)), "text is no text", 1),
    ],
)
def test_what_stays_broken_is_an_error_of_that_sample_alone(
    server: Server, answer: tuple, what: str, requests: int
) -> None:
    def broken_for_one(body: dict[str, Any], number: int) -> tuple:
        return answer if body["messages"][1]["content"][0]["text"] == "bad" else (200, say("Good."))

    server.script = broken_for_one
    samples = [written("a", "fine"), written("b", "bad"), written("c", "fine")]
    replies = load_model(server.spec, pause=0.01, tries=2).respond(samples, make_task("chat", "speech"))
    assert [reply.text for reply in replies] == ["Good.", "", "Good."]
    assert replies[1].finish_reason == "error" and what in replies[1].error
    assert len(server.bodies) == 2 + requests


def test_a_server_that_says_nothing_is_not_waited_for(server: Server) -> None:
    def sleep(body: dict[str, Any], number: int) -> tuple:
        time.sleep(0.6)
        return 200, say("Too late.")

    server.script = sleep
    model = load_model(server.spec, timeout=0.2, tries=2, pause=0.01)
    reply = model.respond([written("a", "Hello?")], make_task("chat"))[0]
    assert reply.finish_reason == "error" and "no answer within 0.2 s" in reply.error


@pytest.mark.parametrize(
    ("status", "error", "what"),
    [(401, PermissionError, "OPENAI_API_KEY"), (404, ValueError, "name of the model")],
)
def test_what_no_sample_could_change_ends_the_run(server: Server, status: int, error: type, what: str) -> None:
    server.script = lambda body, number: (status, b"no")
    model = load_model(server.spec, pause=0.01)
    with pytest.raises(error, match=what):
        model.respond([written("a", "Hello?"), written("b", "Hello?")], make_task("chat"))
    server.script = lambda body, number: (200, say("Welcome.")) if number % 2 else (500, b"")
    assert model.respond([written("a", "Hello?")], make_task("chat"))[0].text == "Welcome."


def test_no_server_is_said_in_one_sentence(server: Server) -> None:
    spec = server.spec.replace(f":{server.server_port}/", ":9/")
    with pytest.raises(ConnectionError, match="cannot be reached"):
        load_model(spec, tries=2, pause=0.01).respond([written("a", "Hello?")], make_task("chat"))


@pytest.mark.parametrize("spec", ["openai:http://localhost/v1", "openai:#name", "openai:localhost#name"])
def test_a_name_without_address_or_model_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="write"):
        load_model(spec)
