"""`ttt-hf info`: describes a checkpoint from its files, without loading its weights."""

from __future__ import annotations

import argparse
import json
import math
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__


DEPENDENCIES = ("torch", "transformers")
EXAMPLES = """examples:
  ttt-hf info
  ttt-hf info path/to/checkpoint --json
"""


def add_parser(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = verbs.add_parser(
        "info",
        help="describe a checkpoint",
        description="Describes a TtT checkpoint: its architecture, size, audio tokens, codec and generation defaults.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="folder or Hub id (default: the embedded checkpoint)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Describes a checkpoint."""
    from ..loading import base_folder, find_checkpoint
    from .quiet import silence

    with silence():
        # An adapter is described by its base, as it has no architecture of its own.
        folder = find_checkpoint(args.model)
        base = base_folder(folder)
        description = describe(base)
    if base != folder:
        description = {"adapter": str(folder), **description}
    if args.json:
        print(json.dumps(description, ensure_ascii=False))
        return
    for name, value in description.items():
        print(f"{name.replace('_', ' '):<14}{_in_words(name, value)}")


def describe(folder: Path) -> dict[str, Any]:
    """Describes a checkpoint.

    Args:
        folder: Folder of a model, as `loading.base_folder` returns it.

    Returns:
        JSON values by name; `codec` and `card` are `None` if there is none.
    """
    parameters, dtypes = _count_parameters(folder)
    card = folder / "README.md"
    return {
        "model": str(folder),
        "architecture": "TtTForConditionalGeneration",
        "parameters": parameters,
        "dtype": "+".join(dtypes),
        **_describe_model(folder),
        "codec": _describe_codec(folder),
        "generation": _generation_defaults(folder),
        # The codec in its sub-folder included.
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        "card": str(card) if card.is_file() else None,
        "versions": {
            "ttt-hf": __version__,
            **{name: metadata.version(name) for name in DEPENDENCIES},
            "python": platform.python_version(),
        },
    }


def _describe_model(folder: Path) -> dict[str, Any]:
    from ..loading import clear_errors
    from ..modeling.configuration_ttt import TtTConfig

    with clear_errors(folder / "config.json", TtTConfig.from_dict):
        config = TtTConfig.from_pretrained(folder, trust_remote_code=False)
        text = config.get_text_config()
        return {
            "backbone": {
                "type": text.model_type,
                "layers": text.num_hidden_layers,
                "hidden_size": text.hidden_size,
                "max_positions": text.max_position_embeddings,
            },
            "vocabulary": text.vocab_size,
            "audio_tokens": {
                "start": config.audio_token_start_id,
                "codes": config.audio_vocab_size,
                "mask": config.mask_token_id,
                "begin": config.begin_audio_token_ids,
                "end": config.end_audio_token_ids,
            },
            "attention": {"audio": config.audio_attention, "block_length": config.audio_block_length},
        }


def _count_parameters(folder: Path) -> tuple[int, list[str]]:
    from safetensors import safe_open

    from ..loading import weight_files

    count, dtypes = 0, set()
    for path in weight_files(folder):
        # From the header alone. Tied weights are stored, and so counted, once.
        with safe_open(path, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118, it is no mapping
                part = tensors.get_slice(name)
                count += math.prod(part.get_shape())
                dtypes.add(part.get_dtype())
    return count, sorted(dtypes)


def _describe_codec(folder: Path) -> dict[str, Any] | None:
    from ..codecs import load_codec_config, output_sampling_rate
    from ..loading import clear_errors, find_codec

    codec = find_codec(folder)
    if codec is None:
        return None
    with clear_errors(codec / "config.json"):
        config = load_codec_config(codec)
        return {
            "name": config.model_type,
            "sampling_rate": config.sampling_rate,
            "output_sampling_rate": output_sampling_rate(config),
            "frame_rate": config.frame_rate,
            "codes": config.codebook_size,
            "parameters": _count_parameters(codec)[0],
        }


def _generation_defaults(folder: Path) -> dict[str, Any]:
    from ..loading import read_json

    # Optional, unlike the files that read_json requires: without it, the defaults of transformers apply.
    if not (folder / "generation_config.json").is_file():
        return {}
    defaults = read_json(folder, "generation_config.json")
    # Underscored keys and the version are transformers' own bookkeeping.
    return {name: value for name, value in defaults.items() if name != "transformers_version" and name[:1] != "_"}


def _in_words(name: str, value: Any) -> str:
    if name == "bytes":
        return f"{value:,} ({value / 1e6:.1f} MB)"
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_in_words(key, part)}" for key, part in value.items()) or "none"
    if value is None:
        return "none"
    # Only amounts get separators, not ids such as that of the mask token.
    return f"{value:,}" if name in ("parameters", "vocabulary", "codes") else str(value)
