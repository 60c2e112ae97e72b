"""What every request passes before it is read: who may ask, how large it may be, and how long it may take to send."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from .api_errors import ApiError


Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

logger = logging.getLogger(__name__)
LOOPBACK = ("localhost", "127.0.0.1", "::1")
# A browser cannot set headers of a WebSocket: OpenAI's clients put the key among the subprotocols.
KEY_PROTOCOL = "openai-insecure-api-key."
PUBLIC_PATHS = ("/health",)


@dataclass(frozen=True)
class Rules:
    """What the guard enforces.

    Args:
        api_key: The key that clients send; none is needed without.
        origins: Origins of web pages that may ask besides the server's own, such as `https://example.org`.
        max_bytes: Size of a body.
        is_public: Whether anybody may ask, by any name of this machine, where no key is needed.
        patience: Seconds without a byte of a body, or in which a client takes none of a response.
    """

    api_key: str | None = None
    origins: tuple[str, ...] = ()
    max_bytes: int = 32 << 20
    is_public: bool = False
    patience: float = 60.0


class Guard:
    """ASGI middleware that enforces `Rules`, and logs each request without its content.

    Args:
        app: The application.
        rules: The rules.
    """

    def __init__(self, app: Any, rules: Rules) -> None:
        self.app = app
        self.rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        connection = _Connection(scope, receive, send, self.rules)
        try:
            check_sender(scope, self.rules)
            if scope["type"] == "http":
                connection.check_length()
            await self.app(scope, connection.receive, connection.send)
            # The framework has taken it for a body that cannot be parsed.
            if connection.error is not None:
                await connection.refuse(connection.error)
        except ApiError as error:
            await connection.refuse(error)
        except Exception:
            # On its way through the framework the error becomes another.
            if not connection.has_stalled:
                raise
            logger.info("%s %s: the client reads nothing", connection.method, printable(scope["path"]))
        finally:
            seconds = time.monotonic() - connection.started
            logger.info("%s %s %s %.3f s", connection.method, printable(scope["path"]), connection.status, seconds)


class _Connection:
    """One request on its way."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, rules: Rules) -> None:
        self.started = time.monotonic()
        self.method = scope.get("method", "WS")
        self.status = 0
        self.error: ApiError | None = None
        self.has_stalled = False
        self._scope = scope
        self._receive = receive
        self._send = send
        self._rules = rules
        self._bytes = 0
        self._is_read = False

    def check_length(self) -> None:
        """Refuses a body that is too large by its header, before it is read."""
        length = headers_of(self._scope).get("content-length", "0")
        if length.isdecimal() and int(length) > self._rules.max_bytes:
            raise self._too_large()

    async def receive(self) -> Message:
        if self._scope["type"] != "http" or self._is_read:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._rules.patience)
        except asyncio.TimeoutError:
            self.error = ApiError(408, "The request took too long to arrive: send it again.")
            raise self.error from None
        self._bytes += len(message.get("body", b""))
        self._is_read = not message.get("more_body", False)
        # Where no header tells.
        if self._bytes > self._rules.max_bytes:
            self.error = self._too_large()
            raise self.error
        return message

    async def send(self, message: Message) -> None:
        if self.error is not None:
            return
        if message["type"].endswith("response.start"):
            self.status = message["status"]
        elif message["type"] == "websocket.accept":
            self.status = 101
        # Without a limit a client that does not read would hold its connection for ever.
        try:
            await asyncio.wait_for(self._send(message), self._rules.patience)
        except asyncio.TimeoutError:
            self.has_stalled = True
            raise

    async def refuse(self, error: ApiError) -> None:
        if self.status:
            return
        self.error, response = None, error.response()
        if self._scope["type"] == "http":
            # The rest of the body is not read.
            response.headers["Connection"] = "close"
            await response(self._scope, self._receive, self.send)
        elif "websocket.http.response" in self._scope.get("extensions", {}):
            headers = [(name, value) for name, value in response.raw_headers]
            kind = "websocket.http.response"
            await self.send({"type": f"{kind}.start", "status": error.status, "headers": headers})
            await self.send({"type": f"{kind}.body", "body": bytes(response.body)})
        else:
            await self.send({"type": "websocket.close", "code": 1008, "reason": str(error)[:120]})

    def _too_large(self) -> ApiError:
        return ApiError(413, f"The request is larger than {self._rules.max_bytes >> 20} MiB.", code="too_large")


def headers_of(scope: Scope) -> dict[str, str]:
    """Headers by their names in lower case."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def check_sender(scope: Scope, rules: Rules) -> None:
    """Raises an `ApiError` for web pages of others, and without the right key."""
    headers = headers_of(scope)
    host, hostname = _host(f"//{headers.get('host', '')}")
    if rules.api_key is None and not rules.is_public and hostname not in LOOPBACK:
        # A page may give its own name the address of this machine.
        raise ApiError(403, "Without a key the server answers to localhost only.", code="forbidden_host")
    origin = headers.get("origin")
    # Browsers let pages open WebSockets to any server, this one included.
    if origin is not None and origin not in rules.origins and _host(origin)[0] != host:
        raise ApiError(
            403, "Pages of this origin may not use the server (--origin allows them).", code="forbidden_origin"
        )
    # Before a page sends its key, the browser asks whether it may.
    if rules.api_key is None or scope["path"] in PUBLIC_PATHS or scope.get("method") == "OPTIONS":
        return
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        protocols = [part.strip() for part in headers.get("sec-websocket-protocol", "").split(",")]
        key = next((part.removeprefix(KEY_PROTOCOL) for part in protocols if part.startswith(KEY_PROTOCOL)), "")
    # Takes the same time wherever the first difference is.
    if not hmac.compare_digest(key.strip().encode("latin-1", "replace"), rules.api_key.encode()):
        raise ApiError(401, "The API key is missing or wrong.", "authentication_error", "invalid_api_key")


def _host(address: str) -> tuple[str, str | None]:
    """Host with its port, and without, of an address; empty if it is none."""
    try:
        parts = urlsplit(address)
        return parts.netloc, parts.hostname
    except ValueError:
        return "", None


def printable(path: str) -> str:
    """A path as it is logged: short, in one line."""
    return "".join(letter if letter.isprintable() else "?" for letter in path[:100])
