"""Paths, pipes and addresses: what people type is opened, what is incomplete or not allowed is refused."""

import base64
import http.server
import io
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import RATE, recording, tone

from ttt_hf.processing import fetching
from ttt_hf.processing.audio import audio_seconds, read_audio
from ttt_hf.processing.fetching import STRANGER, TABLE, Access, _is_public, open_source, short_name


NO_FILES = Access(local_files=False)
PUBLIC = Access(private_addresses=False)
WAV = recording("wav")


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[Any], None]], str]]:
    """Starts web servers of this machine that answer with a function of the handler; gives their addresses."""
    running: list[tuple[http.server.HTTPServer, threading.Thread]] = []

    def start(answer: Callable[[Any], None], host: str = "127.0.0.1") -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(self)

            def log_message(self, *arguments: Any) -> None:
                pass

        server = http.server.ThreadingHTTPServer((host, 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        running.append((server, thread))
        return f"http://{host}:{server.server_port}"

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


def answer_with(content: bytes, **headers: str) -> Callable[[Any], None]:
    def answer(handler: Any) -> None:
        handler.send_response(200)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


# -- downloads --------------------------------------------------------------------------------------------------------


def chunked(content: bytes, is_complete: bool) -> bytes:
    parts = [content[place : place + 5000] for place in range(0, len(content), 5000)]
    if not is_complete:
        parts.pop()
    framed = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return framed + b"0\r\n\r\n" if is_complete else framed


def test_complete_downloads(serve: Callable[..., str]) -> None:
    # With its length, without (up to the end of the connection), and in chunks.
    answers = [
        answer_with(WAV, Content_Length=str(len(WAV))),
        answer_with(WAV),
        # More than announced is not read.
        answer_with(WAV + b"x" * 100, Content_Length=str(len(WAV))),
    ]
    for answer in answers:
        np.testing.assert_allclose(read_audio(serve(answer))[0], tone(), atol=1e-4)

    def in_chunks(handler: Any) -> None:
        handler.protocol_version = "HTTP/1.1"
        answer_with(chunked(WAV, True), Transfer_Encoding="chunked")(handler)

    np.testing.assert_allclose(read_audio(serve(in_chunks))[0], tone(), atol=1e-4)


@pytest.mark.parametrize("kind", ["wav", "mp3", "ogg vorbis", "flac"])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_download_cut_short(serve: Callable[..., str], kind: str, share: float) -> None:
    content = recording(kind)
    part = content[: int(share * len(content))]
    with pytest.raises(OSError, match=rf"cannot be fetched: the connection ended after {len(part)} of {len(content)}"):
        read_audio(serve(answer_with(part, Content_Length=str(len(content)))))


def test_chunks_cut_short(serve: Callable[..., str]) -> None:
    def answer(handler: Any) -> None:
        handler.protocol_version = "HTTP/1.1"
        answer_with(chunked(WAV, False), Transfer_Encoding="chunked", Connection="close")(handler)
        handler.close_connection = True

    with pytest.raises(OSError, match="ended too early, try again"):
        read_audio(serve(answer))


def test_connection_reset(serve: Callable[..., str]) -> None:
    def answer(handler: Any) -> None:
        answer_with(WAV[:2000], Content_Length=str(len(WAV)))(handler)
        handler.wfile.flush()
        # Closing without lingering resets the connection.
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        handler.connection.close()

    with pytest.raises(OSError, match="cannot be fetched"):
        read_audio(serve(answer))


def test_cut_without_a_length_is_seen_in_the_file(serve: Callable[..., str]) -> None:
    with pytest.raises(ValueError, match="cut short: only 50 %"):
        read_audio(serve(answer_with(WAV[: len(WAV) // 2 + 20])))


def test_download_that_drips(serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ttt_hf.processing.fetching.DOWNLOAD_SECONDS", 0.3)
    stop = threading.Event()

    def answer(handler: Any) -> None:
        answer_with(b"", Content_Length=str(len(WAV)))(handler)
        for byte in WAV:
            if stop.wait(0.05):
                return
            handler.wfile.write(bytes([byte]))

    try:
        with pytest.raises(OSError, match=r"took longer than 0 s"):
            read_audio(serve(answer))
    finally:
        stop.set()


def test_too_large_by_its_length(serve: Callable[..., str]) -> None:
    with pytest.raises(ValueError, match="is larger than 1024 MiB"):
        read_audio(serve(answer_with(b"x", Content_Length=str(1 << 31))))


def test_user_agent_and_quoting(serve: Callable[..., str]) -> None:
    seen = []

    def answer(handler: Any) -> None:
        seen.append((handler.path, handler.headers["User-Agent"]))
        answer_with(WAV)(handler)

    address = serve(answer)
    read_audio(address.replace("http", "HTTP") + "/my reply/größe.wav?q=ä b&c=%41#part")
    assert seen == [("/my%20reply/gr%C3%B6%C3%9Fe.wav?q=%C3%A4%20b&c=%41", "ttt-hf")]


# -- other addresses --------------------------------------------------------------------------------------------------


def test_data_addresses() -> None:
    text = base64.b64encode(WAV).decode()
    for address in (f"data:audio/wav;base64,{text}", f"DATA:;BASE64,{text[:100]}\n{text[100:]}"):
        np.testing.assert_allclose(read_audio(address, access=STRANGER)[0], tone(), atol=1e-4)
    assert audio_seconds(f"data:audio/wav;base64,{text}") == 1.0
    for address in ("data:audio/wav;base64,!!!!", "data:audio/wav", f"data:audio/wav;base64,{text}x"):
        with pytest.raises(ValueError, match=r"The data: address is not of the form"):
            read_audio(address)
    with pytest.raises(ValueError, match="is empty"):
        read_audio("data:,")


def test_file_addresses(tmp_path: Path) -> None:
    path = tmp_path / "my größe.wav"
    path.write_bytes(WAV)
    for address in (path.as_uri(), f"FILE://localhost{path}", f"file://{path}"):
        assert read_audio(address)[1] == RATE
    with pytest.raises(FileNotFoundError, match="There is no audio file"):
        read_audio(f"file://{tmp_path}/none.wav")


@pytest.mark.parametrize(
    "address",
    [
        "http://[::1",
        "http://",
        "http:///path",
        "http://host:port/",
        "http://host:99999999/",
        "http://a\ud800b/",
        "http://host/\ud800",
        "http://host\x00/",
        "https://name:secret@host/",
        "s3://bucket/a.wav",
        "ftp://host/a.wav",
        "file://elsewhere/a.wav",
        "http://" + "a" * 70 + ".org/",
    ],
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises((ValueError, OSError), match=r"not an address|cannot be fetched|cannot be part") as raised:
        read_audio(address)
    assert "secret" not in str(raised.value)
    str(raised.value).encode()


@pytest.mark.parametrize("name", ["a\ud800.wav", "a\x00.wav", "x" * 5000, "\udcff.wav", "a\nb.wav"])
def test_names_that_no_file_has(name: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, OSError)) as raised:
        read_audio(f"{tmp_path}/{name}")
    message = str(raised.value)
    message.encode()
    assert "\n" not in message
    assert len(message) < 250, "a long source is not repeated"


def test_short_names() -> None:
    assert short_name("data:audio/wav;base64," + "A" * 10**6) == "The data: address"
    assert len(short_name("https://host/" + "a" * 10**6)) < 120
    assert short_name("https://user:secret@host/a.wav?key=secret") == "https://host/a.wav?..."


# -- what sources from elsewhere may name -----------------------------------------------------------------------------


def test_local_files_of_a_stranger(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(WAV)
    for source in (path, str(path), path.as_uri(), f"FILE://{path}", "-", "/dev/stdin", "/etc/passwd", {"path": path}):
        for access in (STRANGER, NO_FILES):
            if source == "-" and access.pipes:
                continue
            with pytest.raises(PermissionError, match="may not read: give the audio itself, or allow local files"):
                read_audio(source, access=access)
    # Content is no name.
    assert read_audio(WAV, access=STRANGER)[1] == RATE


def test_private_addresses_of_a_stranger(serve: Callable[..., str]) -> None:
    address = serve(answer_with(WAV))
    port = address.rpartition(":")[2]
    assert read_audio(address)[1] == RATE
    # `localhost` is a name that leads there; the others are other spellings of the same address.
    for host in ("127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "127.1"):
        with pytest.raises(PermissionError, match="or allow private addresses"):
            read_audio(f"http://{host}:{port}/", access=STRANGER)
    with pytest.raises(PermissionError, match="or allow private addresses"):
        read_audio(f"https://127.0.0.1:{port}/", access=STRANGER)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/", "data:,x", "http://[::1"])
def test_redirects_lead_to_http_only(serve: Callable[..., str], target: str) -> None:
    def answer(handler: Any) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.end_headers()

    with pytest.raises((OSError, ValueError), match="cannot be fetched"):
        read_audio(serve(answer))


def test_redirect_to_a_private_address(serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    target = serve(answer_with(WAV), "127.0.0.2")

    def answer(handler: Any) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.end_headers()

    first = serve(answer)
    # One of two addresses of this machine takes the part of a public one.
    monkeypatch.setattr("ttt_hf.processing.fetching._is_public", lambda address: address == "127.0.0.1")
    with pytest.raises(PermissionError, match=r"127\.0\.0\.2 is an address of this machine"):
        read_audio(first, access=PUBLIC)
    assert read_audio(serve(answer_with(WAV)), access=PUBLIC)[1] == RATE


def test_second_address_of_a_name(serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    address = serve(answer_with(WAV), "127.0.0.2")
    port = int(address.rpartition(":")[2])

    def entry(host: str) -> Any:
        return socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)

    by_name = {"a.org": [entry("127.0.0.3"), entry("127.0.0.2")]}
    monkeypatch.setattr("ttt_hf.processing.fetching._is_public", lambda address: True)
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **options: by_name.get(host, [entry(host)]))
    assert read_audio(address.replace("127.0.0.2", "a.org"), access=PUBLIC)[1] == RATE


def test_what_is_public() -> None:
    public = ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
    private = [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "::1", "::", "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "ff02::1",
    ]  # fmt: skip
    assert [address for address in public if not _is_public(address)] == []
    assert [address for address in private if _is_public(address)] == []


# -- pipes ------------------------------------------------------------------------------------------------------------


def test_named_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(WAV), daemon=True)
    writer.start()
    np.testing.assert_allclose(read_audio(path)[0], tone(), atol=1e-4)
    writer.join()
    for access in (TABLE, STRANGER):
        with pytest.raises((ValueError, PermissionError), match=r"is a pipe or a device|allow local files"):
            audio_seconds(path, access=access)


def test_named_pipe_and_a_slow_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    monkeypatch.setattr(fetching, "PIPE_TIMEOUT", 0.2)
    with pytest.raises(ValueError, match="pipe is a pipe that nothing writes to: start the program that does first"):
        read_audio(path)

    def write() -> None:
        with path.open("wb") as pipe:
            time.sleep(0.5)  # longer than without a program
            pipe.write(WAV)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    np.testing.assert_allclose(read_audio(path)[0], tone(), atol=1e-4)
    writer.join()


@pytest.mark.parametrize("is_named", [False, True])
@pytest.mark.parametrize("kind", ["wav", "flac", "wav gsm", "mp3"])
def test_unnamed_pipe(kind: str, is_named: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    writer = threading.Thread(target=lambda: os.fdopen(writing, "wb").write(recording(kind)))
    writer.start()
    with os.fdopen(reading) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        # As a shell names <(COMMAND).
        waveform = read_audio(f"/dev/fd/{reading}" if is_named else "-")[0]
    writer.join()
    np.testing.assert_array_equal(waveform, read_audio(recording(kind))[0])


def test_nothing_in_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(ValueError, match="Standard input is empty"):
        read_audio("-")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ValueError, match="Nothing is piped to standard input"):
        read_audio("-")


def test_pipe_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ttt_hf.processing.fetching.MAX_BYTES", 1 << 22)
    with pytest.raises(ValueError, match="/dev/zero is larger than 4 MiB"):
        open_source("/dev/zero")
