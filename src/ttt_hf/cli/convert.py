"""`ttt-hf convert`: converts models of other projects into folders of this one; one module per kind."""

from __future__ import annotations

import argparse
from typing import Any

from . import convert_from_text, convert_glm4voice, convert_official


KINDS = (convert_official, convert_glm4voice, convert_from_text)


def add_parser(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = verbs.add_parser(
        "convert",
        help="convert a model of another project",
        description="Converts a model of another project into a folder that every verb loads.",
        epilog="examples:\n" + "".join(kind.EXAMPLE for kind in KINDS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for kind in KINDS:
        kind.add_parser(kinds)
