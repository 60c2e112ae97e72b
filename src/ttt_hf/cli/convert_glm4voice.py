"""`ttt-hf convert glm4voice`: converts the published GLM-4-Voice tokenizer and decoder into a codec."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


EXAMPLE = "  ttt-hf convert glm4voice glm-4-voice-tokenizer glm-4-voice-decoder glm-4-voice\n"
LICENCE = (
    'The weights have a licence of their own: commercial use needs a registration and the notice "Built with glm-4".'
)


def add_parser(kinds: Any) -> None:
    """Adds the kind to the verb."""
    parser = kinds.add_parser(
        "glm4voice",
        help="the codec of GLM-4-Voice, from its tokenizer and its decoder",
        description="Converts the published tokenizer and decoder of GLM-4-Voice into a codec for from_pretrained.",
        epilog=f"example:\n{EXAMPLE}\n{LICENCE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "tokenizer", type=Path, metavar="TOKENIZER_DIR", help="folder with config.json and model.safetensors"
    )
    parser.add_argument(
        "decoder", type=Path, metavar="DECODER_DIR", help="folder with config.yaml, flow.pt and hift.pt"
    )
    parser.add_argument("target", type=Path, metavar="DST", help="folder for the codec; must not exist yet")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Converts the codec.

    Raises:
        OSError, ValueError: If a file is missing, damaged, holds code or does not fit its configuration, or the target
            cannot be written.
    """
    from .quiet import silence, silence_transformers

    with silence():
        from ..converting.glm4voice import convert_glm4voice

        silence_transformers()
        config = convert_glm4voice(args.tokenizer, args.decoder, args.target)
    summary = {
        "codec": str(args.target),
        "name": config.model_type,
        "sampling_rate": config.sampling_rate,
        "output_sampling_rate": config.output_sampling_rate,
        "frame_rate": config.frame_rate,
        "codes": config.codebook_size,
        "bytes": sum(path.stat().st_size for path in args.target.iterdir()),
    }
    if args.json:
        print(json.dumps(summary, ensure_ascii=False))
    else:
        print(
            f"{args.target}: {summary['codes']:,} codes at {summary['frame_rate']} Hz, input "
            f"{summary['sampling_rate']:,} Hz, output {summary['output_sampling_rate']:,} Hz"
        )
