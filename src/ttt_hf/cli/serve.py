"""`ttt-hf serve`: a model behind OpenAI's API, for clients that speak it."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..names import EMBEDDED_ALIAS
from .errors import UsageError
from .model_options import add_model_options, load_model, loading_settings
from .quiet import is_verbose, note


if TYPE_CHECKING:
    from ..serving import Engine

KEY_VARIABLE = "TTT_HF_API_KEY"
EXAMPLES = f"""examples:
  ttt-hf serve embedded --port 8000
  curl http://127.0.0.1:8000/v1/audio/speech -H 'Content-Type: application/json' \\
    -d '{{"model": "embedded", "input": "Good morning.", "voice": "default"}}' --output speech.mp3

environment:
  {KEY_VARIABLE}  the key that clients must send; needed for any other address than this machine's own
  RAY_ADDRESS     with --replicas: the Ray cluster, such as auto; without it one is started on this machine
"""


def add_parser(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = verbs.add_parser(
        "serve",
        help="answer requests in OpenAI's API",
        description="Serves a model to clients of OpenAI's API: chat with speech, speech, transcription, realtime.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", default=EMBEDDED_ALIAS, help="folder or Hub id (default: %(default)s)"
    )
    parser.add_argument("--name", help="name of the model in requests (default: its Hub id, or its folder's name)")
    add_model_options(parser)
    for name, kind, default, unit, text in (
        ("--host", str, "127.0.0.1", "ADDRESS", "address to listen at"),
        ("--port", int, 8000, "N", "port, 0 for a free one"),
        ("--slots", int, 16, "N", "requests decoded together"),
        ("--queue", int, 64, "N", "requests that may wait for a slot, more are refused"),
        ("--wait", float, 60.0, "SECONDS", "how long a request waits for a slot"),
        ("--max-new-tokens", int, 2048, "N", "longest reply, text and audio tokens"),
        ("--max-audio-seconds", float, 300.0, "SECONDS", "longest recording"),
        ("--max-body-mib", int, 32, "N", "largest request"),
    ):
        parser.add_argument(name, type=kind, default=default, metavar=unit, help=f"{text} (default: %(default)s)")
    parser.add_argument("--allow-urls", action="store_true", help="fetch audio that requests name by public addresses")
    parser.add_argument(
        "--origin", action="append", default=[], metavar="URL", help="web pages of this origin may ask, too"
    )
    parser.add_argument(
        "--replicas",
        type=_counts,
        metavar="N",
        help="replicas of the model, by Ray Serve; 1-8: as the load needs them",
    )
    parser.add_argument(
        "--replica-cpus", type=int, default=1, metavar="N", help="cores of a replica (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Serves until it is interrupted; what runs then is finished."""
    key = os.environ.get(KEY_VARIABLE) or None
    with needed_packages("serve"):
        from ..serving.api.guard import Rules
        from ..serving.api.server import is_loopback
    if not is_loopback(args.host) and key is None:
        raise UsageError(
            f"--host {args.host} can be reached from other machines: set {KEY_VARIABLE} to a key that clients send."
        )
    if args.max_body_mib < 1:
        raise UsageError(f"--max-body-mib must be at least 1, not {args.max_body_mib}.")
    rules = Rules(key, tuple(args.origin), args.max_body_mib << 20)
    if args.replicas:
        _serve_replicas(args, rules)
    else:
        serve_model(args, _limits(args), rules, access=_access(args.allow_urls))


