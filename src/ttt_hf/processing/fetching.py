"""Opens what a source names: a file, a pipe, or an address, within the limits that its origin sets."""

from __future__ import annotations

import base64
import http.client
import io
import ipaddress
import os
import re
import socket
import stat
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, BinaryIO
from urllib.parse import quote, unquote_to_bytes, urlsplit, urlunsplit


@dataclass(frozen=True)
class Access:
    """What may be read on behalf of whoever named a source.

    Args:
        local_files: Files of this machine, by path or `file://`.
        private_addresses: Addresses of this machine and of its own network, also by way of a redirect or of a public
            name that leads there. Without them no proxy is used, since it would look up names by itself.
        pipes: Pipes, devices and `-` (standard input), which may take as long as whatever writes to them.
        addresses: Addresses on any network at all; `data:` addresses hold the audio itself, and are always read.
    """

    local_files: bool = True
    private_addresses: bool = True
    pipes: bool = True
    addresses: bool = True


# For a source that the user typed, one in a table of the user's, and one that came with a request or a download; a
# server fetches nothing unless it is told to.
USER = Access()
TABLE = Access(pipes=False)
STRANGER = Access(local_files=False, private_addresses=False, pipes=False)
CONTENT = Access(local_files=False, private_addresses=False, pipes=False, addresses=False)

STANDARD_INPUT = "-"
USER_AGENT = "ttt-hf"
PIPE_TIMEOUT = 10.0  # seconds without a program that writes to a named pipe
DOWNLOAD_TIMEOUT = 30.0  # seconds without a byte
DOWNLOAD_SECONDS = 600.0  # in all
MAX_BYTES = 1 << 30
_CHUNK = 1 << 20
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):", re.IGNORECASE)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def short_name(source: str | os.PathLike[str]) -> str:
    """A source as it is named in messages: one short line, of an address without password and query."""
    text = os.fspath(source)
    if text.casefold().startswith("data:"):
        return "The data: address"
    if is_address(text):
        # Keys of storage services are in the query.
        text = re.sub(r"\?.*", "?...", re.sub(r"(?<=//)[^/?#@]*@", "", text), flags=re.DOTALL)
    text = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    return text if len(text) <= 120 else f"{text[:60]}...{text[-40:]}"


def is_address(source: str) -> bool:
    """Whether it is an address (`http:`, `data:`, `file:`, ...) rather than a path."""
    # Two slashes: a file may be called a:b.wav. One letter is a drive of Windows.
    scheme = _SCHEME.match(source)
    return scheme is not None and (scheme[1].casefold() == "data" or source.startswith("//", scheme.end()))


def open_source(source: str | os.PathLike[str], access: Access = USER) -> BinaryIO:
    """Opens a file, or takes in a pipe or what is behind an address.

    Args:
        source: A path, `-` for standard input, or a `file:`, `data:`, `http:` or `https:` address.
        access: What may be read.

    Returns:
        A seekable binary file, to be closed by the caller.

    Raises:
        PermissionError: If `access` does not allow it, or the system does not.
        OSError: If it cannot be opened or fetched.
        ValueError: If it is empty, too large, or no address.
    """
    if not isinstance(source, str) or not is_address(source):
        return _open_path(source, short_name(source), access)
    scheme = source.partition(":")[0].casefold()
    if scheme == "data":
        return _in_memory(_data(source), short_name(source))
    name = short_name(source)
    try:
        parts = urlsplit(source.strip())
        if scheme == "file":
            if parts.netloc.casefold() not in ("", "localhost"):
                raise ValueError("it names another machine")
            return _open_path(urllib.request.url2pathname(parts.path), name, access)
        if scheme not in ("http", "https"):
            raise ValueError("only http:, https:, file: and data: are read")
        address = _encoded(parts)
    except ValueError as error:
        # Errors about bytes that cannot be encoded carry the whole source.
        reason = "a character cannot be part of it" if isinstance(error, UnicodeError) else error
        raise ValueError(f"{name} is not an address that can be read: {reason}.") from None
    if not access.addresses:
        raise PermissionError(f"{name} is not fetched, as addresses are not allowed here: give the audio itself.")
    return _download(address, name, access)


