"""`ttt-hf demo`: a page in the browser to talk to a model, and to watch its replies being made."""

from __future__ import annotations

import argparse
from typing import Any

from ..names import EMBEDDED_ALIAS
from .model_options import add_model_options
from .quiet import note
from .serve import needed_packages, serve_model


DEFAULT_PORT = 7860
EXAMPLES = """examples:
  ttt-hf demo
  ttt-hf demo my-model --port 8080

The page fetches nothing from elsewhere, and is for this machine alone unless --host says otherwise. To use a model of
another machine:
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
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen at (default: %(default)s); whoever "
        "reaches another one may talk to the model"
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Serves the page until it is interrupted."""
    with needed_packages("demo"):
        from ..serving import Limits
        from ..serving.api.guard import Rules
        from ..serving.api.server import is_loopback
    is_public = not is_loopback(args.host)
    if is_public:
        note(f"whoever reaches {args.host} port {args.port} may talk to the model; microphones need https there")
    serve_model(args, Limits(), Rules(is_public=is_public), has_page=True)
