"""Replicas of a model behind one address, by Ray Serve: on this machine, or on those of a Ray cluster."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import serve

from ..loading import base_folder, find_checkpoint, find_codec, load_checkpoint
from ..processing.fetching import CONTENT, Access
from .api.app import create_app
from .api.guard import Rules
from .api.prometheus_metrics import Metrics
from .api.server import GRACE_SECONDS, KEEP_SECONDS
from .api.service import Service, warm_up
from .engine import Engine
from .limits import Limits
from .threads import in_own_thread


APPLICATION = "ttt-hf"
ADDRESS_VARIABLE = "RAY_ADDRESS"
# The engine itself refuses what it cannot take, in OpenAI's form; Ray would keep requests waiting without a limit.
MAX_ONGOING = 10_000
# Requests with the same header `x-session-id` go to the same replica, as long as there are the same replicas.
ROUTER = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"


@dataclass(frozen=True)
class ReplicaSettings:
    """What each replica loads and serves.

    Attributes:
        model: Folder, Hub id or short name, found on each machine by itself.
        name: Name of the model in requests.
        codec: Folder, Hub id or short name of a codec to use instead of the model's own.
        loading: Further arguments of `load_checkpoint`.
        limits: Limits of the engine of one replica.
        rules: Who may ask, and how much.
        access: What audio in requests may name.
    """

    model: str
    name: str
    codec: str | None = None
    loading: dict[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    rules: Rules = field(default_factory=Rules)
    access: Access = CONTENT


@dataclass(frozen=True)
class Scale:
    """How many replicas there are, and what each of them takes.

    Args:
        least: Replicas that always run.
        most: Replicas under load.
        cpus: Cores, and threads, of a replica; it has one GPU, too, if the machines have any.

    Raises:
        ValueError: If there cannot be so many.
    """

    least: int = 1
    most: int = 1
    cpus: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise ValueError(f"There cannot be {self.least} to {self.most} replicas: write 2, or 1-8.")
        if self.cpus < 1:
            raise ValueError(f"A replica needs at least 1 core, not {self.cpus}.")


class Replica:
    """The API server in a process of its own, without its socket."""

    async def __init__(self, settings: ReplicaSettings) -> None:  # type: ignore[misc]  # Ray waits for it
        metrics = Metrics()
        model, processor = await asyncio.to_thread(in_own_thread, _load, settings)
        self._engine = Engine(model, processor, settings.limits, metrics)
        await warm_up(self._engine)
        self._app = create_app(Service(self._engine, settings.name, metrics, settings.access), settings.rules)

    def __serve_build_asgi_app__(self) -> Any:
        """Called by Ray for the application that it sends requests to."""
        return self._app

    def check_health(self) -> None:
        """Called by Ray now and then: a replica that raises is replaced."""
        if not self._engine.is_open:
            raise RuntimeError("The engine is closed.")


def _load(settings: ReplicaSettings) -> Any:
    folder = find_checkpoint(settings.model)
    return load_checkpoint(folder, codec=find_codec(base_folder(folder), settings.codec), **settings.loading)


@contextmanager
def replicas(settings: ReplicaSettings, scale: Scale, host: str, port: int, verbose: bool = False) -> Iterator[None]:
    """Serves a model by replicas within the block; what runs at its end is finished.

    They run in the Ray cluster that `RAY_ADDRESS` names, each machine of which listens at the address, or else in one
    that is started on this machine.

    Args:
        settings: What a replica serves.
        scale: How many there are.
        host: Address to listen at.
        port: Port to listen at.
        verbose: Whether the logs of all processes are shown.

    Raises:
        OSError: If the cluster cannot be reached or is too small, serves already, or the replicas do not start.
    """
    _connect(verbose)
    try:
        options = _options(settings.limits, scale)
        http = {"host": host, "port": port, "keep_alive_timeout_s": KEEP_SECONDS}
        serve.start(proxy_location="EveryNode", http_options=http)
        try:
            _deploy(serve.deployment(**options)(serve.ingress()(Replica)).bind(settings))
            yield
            # Before the rest, so that those who wait for an answer get it.
            serve.delete(APPLICATION)
        finally:
            # A cluster that was started here ends as a whole.
            if os.environ.get(ADDRESS_VARIABLE):
                serve.shutdown()
    finally:
        ray.shutdown()


def _connect(verbose: bool) -> None:
    address = os.environ.get(ADDRESS_VARIABLE)
    try:
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise OSError(
            f"There is no Ray cluster at {address or 'this machine'}: {str(error).splitlines()[0]}"
        ) from None
    if not verbose:
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if serve.status().proxies:
        ray.shutdown()
        # Its address is not ours to choose, nor who can reach it.
        raise OSError(f"The Ray cluster at {address} serves already: end that with `serve shutdown`, or use another.")


def _deploy(application: Any) -> None:
    try:
        serve.run(application, name=APPLICATION)
    except RuntimeError as error:
        # A traceback of the last replica, which ends with its error.
        reason = str(error).strip().splitlines()[-1]
        raise OSError(f"The replicas do not start: {reason} (ttt-hf --verbose shows their logs)") from None


def _options(limits: Limits, scale: Scale) -> dict[str, Any]:
    """Options of the deployment, for the machines that there are."""
    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    if scale.least * scale.cpus > cpus:
        raise OSError(f"{scale.least} replicas of {scale.cpus} cores are too many for {cpus} cores: ask for fewer.")
    if 0 < gpus < scale.least:
        raise OSError(f"{scale.least} replicas need a GPU each, and there are {gpus}: ask for fewer.")
    return {
        "max_ongoing_requests": MAX_ONGOING,
        "graceful_shutdown_timeout_s": GRACE_SECONDS,
        "ray_actor_options": {"num_cpus": scale.cpus, "num_gpus": 1 if gpus else 0},
        "request_router_config": {"request_router_class": ROUTER},
        **_count(scale, limits),
    }


def _count(scale: Scale, limits: Limits) -> dict[str, Any]:
    if scale.least == scale.most:
        return {"num_replicas": scale.least}
    # More replicas when each has more than it decodes together.
    settings = {"min_replicas": scale.least, "max_replicas": scale.most, "target_ongoing_requests": limits.slots}
    return {"num_replicas": None, "autoscaling_config": settings}
