"""`ttt-hf convert`: files that others published, converted into those of this package."""

from __future__ import annotations

import argparse
from typing import Any

from . import convert_glm4voice


EXAMPLES = """example:
  ttt-hf convert glm4voice glm-4-voice-tokenizer glm-4-voice-decoder codec
"""


def add_parser(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = verbs.add_parser(
        "convert",
        help="convert published files into a checkpoint or codec of this package",
        description="Converts files that others published. The target appears when it is complete.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    convert_glm4voice.add_parser(kinds)
