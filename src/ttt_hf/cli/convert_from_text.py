"""`ttt-hf convert from-text`: a TtT grown from a text model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .convert_official import CODEC_HELP, report
from .errors import UsageError


EXAMPLE = "  ttt-hf convert from-text Qwen/Qwen2.5-0.5B-Instruct grown --codec ttt-tiny\n"


def add_parser(kinds: Any) -> None:
    """Adds the kind to the verb."""
    parser = kinds.add_parser(
        "from-text",
        help="a text model, extended by audio tokens and a codec",
        description="Grows a TtT from a decoder-only text model. Its text behaviour is unchanged; speech has to be "
        "trained (`ttt-hf train`).",
        epilog="examples:\n"
        + EXAMPLE
        + "  ttt-hf convert from-text SmolLM2-135M-Instruct.Q4_1.gguf grown --codec mimi\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("base", metavar="BASE", help="folder or Hub id of a text model, or a GGUF file")
    parser.add_argument("out", metavar="DST", type=Path, help="the new folder")
    parser.add_argument("--codec", metavar="ID", required=True, help=CODEC_HELP)
    parser.add_argument(
        "--attention", choices=("span", "block_causal"), default="span", help="attention within a span (default: span)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the new tokens' rows (default: 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Grows a model.

    Raises:
        UsageError: If the seed is negative.
        ImportError, OSError, ValueError: If the model, the codec or the output cannot be used.
    """
    # Before the imports below, which take seconds.
    if args.seed < 0:
        raise UsageError(f"--seed must not be negative, not {args.seed}.")
    from .quiet import silence, silence_transformers

    with silence():
        from ..converting.text_model import convert_text_model

        silence_transformers()
        made = convert_text_model(args.base, args.out, args.codec, args.seed, audio_attention=args.attention)
        report(made, args.json)