def read_limited(read: Callable[[int], bytes], name: str) -> BinaryIO:
    """Takes a stream into memory, up to `MAX_BYTES`; raises a `ValueError` if it is empty, larger, or text."""
    content = io.BytesIO()
    while chunk := read(_CHUNK):
        if not isinstance(chunk, (bytes, bytearray)):
            raise ValueError(f"{name} is opened as text: open it in binary mode ('rb').")
        content.write(chunk)
        if content.tell() > MAX_BYTES:
            raise ValueError(f"{name} is larger than {MAX_BYTES >> 20} MiB: cut it first.")
    return _in_memory(content, name)


def _in_memory(content: io.BytesIO, name: str) -> io.BytesIO:
    if not content.seek(0, os.SEEK_END):
        raise ValueError(f"{name} is empty (0 bytes).")
    content.seek(0)
    return content


# -- files and pipes --------------------------------------------------------------------------------------------------


def _open_path(path: str | os.PathLike[str], name: str, access: Access) -> BinaryIO:
    if path == STANDARD_INPUT and access.pipes:
        return _standard_input()
    if path == STANDARD_INPUT or not access.local_files:
        raise PermissionError(
            f"{name} is on this machine, which data and requests from elsewhere may not read: give the audio itself, "
            "or allow local files."
        )
    try:
        mode = os.stat(path).st_mode
        is_read = stat.S_ISREG(mode) or (access.pipes and not stat.S_ISDIR(mode))
        # An ordinary `open` of a named pipe waits for ever for a program that writes to it.
        opener = _open_at_once if stat.S_ISFIFO(mode) else None
        file = open(path, "rb", opener=opener) if is_read else None  # noqa: SIM115
    except ValueError:
        raise ValueError(f"{name} holds a character that no file name can have.") from None
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no audio file {name}.") from None
    except OSError as error:
        remedy = ": check its permissions" if isinstance(error, PermissionError) else ""
        raise type(error)(f"{name} may not be read ({error.strerror}){remedy}.") from None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{name} is a folder, not an audio file.")
    if file is None:
        raise ValueError(f"{name} is a pipe or a device: name a file.")
    if not stat.S_ISREG(mode):
        with file:
            return read_limited(_pipe_reader(file, name) if stat.S_ISFIFO(mode) else file.read, name)
    if os.fstat(file.fileno()).st_size == 0:
        file.close()
        raise ValueError(f"{name} is empty (0 bytes).")
    return file


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _pipe_reader(pipe: Any, name: str) -> Callable[[int], bytes]:
    """Waits until a program writes to a pipe that does not block, and returns a function that reads what it writes."""
    deadline = time.monotonic() + PIPE_TIMEOUT
    # At its end as long as nothing writes to it; None where something does, but has written nothing yet.
    while (first := pipe.raw.read(_CHUNK)) == b"":
        if time.monotonic() > deadline:
            raise ValueError(f"{name} is a pipe that nothing writes to: start the program that does first.")
        time.sleep(0.01)
    os.set_blocking(pipe.fileno(), True)
    chunks = chain([first] if first else [], iter(partial(pipe.read, _CHUNK), b""))
    return lambda _: next(chunks, b"")


def _standard_input() -> BinaryIO:
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None or sys.stdin.isatty():
        raise ValueError("Nothing is piped to standard input: write `COMMAND | ttt-hf ... -`, or name a file.")
    return read_limited(stream.read, "Standard input")


# -- addresses --------------------------------------------------------------------------------------------------------


def _data(address: str) -> io.BytesIO:
    header, comma, payload = address.partition(",")
    try:
        if not comma:
            raise ValueError
        content = unquote_to_bytes(payload)
        if header.casefold().endswith(";base64"):
            content = decode_base64(content)
    except ValueError:
        raise ValueError("The data: address is not of the form data:audio/wav;base64,... .") from None
    return io.BytesIO(content)


def decode_base64(text: str | bytes) -> bytes:
    """Bytes of base64 text with or without line breaks; raises a `ValueError` if it is anything else."""
    content = text.encode("ascii") if isinstance(text, str) else text
    # Without `validate` foreign characters would be skipped, and what is left would be decoded.
    return base64.b64decode(b"".join(content.split()), validate=True)


def _encoded(parts: Any) -> str:
    """The address as it is sent: with spaces and other scripts quoted."""
    if parts.username is not None:
        raise ValueError("it holds a user name, which is not sent: fetch the file and name it")
    if not parts.hostname:
        raise ValueError("it names no host")
    host = parts.hostname
    # Addresses of IPv6 stay in their brackets; `port` checks that it is a number.
    host = f"[{host}]" if ":" in host else host.encode("idna").decode("ascii")
    netloc = host if parts.port is None else f"{host}:{parts.port}"
    # What is quoted already stays.
    path, query = (quote(part, safe="/%:=&?~+!$,;'@()*[]") for part in (parts.path, parts.query))
    return urlunsplit((parts.scheme.lower(), netloc, path, query, ""))


