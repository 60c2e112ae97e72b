"""JSON over HTTP to an OpenAI-compatible server with the standard library: retries, pauses, errors in one sentence."""

from __future__ import annotations

import json
import os
import random
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from .redaction import address_without_secrets


# Status codes of transient failures: timeouts, conflicts, too many requests. All from 500 on are transient, too.
_TRANSIENT = (408, 409, 425, 429)
# Seconds; a server that asks for a longer pause has no quota left.
_LONGEST_PAUSE = 120.0
_EXCERPT_LENGTH = 200
_SHORTEST_SECRET = 8


class RequestFailed(RuntimeError):
    """One request failed, after all tries; others may succeed."""


class Endpoint:
    """An OpenAI-compatible server.

    Args:
        url: Base address, such as `http://localhost:8000/v1`. Its query, which may hold a key, is sent with each
            request and shown nowhere.
        key_variable: Environment variable with the key; if it is not set, none is sent. No message contains the key.
        timeout: Seconds to wait for a server that sends nothing.
        tries: Maximum number of times that a request is sent.
        pause: Seconds before the second try, doubled for each further one; `Retry-After` takes precedence.

    Raises:
        ValueError: If the address or the key is malformed, or `tries` is below 1.
    """

    def __init__(
        self,
        url: str,
        key_variable: str = "OPENAI_API_KEY",
        timeout: float = 60.0,
        tries: int = 5,
        pause: float = 1.0,
    ) -> None:
        # Messages and results hold the address, and must not hold a key.
        self.url = address_without_secrets(url).rstrip("/")
        try:
            self._parts = urlsplit(url)
            is_server = self._parts.scheme in ("http", "https") and bool(self._parts.hostname)
            # Of blanks and other characters that no address has, http.client's error would print the query.
            is_server = is_server and url.isascii() and url.isprintable() and " " not in url and self._parts.port != 0
        except ValueError:  # half an IPv6 address, or a port that is no number
            is_server = False
        if not is_server:
            raise ValueError(f"{self.url!r} is no address of a server: write it like http://localhost:8000/v1.")
        if self._parts.username or self._parts.password:
            raise ValueError(f"The address of a server holds no key: set the variable {key_variable}.")
        if tries < 1:
            raise ValueError(f"A request is sent once at least, not {tries} times.")
        self.key_variable = key_variable
        self.timeout = timeout
        self.tries = tries
        self.pause = pause
        self._key = os.environ.get(key_variable, "").strip()
        # Servers may repeat either in their errors, which are recorded. Short values are versions and the like.
        query = self._parts.query
        values = [*(pair.partition("=")[2] for pair in query.split("&")), *(value for _, value in parse_qsl(query))]
        self._secrets = [self._key, *(value for value in values if len(value) >= _SHORTEST_SECRET)]
        # http.client refuses such a header with an error that prints the key.
        if not (self._key.isascii() and self._key.isprintable()):
            raise ValueError(f"The key in {key_variable} holds characters that no key has: set it anew.")
        # Set when the answers are no longer needed: ends all pauses.
        self.stopped = threading.Event()
        self._opener = urllib.request.build_opener(_NoRedirect())

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Sends a request and returns the JSON object of the answer; retries transient failures.

        Args:
            path: Relative to the base address, such as `chat/completions`.
            body: Sent as JSON.
        """
        address = self._address(path)
        request = urllib.request.Request(
            address, json.dumps(body).encode(), {"Content-Type": "application/json", **self._authorization()}
        )
        for attempt in range(self.tries):
            is_last = attempt == self.tries - 1
            # Jitter: concurrent requests that failed together are not sent again at the same moment.
            delay = self.pause * 2**attempt * random.uniform(0.75, 1.25)
            try:
                with self._opener.open(request, timeout=self.timeout) as response:
                    answer = json.loads(response.read())
                if isinstance(answer, dict):
                    return answer
                problem = "answered with something that is no JSON object"
            # An HTTPError is a URLError and an OSError, too, so that it has to come first.
            except urllib.error.HTTPError as error:
                delay = self._after_status(path, error, delay)
                problem = f"answered with {error.code}{self._excerpt(error)}"
            except (OSError, HTTPException) as error:
                # urllib wraps errors of connecting in a URLError; those of reading come as they are.
                reason = getattr(error, "reason", error)
                if isinstance(reason, TimeoutError):
                    problem = f"gave no answer within {self.timeout:g} s"
                elif not isinstance(error, urllib.error.URLError):
                    problem = f"broke off ({reason})"
                # Without any connection, all other requests would fail alike: an error of the run, not of the request.
                elif is_last:
                    raise ConnectionError(
                        f"{self.url} cannot be reached ({reason}): start the server, or name another address."
                    ) from error
                else:
                    problem = f"cannot be reached ({reason})"
            except ValueError:
                problem = "answered with something that is not JSON"
            # Wakes up at once when nobody needs the answer any more, instead of sleeping through the pause.
            if not is_last and self.stopped.wait(delay):
                break
        raise RequestFailed(f"{self.url} {problem}, after {attempt + 1} of {self.tries} tries.")

    def _address(self, path: str) -> str:
        # Users often paste the full address of the method instead of the base address.
        base = self._parts.path.rstrip("/").removesuffix(f"/{path}")
        return urlunsplit(self._parts._replace(path=f"{base}/{path}", fragment=""))

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def _after_status(self, path: str, error: urllib.error.HTTPError, delay: float) -> float:
        """Returns the seconds to wait before the next try, or raises if there is no point in one."""
        # 1. Wrong for all requests: the run ends.
        if error.code in (401, 403):
            missing = "" if self._key else ", which is not set"
            raise PermissionError(
                f"{self.url} refuses the key ({error.code}): set the environment variable {self.key_variable}"
                f"{missing}."
            ) from error
        if error.code in (404, 405, 410) or 300 <= error.code < 400:
            raise ValueError(
                f"There is nothing at {address_without_secrets(self._address(path))} ({error.code}"
                f"{self._excerpt(error)}): check the address and the name of the model."
            ) from error
        # 2. Wrong for this request: trying again would give the same answer.
        if error.code not in _TRANSIENT and error.code < 500:
            raise RequestFailed(f"{self.url} refuses the request: {error.code}{self._excerpt(error)}.") from error
        # 3. Transient: the server knows best how long to wait.
        wanted = _retry_after(error.headers.get("Retry-After"))
        if wanted is None:
            return delay
        if wanted > _LONGEST_PAUSE:
            raise RequestFailed(f"{self.url} answered with {error.code} and asks to wait {wanted:.0f} s.") from error
        return wanted

    def _excerpt(self, error: urllib.error.HTTPError) -> str:
        """The beginning of the body of an error, without the key."""
        if not hasattr(error, "excerpt"):
            try:
                body = error.read(4096).decode("utf-8", "replace")
            except (OSError, HTTPException):
                body = ""
            for secret in filter(None, self._secrets):
                body = body.replace(secret, "(key)")
            error.excerpt = " ".join(body.split())[:_EXCERPT_LENGTH]  # type: ignore[attr-defined]
        return f": {error.excerpt}" if error.excerpt else ""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, so that the key is sent to the given address only."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait according to a `Retry-After` header, which holds a number of seconds or a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    # HTTP dates are in UTC; without a zone, or with `-0000`, Python leaves the time zone out.
    if date.tzinfo is None:
        date = date.replace(tzinfo=timezone.utc)
    return max(0.0, (date - datetime.now(timezone.utc)).total_seconds())
