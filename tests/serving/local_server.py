"""A server in a thread, for clients at a real socket."""

import threading
import time
from typing import Any

import openai

from ttt_hf.serving import Engine, Limits
from ttt_hf.serving.api.app import create_app
from ttt_hf.serving.api.guard import Rules
from ttt_hf.serving.api.prometheus_metrics import Metrics
from ttt_hf.serving.api.server import listen, make_server
from ttt_hf.serving.api.service import Service


class LocalServer:
    """Serves a model until the block ends.

    Args:
        loaded: Model and processor.
        rules: Rules of the server.
        has_page: Whether it has the page.
        **limits: Limits of the engine.
    """

    def __init__(
        self, loaded: tuple[Any, Any], rules: Rules | None = None, has_page: bool = False, **limits: Any
    ) -> None:
        metrics = Metrics()
        self.engine = Engine(*loaded, Limits(**limits), metrics)
        service = Service(self.engine, "embedded", metrics)
        self.server = make_server(create_app(service, rules or Rules(), has_page))
        self.listener = listen("127.0.0.1", 0)
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})

    def client(self, key: str = "none", **settings: Any) -> openai.OpenAI:
        """OpenAI's client; it does not repeat requests that fail."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60, **settings)

    def __enter__(self) -> "LocalServer":
        self._thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self._thread.join(timeout=60)
        self.listener.close()