def _download(address: str, name: str, access: Access) -> BinaryIO:
    request = urllib.request.Request(address, headers={"User-Agent": USER_AGENT, "Accept": "*/*"})
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    with _transfer_errors(name):
        response = _opener(access).open(request, timeout=DOWNLOAD_TIMEOUT)
    with response:
        length = response.headers.get("Content-Length", "")
        # Without it, or in chunks, the end of the connection or the last chunk is the end.
        promised = int(length) if length.isdecimal() and not response.chunked else None
        if promised is not None and promised > MAX_BYTES:
            raise ValueError(f"{name} is larger than {MAX_BYTES >> 20} MiB: download and cut it first.")
        received = 0

        def read(size: int) -> bytes:
            nonlocal received
            with _transfer_errors(name):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"it took longer than {DOWNLOAD_SECONDS:.0f} s")
                # A server may keep the connection open after the last byte. One read of the socket at a time, so that
                # the deadline holds for a server that drips.
                size = size if promised is None else min(size, promised - received)
                chunk = response.read1(size) if size else b""
                received += len(chunk)
                if not chunk and promised is not None and received < promised:
                    raise ConnectionError(f"the connection ended after {received} of {promised} bytes, try again")
                return chunk

        return read_limited(read, name)


@contextmanager
def _transfer_errors(name: str) -> Iterator[None]:
    try:
        yield
    except http.client.IncompleteRead:
        raise OSError(f"{name} cannot be fetched: the connection ended too early, try again.") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, PermissionError):
            raise reason from None
        raise OSError(f"{name} cannot be fetched: {' '.join(str(reason).split())[:200]}.") from error


def _opener(access: Access) -> urllib.request.OpenerDirector:
    """Opens http(s) only, also where a redirect leads."""
    kinds: list[Any] = [
        urllib.request.UnknownHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ]
    if access.private_addresses:
        kinds += [urllib.request.HTTPHandler, urllib.request.HTTPSHandler, urllib.request.ProxyHandler]
    else:
        kinds += [_PublicHTTPHandler, _PublicHTTPSHandler]
    opener = urllib.request.OpenerDirector()
    for kind in kinds:
        opener.add_handler(kind())
    return opener


class _PublicHTTPHandler(urllib.request.HTTPHandler):
    def http_open(self, request: Any) -> Any:
        return self.do_open(partial(_public_connection, http.client.HTTPConnection), request)  # type: ignore[arg-type]


class _PublicHTTPSHandler(urllib.request.HTTPSHandler):
    def https_open(self, request: Any) -> Any:
        return self.do_open(partial(_public_connection, http.client.HTTPSConnection), request)  # type: ignore[arg-type]


def _public_connection(kind: Any, *arguments: Any, **options: Any) -> Any:
    connection = kind(*arguments, **options)
    connection._create_connection = _connect_publicly
    return connection


def _connect_publicly(address: tuple[str, int], *arguments: Any, **options: Any) -> socket.socket:
    """Like `socket.create_connection`, but refuses private addresses: the one checked is the one connected to."""
    host, port = address
    found = [entry[4][0] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not all(map(_is_public, found)):
        raise PermissionError(
            f"{short_name(host)} is an address of this machine or its own network, which data and requests from "
            "elsewhere may not read: give the audio itself, or allow private addresses."
        )
    for number, numeric in enumerate(found, start=1):
        try:
            return socket.create_connection((str(numeric), port), *arguments, **options)
        except OSError:
            # A name may have an address of IPv6 that cannot be reached from here.
            if number == len(found):
                raise
    raise OSError(f"{host} has no address")


def _is_public(address: Any) -> bool:
    # Without the zone of an address such as fe80::1%eth0.
    ip = ipaddress.ip_address(str(address).partition("%")[0])
    if ip.version == 6:
        # Addresses of IPv4 that are written as ones of IPv6 lead to the same machines.
        inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else ip.ipv4_mapped
        if inner is not None:
            return _is_public(inner)
        # Tunnels, which may lead anywhere
        if ip.sixtofour or ip.teredo:
            return False
    return ip.is_global and not ip.is_multicast
