"""What surrounds the endpoints: keys, limits, errors, health, numbers, and the end."""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from local_server import LocalServer
from prometheus_client.parser import text_string_to_metric_families

from ttt_hf.serving.api.guard import Guard, Rules
from ttt_hf.serving.api.server import is_loopback, listen


Loaded = tuple[Any, Any]
HELLO: list[Any] = [{"role": "user", "content": "Hello."}]
BODY = {"model": "embedded", "messages": HELLO}


def slow(loaded: Loaded, seconds: float = 0.05) -> None:
    loaded[0].register_forward_pre_hook(lambda *_: time.sleep(seconds))


def test_models_and_health(client: openai.OpenAI, server: LocalServer) -> None:
    assert [model.id for model in client.models.list()] == ["embedded"]
    assert client.models.retrieve("embedded").owned_by == "local"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/", 404), ("GET", "/v1/chat/completions", 405), ("GET", "/docs", 404)]
)
def test_errors_of_addresses(method: str, path: str, status: int, server: LocalServer) -> None:
    response = httpx.request(method, f"{server.url}{path}")
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b"{}" * 9])
def test_a_body_that_is_no_object(content: bytes, server: LocalServer) -> None:
    headers = {"Content-Type": "application/json"}
    response = httpx.post(f"{server.url}/v1/chat/completions", content=content, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_numbers(client: openai.OpenAI, server: LocalServer) -> None:
    client.chat.completions.create(model="embedded", messages=HELLO, modalities=["text", "audio"])
    text = httpx.get(f"{server.url}/metrics").text
    samples = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.labels or sample.labels.get("outcome") == "stop"
    }
    assert samples["ttt_requests_total"] >= 1
    assert samples["ttt_queue_requests"] == 0
    for name in ("step_rows", "step_seconds", "first_audio_seconds", "request_seconds", "real_time_factor"):
        assert samples[f"ttt_{name}_count"] >= 1 and samples[f"ttt_{name}_sum"] > 0


def test_the_key(fixed: Loaded) -> None:
    with LocalServer(fixed, Rules(api_key="se-cret")) as server:
        assert server.client("se-cret").models.list().data[0].id == "embedded"
        for key in ("wrong", "se-cre", "se-crett", "é"):
            response = httpx.get(f"{server.url}/v1/models", headers={b"Authorization": f"Bearer {key}".encode()})
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            server.client("wrong").chat.completions.create(model="embedded", messages=HELLO)
        assert httpx.get(f"{server.url}/metrics").status_code == 401
        assert httpx.get(f"{server.url}/health").status_code == 200


def test_pages_of_others_are_refused(fixed: Loaded) -> None:
    with LocalServer(fixed, Rules(origins=("https://app.example",))) as server:
        for headers, status in (
            ({}, 200),
            ({"Origin": server.url}, 200),
            ({"Origin": "https://app.example"}, 200),
            ({"Origin": "https://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Host": "evil.example"}, 403),
            ({"Host": "[::1"}, 403),
            ({"Host": "localhost:1"}, 200),
        ):
            assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == status, headers
        asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
        answer = httpx.options(f"{server.url}/v1/chat/completions", headers=asked)
        assert answer.headers["access-control-allow-origin"] == "https://app.example"


def test_large_bodies_are_refused_before_they_are_read(fixed: Loaded) -> None:
    with LocalServer(fixed, Rules(max_bytes=1 << 20)) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n"
            )
            assert b"413" in connection.recv(100)
        # Without a length it is counted.
        response = httpx.post(f"{server.url}/v1/chat/completions", content=(b"x" * 100_000 for _ in range(20)))
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "too_large"


def test_a_client_that_stalls_is_cut_off(fixed: Loaded) -> None:
    with LocalServer(fixed, Rules(patience=0.3)) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{")
            assert b"408" in connection.recv(100)
        # The others are answered meanwhile.
        assert server.client().chat.completions.create(model="embedded", messages=HELLO).choices


def test_a_client_that_reads_nothing_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="ttt_hf")
    app, ended = FastAPI(), []

    @app.get("/")
    async def endless() -> StreamingResponse:
        async def content() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x"
            finally:
                ended.append(True)

        return StreamingResponse(content())

    async def receive() -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.sleep(60)

    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b"",
                             "headers": [(b"host", b"localhost")], "asgi": {"spec_version": "2.4"}}  # fmt: skip
    asyncio.run(asyncio.wait_for(Guard(app, Rules(patience=0.1))(scope, receive, send), timeout=10))
    assert ended and "the client reads nothing" in caplog.text


