"""`ttt-hf convert`: models and codecs of other projects as folders of this one."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UsageError


if TYPE_CHECKING:
    from ..converting.folders import Converted

OFFICIAL_EXAMPLE = "  ttt-hf convert official Stephen-Lee/TtT-3B ttt-3b --codec glm-4-voice\n"
GLM4VOICE_EXAMPLE = "  ttt-hf convert glm4voice glm-4-voice-tokenizer glm-4-voice-decoder glm-4-voice\n"
FROM_TEXT_EXAMPLE = "  ttt-hf convert from-text Qwen/Qwen2.5-0.5B-Instruct grown --codec ttt-tiny\n"
GGUF_EXAMPLE = "  ttt-hf convert from-text SmolLM2-135M-Instruct.Q4_1.gguf grown-smollm2 --codec mimi\n"
GLM4VOICE_LICENCE = (
    'The weights have a licence of their own: commercial use needs a registration and the notice "Built with glm-4".'
)
CODEC_HELP = "folder of a codec, which is copied, or its Hub id or short name, which is stored as a reference"


def add_parser(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = verbs.add_parser(
        "convert",
        help="convert a model of another project",
        description="Converts a model of another project into a folder that every verb loads.",
        epilog="examples:\n" + OFFICIAL_EXAMPLE + GLM4VOICE_EXAMPLE + FROM_TEXT_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    _add_official(kinds)
    _add_glm4voice(kinds)
    _add_from_text(kinds)


def _add_official(kinds: Any) -> None:
    parser = kinds.add_parser(
        "official",
        help="an official TtT checkpoint (Qwen2 with audio tokens)",
        description="Converts an official TtT checkpoint into a folder of this package, with its codec.",
        epilog="example:\n" + OFFICIAL_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SRC", help="folder or Hub id of the checkpoint")
    parser.add_argument("out", metavar="DST", type=Path, help="the new folder")
    parser.add_argument("--codec", metavar="ID", help=CODEC_HELP)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=official)


def _add_glm4voice(kinds: Any) -> None:
    parser = kinds.add_parser(
        "glm4voice",
        help="the codec of GLM-4-Voice, from its tokenizer and its decoder",
        description="Converts the published tokenizer and decoder of GLM-4-Voice into a codec for from_pretrained.",
        epilog=f"example:\n{GLM4VOICE_EXAMPLE}\n{GLM4VOICE_LICENCE}",
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
    parser.set_defaults(run=glm4voice)


def _add_from_text(kinds: Any) -> None:
    parser = kinds.add_parser(
        "from-text",
        help="a text model, extended by audio tokens and a codec",
        description="Grows a TtT from a decoder-only text model. Its text behaviour is unchanged; speech has to be "
        "trained (`ttt-hf train`).",
        epilog="examples:\n" + FROM_TEXT_EXAMPLE + GGUF_EXAMPLE,
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
    parser.set_defaults(run=from_text)


def official(args: argparse.Namespace) -> None:
    """Converts an official checkpoint."""
    from .quiet import silence, silence_transformers

    with silence():
        # Imported within the block, as some libraries warn when they are imported.
        from ..converting.folders import new_folder
        from ..converting.official_checkpoint import convert_official

        silence_transformers()
        with new_folder(args.out):
            made = convert_official(args.source, args.out, args.codec)
    _report(made, args.json)


def glm4voice(args: argparse.Namespace) -> None:
    """Converts the codec of GLM-4-Voice."""
    from .quiet import silence, silence_transformers

    with silence():
        from ..converting.folders import new_folder
        from ..converting.glm4voice import convert_glm4voice

        silence_transformers()
        with new_folder(args.target):
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


def from_text(args: argparse.Namespace) -> None:
    """Grows a TtT from a text model."""
    # Before the imports below, which take seconds.
    if args.seed < 0:
        raise UsageError(f"--seed must not be negative, not {args.seed}.")
    from .quiet import silence, silence_transformers

    with silence():
        from ..converting.folders import new_folder
        from ..converting.text_model import convert_text_model

        silence_transformers()
        with new_folder(args.out):
            made = convert_text_model(args.base, args.out, args.codec, args.seed, audio_attention=args.attention)
    _report(made, args.json)


def _report(made: Converted, as_json: bool) -> None:
    """Prints the summary of a converted model."""
    if as_json:
        print(json.dumps(dataclasses.asdict(made), ensure_ascii=False))
        return
    codec = f"codec {made.codec}" if made.codec else "no codec: name one with --codec when you talk to it"
    print(f"{made.out}: {made.parameters:,} parameters, {made.dtype}, {made.codes:,} audio codes; {codec}")
