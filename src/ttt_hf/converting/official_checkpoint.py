"""Official TtT checkpoints in this package's own format.

They load unchanged, too; what a conversion adds is a folder that holds everything: the codec next to the model, ids
and decoding defaults written down, the code for those who load it without this package.
"""

from __future__ import annotations

from pathlib import Path

from ..loading import find_checkpoint, find_codec, find_folder, load_checkpoint, read_json
from ..modeling import TtTConfig
from ..modeling.official_ttt import OFFICIAL_MASK_KEY
from ..processing import TtTProcessor
from .folders import Converted, check_new_folder, codec_reference, save


def convert_official(source: str, out: Path, codec: str | None = None) -> Converted:
    """Writes an official checkpoint as a folder of this package. Weights stay as they are, bit for bit.

    Args:
        source: Folder or Hub id of the checkpoint: Qwen2 with `mask_token` and `audio_token_id_start` in its
            config.json (https://github.com/ai4ed/TtT), safetensors, and a tokenizer with the audio tokens.
        out: The new folder.
        codec: Folder of the codec, which is copied into `out`, or its Hub id or short name, which `out` then refers
            to.

    Returns:
        What was made.

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
    find_checkpoint(str(folder))
    # From cheap to dear: tokens by their names, ids against the vocabulary, the codec, and then the weights.
    TtTProcessor.from_pretrained(folder)
    TtTConfig.from_pretrained(folder)
    model, processor = load_checkpoint(folder, find_codec(folder, codec), device="cpu", dtype="auto")
    processor.codec_reference = codec_reference(codec)
    return save(model, processor, out)