def test_a_full_queue_is_429_and_a_long_wait_503(fixed: Loaded) -> None:
    slow(fixed, 0.2)
    with LocalServer(fixed, slots=1, queue=1, wait_seconds=0.3) as server:
        responses: list[httpx.Response] = []

        def ask() -> None:
            responses.append(httpx.post(f"{server.url}/v1/chat/completions", json=BODY, timeout=30))

        running, waiting = threading.Thread(target=ask), threading.Thread(target=ask)
        running.start()
        while not server.engine.num_running:
            time.sleep(0.005)
        waiting.start()
        while not server.engine.num_waiting:
            time.sleep(0.005)
        ask()
        waiting.join()
        running.join()
        assert [response.status_code for response in responses] == [429, 503, 200]
        assert all(int(response.headers["retry-after"]) >= 1 for response in responses[:2])


def test_an_error_of_the_server_is_500_without_its_content(fixed: Loaded, caplog: pytest.LogCaptureFixture) -> None:
    with LocalServer(fixed) as server:
        handle = fixed[0].register_forward_pre_hook(lambda *_: {}["secret"])
        response = httpx.post(f"{server.url}/v1/chat/completions", json=BODY)
        assert response.status_code == 500
        assert "secret" not in response.text and response.json()["error"]["type"] == "server_error"
        # After the status has been sent.
        handle.remove()
        steps = iter(range(3))

        def fail_later(*_: Any) -> None:
            time.sleep(0.3)  # the first event is on its way by then
            next(steps)

        handle = fixed[0].register_forward_pre_hook(fail_later)
        stream = server.client().chat.completions.create(model="embedded", messages=HELLO, stream=True)
        with pytest.raises(openai.APIError, match="failed to answer"):
            list(stream)
        handle.remove()
        assert httpx.post(f"{server.url}/v1/chat/completions", json=BODY).status_code == 200


def test_the_log_holds_no_content(fixed: Loaded, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="ttt_hf")
    with LocalServer(fixed) as server:
        body = {"model": "embedded", "messages": [{"role": "user", "content": "a secret"}]}
        httpx.post(f"{server.url}/v1/chat/completions?key=secret", json=body)
    (line,) = [record.getMessage() for record in caplog.records if "/v1/chat" in record.getMessage()]
    assert line.startswith("POST /v1/chat/completions 200 ")
    assert "secret" not in caplog.text


def test_what_runs_is_finished_at_the_end(fixed: Loaded) -> None:
    slow(fixed, 0.02)
    found: list[Any] = []
    with LocalServer(fixed) as server:
        thread = threading.Thread(
            target=lambda: found.append(httpx.post(f"{server.url}/v1/chat/completions", json=BODY, timeout=30))
        )
        thread.start()
        while not server.engine.num_running:
            time.sleep(0.005)
    thread.join()
    assert found[0].status_code == 200 and found[0].json()["choices"][0]["message"]["content"] == "Hi."
    assert not server.engine.is_open
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/health")


def test_a_closing_server_says_so(fixed: Loaded) -> None:
    with LocalServer(fixed) as server:
        server.engine.close()
        assert httpx.get(f"{server.url}/health").status_code == 503
        response = httpx.post(f"{server.url}/v1/chat/completions", json=BODY)
        assert response.status_code == 503 and "retry-after" in response.headers


def test_addresses() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.1.2.3", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.2", "example.org")))
    with listen("127.0.0.1", 0) as one, pytest.raises(OSError, match="cannot be listened at"):
        listen("127.0.0.1", one.getsockname()[1])
    with pytest.raises(OSError, match="no port 70000"):
        listen("127.0.0.1", 70_000)
