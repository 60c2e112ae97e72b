"""`ttt-hf convert official`: released TtT weights."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from ..converting.folders import Converted

EXAMPLE = "  ttt-hf convert official Stephen-Lee/TtT-3B ttt-3b --codec glm-4-voice\n"
CODEC_HELP = "folder of a codec, which is copied, or its Hub id or short name, which is stored as a reference"


def add_parser(kinds: Any) -> None:
    """Adds the kind to the verb."""
    parser = kinds.add_parser(
        "official",
        help="an official TtT checkpoint (Qwen2 with audio tokens)",
        description="Converts an official TtT checkpoint into a folder of this package, with its codec.",
        epilog="example:\n" + EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SRC", help="folder or Hub id of the checkpoint")
    parser.add_argument("out", metavar="DST", type=Path, help="the new folder")
    parser.add_argument("--codec", metavar="ID", help=CODEC_HELP)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Converts a checkpoint.

    Raises:
        OSError, ValueError: If the checkpoint, the codec or the output cannot be used.
    """
    from .quiet import silence, silence_transformers

    with silence():
        # Imported within the block, as some libraries warn when they are imported.
        from ..converting.official_checkpoint import convert_official

        silence_transformers()
        report(convert_official(args.source, args.out, args.codec), args.json)


def report(made: Converted, as_json: bool) -> None:
    """Prints the summary of a conversion."""
    if as_json:
        print(json.dumps(dataclasses.asdict(made), ensure_ascii=False))
        return
    codec = f"codec {made.codec}" if made.codec else "no codec: name one with --codec when you talk to it"
    print(f"{made.out}: {made.parameters:,} parameters, {made.dtype}, {made.codes:,} audio codes; {codec}")
