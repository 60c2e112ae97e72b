"""`ttt-hf demo`: a page in the browser to talk to a model, and to watch its replies being made."""

from __future__ import annotations

import argparse
from typing import Any

from ..names import EMBEDDED_ALIAS
from .model_options import add_model_options
from .serve import needed_packages, serve_model


DEFAULT_PORT = 7860
EXAMPLES = """examples:
  ttt-hf demo
  ttt-hf demo my-model --port 8080

The page is for this machine alone, and fetches nothing from elsewhere. To use a model of another machine:
  ssh -L 7860:localhost:7860 that-machine ttt-hf demo
"""


def add_parser(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = verbs.add_parser(
        "demo",
        help="talk to a model in the browser",
        description="Serves a page to talk to a model and to watch its replies being made, block by block.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", default=EMBEDDED_ALIAS, help="folder or Hub id (default: %(default)s)"
    )
    add_model_options(parser)
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, metavar="N", help="port, 0 for a free one (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Serves the page until it is interrupted."""
    with needed_packages("demo"):
        from ..serving import Limits
        from ..serving.api.guard import Rules
    serve_model(args, "127.0.0.1", Limits(), Rules(), has_page=True)