@contextmanager
def needed_packages(verb: str, extra: str = "serve") -> Iterator[None]:
    """Where the packages of an extra are imported.

    Raises:
        ImportError: If one is missing, with what to install.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(f"ttt-hf {verb} needs the package {error.name}: pip install 'ttt-hf[{extra}]'.") from None


def serve_model(args: argparse.Namespace, limits: Any, rules: Any, has_page: bool = False, **settings: Any) -> None:
    """Serves a model until it is interrupted; what runs then is finished.

    Args:
        args: Model, how it is loaded, and the address to listen at.
        limits: `Limits` of the engine.
        rules: `Rules` of the server.
        has_page: Whether there is a page to talk to the model.
        **settings: Of the `Service`.

    Raises:
        OSError: If the port cannot be used, or there is no such model.
        ValueError: If the model cannot be served.
    """
    from ..serving.api.app import create_app
    from ..serving.api.prometheus_metrics import Metrics
    from ..serving.api.server import listen, make_server
    from ..serving.api.service import Service

    # Before the model is loaded, as the port may be taken.
    with listen(args.host, args.port) as listener:
        metrics = Metrics()
        engine = _start_engine(args, limits, metrics)
        if has_page and not engine.sampling_rate:
            engine.close()
            raise ValueError("This model has no codec, so that it cannot be talked to: name its codec with --codec.")
        name = getattr(args, "name", None) or _model_name(args.model)
        server = make_server(create_app(Service(engine, name, metrics, **settings), rules, has_page))
        address = _address(listener)
        note(f"talk to {name} at {address}" if has_page else f"{name} answers at {address}/v1")
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            # The server has finished what ran, which is how it is meant to end.
            if not server.should_exit:
                raise


def _serve_replicas(args: argparse.Namespace, rules: Any) -> None:
    """Serves by Ray until SIGINT or SIGTERM; what runs then is finished."""
    _prepare_ray()
    with needed_packages("serve --replicas", "ray"):
        from ..serving.ray_app import ReplicaSettings, Scale, replicas
    from ..loading import base_folder, find_checkpoint, find_codec
    from ..serving.api.server import listen

    try:
        least, most = args.replicas
        scale = Scale(least, most, args.replica_cpus)
    except ValueError as error:
        raise UsageError(str(error)) from None
    name, limits = args.name or _model_name(args.model), _limits(args)
    # What a user can get wrong is said here, before anything is started.
    folder = find_checkpoint(args.model)
    find_codec(base_folder(folder), args.codec)
    with listen(args.host, args.port) as listener:
        address, port = _address(listener), listener.getsockname()[1]
    model, codec = _whole_path(args.model), _whole_path(args.codec) if args.codec else None
    settings = ReplicaSettings(model, name, codec, loading_settings(args), limits, rules, _access(args.allow_urls))
    with replicas(settings, scale, args.host, port, is_verbose()):
        note(f"{name} answers at {address}/v1")
        _wait_for_signal()


def _whole_path(name: str) -> str:
    """A folder by its whole path, since replicas may start in another one; other names as they are."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name


def _prepare_ray() -> None:
    """Sets what Ray reads when it is imported, here and in the processes that it starts."""
    # It would report to its makers what is used of it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not os.environ.get("RAY_ADDRESS"):
        # Its own ports can be reached from other machines, and whoever has its token may run programs here.
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


def _wait_for_signal() -> None:
    """Waits until the process is asked to end; if it is asked again, it is interrupted."""
    ended = threading.Event()
    before = {number: signal.signal(number, lambda *_: ended.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ended.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _counts(text: str) -> tuple[int, int]:
    """`2` or `1-8` as the least and the most replicas."""
    least, _, most = text.partition("-")
    try:
        return int(least), int(most or least)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of replicas: write 2, or 1-8") from None


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _limits(args: argparse.Namespace) -> Any:
    from ..serving import Limits

    try:
        return Limits(
            slots=args.slots,
            queue=args.queue,
            wait_seconds=args.wait,
            new_tokens=args.max_new_tokens,
            audio_seconds=args.max_audio_seconds,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None


def _access(urls: bool) -> Any:
    from ..processing.fetching import CONTENT, STRANGER

    return STRANGER if urls else CONTENT


def _model_name(model: str) -> str:
    folder = Path(model).expanduser()
    return folder.resolve().name if folder.is_dir() else model


def _start_engine(args: argparse.Namespace, limits: Any, monitor: Any) -> Engine:
    from ..serving import Engine
    from ..serving.api.service import warm_up
    from ..serving.threads import in_own_thread
    from .quiet import silence

    with silence():
        # The engine's thread alone is to keep a team of OpenMP's.
        engine = Engine(*in_own_thread(load_model, args, args.model), limits, monitor)
        asyncio.run(warm_up(engine))
    return engine
