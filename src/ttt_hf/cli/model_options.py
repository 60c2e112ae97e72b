"""Options of verbs that load a model: its codec, its data type, where its weights lie."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..loading import DTYPES


if TYPE_CHECKING:
    from ..modeling.modeling_ttt import TtTForConditionalGeneration
    from ..processing.processing_ttt import TtTProcessor


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument(
        "--codec", metavar="ID", help="folder, Hub id or short name of a codec to use instead of the model's own"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, help="data type of the weights (default: float32 on a CPU, as stored on a GPU)"
    )
    parser.add_argument(
        "--bits",
        type=int,
        choices=(8, 4),
        help="quantise the weights: quicker on a CPU (8), smaller on a GPU (8 or 4, with bitsandbytes)",
    )
    parser.add_argument(
        "--spread",
        action="store_true",
        help="spread a model that is too large for one GPU over all, and over the CPU's memory",
    )


def load_model(args: argparse.Namespace, name: str | None) -> tuple[TtTForConditionalGeneration, TtTProcessor]:
    """Finds the model by its name and loads it as the options say, without messages of libraries.

    Raises:
        ImportError, OSError, ValueError: As of `loading.load_model_and_processor`.
    """
    from ..loading import base_folder, find_checkpoint, find_codec
    from .quiet import load_quietly, silence

    with silence():
        # Everything that can fail without torch comes first.
        folder = find_checkpoint(name)
        return load_quietly(folder, codec=find_codec(base_folder(folder), args.codec), **loading_settings(args))


def loading_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `loading.load_checkpoint`, besides the codec."""
    return {"dtype": args.dtype, "bits": args.bits, "device_map": "auto" if args.spread else None}
