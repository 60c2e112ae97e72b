"""The server: an application behind a socket, until it is asked to end."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import uvicorn


# Requests that run may end within these seconds after the server is asked to.
GRACE_SECONDS = 30
# How long a connection without requests is kept.
KEEP_SECONDS = 75
# The largest message of a WebSocket.
MAX_MESSAGE = 16 << 20


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: Address or name of this machine.
        port: Port, 0 for any that is free.

    Raises:
        OSError: If the port is taken or may not be used, or the address is not this machine's.
    """
    if not 0 <= port < 65536:
        raise OSError(f"There is no port {port}: choose one from 1 to 65535, or 0 for any that is free.")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise OSError(
            f"{host} port {port} cannot be listened at ({error.strerror or error}): choose another --host or --port."
        ) from None


def make_server(app: Any) -> uvicorn.Server:
    """The server of an application; `run(sockets=[...])` serves until SIGINT or SIGTERM, then finishes what runs."""
    config = uvicorn.Config(
        app,
        log_config=None,
        # Requests are logged by the guard, without their query.
        access_log=False,
        server_header=False,
        # Who a client is, is nobody else's word.
        proxy_headers=False,
        ws_max_size=MAX_MESSAGE,
        timeout_graceful_shutdown=GRACE_SECONDS,
        # Longer than clients keep theirs, or a request may meet a connection that is being closed.
        timeout_keep_alive=KEEP_SECONDS,
    )
    return uvicorn.Server(config)
