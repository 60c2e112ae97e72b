"""Converts official TtT checkpoints into this package's own format.

They load without conversion, too. A converted folder is self-contained: it has the codec, the token ids, the decoding
defaults, and the code for users without this package.
"""

from __future__ import annotations

from pathlib import Path

from ..loading import find_checkpoint, find_codec, find_folder, load_checkpoint, read_json
from ..modeling import TtTConfig
from ..modeling.official_ttt import OFFICIAL_MASK_KEY
from .folders import Converted, check_new_folder, codec_reference, save


def convert_official(source: str, out: Path, codec: str | None = None) -> Converted:
    """Converts an official checkpoint; its weights stay bit-identical.

    Args:
        source: Folder or Hub id of the checkpoint: Qwen2 with `mask_token` and `audio_token_id_start` in its
            config.json (https://github.com/ai4ed/TtT), safetensors, and a tokenizer with the audio tokens.
        out: The new folder.
        codec: Folder of the codec, which is copied into `out`, or its Hub id or short name, which is stored as a
            reference.

    Returns:
        A summary.

    Raises:
        OSError: If something is missing, `out` is not empty, or cannot be written.
        ValueError: If the checkpoint is of another kind, or its parts or the codec do not fit together.
    """
    check_new_folder(out)
    folder = find_folder(source)
    config = read_json(folder, "config.json")
    if config.get("model_type") == TtTConfig.model_type:
        raise ValueError(f"{source} is in this package's own format already: use it as it is.")
    if config.get("model_type") != "qwen2" or OFFICIAL_MASK_KEY not in config:
        raise ValueError(
            f"{source} is not an official TtT checkpoint: its config.json describes a "
            f"'{config.get('model_type', 'different')}' model, not Qwen2 with {OFFICIAL_MASK_KEY}. A text model "
            "becomes a TtT by `ttt-hf convert from-text`."
        )
    # Raises if a file is missing or cut short.
    find_checkpoint(str(folder))
    # On the CPU in the stored data type, so that the weights stay bit-identical.
    model, processor = load_checkpoint(folder, find_codec(folder, codec), device="cpu", dtype="auto")
    processor.codec_reference = codec_reference(codec)
    return save(model, processor, out)
