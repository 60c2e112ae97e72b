"""Models that the tests of serving share."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from local_server import LocalServer

from ttt_hf import embedded_checkpoint
from ttt_hf.loading import load_checkpoint


@pytest.fixture(scope="session")
def embedded() -> tuple[Any, Any]:
    """The embedded model and its processor. Shared: do not change them."""
    return load_checkpoint(Path(embedded_checkpoint()))


@pytest.fixture
def fixed(checkpoint: Path) -> tuple[Any, Any]:
    """A model that always says "Hi", 26 codes and ".", and its processor."""
    return load_checkpoint(checkpoint)


@pytest.fixture(scope="session")
def server(embedded: tuple[Any, Any]) -> Iterator[LocalServer]:
    """A server of the embedded model, at a real socket."""
    with LocalServer(embedded) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: LocalServer) -> openai.OpenAI:
    """OpenAI's own client of it."""
    return server.client()


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """`wait_until(lambda: ...)`: until it is true, at most some seconds."""

    def wait(condition: Callable[[], bool], seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.01)

    return wait
