"""Grows a TtT from a decoder-only text model: adds audio tokens, processor and codec, keeps its text behaviour."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from ..loading import check_weights, clear_errors, find_folder, load_named_codec, read_json
from ..modeling import TtTConfig, TtTForConditionalGeneration
from ..modeling.growing_ttt import TURN_END_TOKEN, TURN_START_TOKEN
from ..modeling.official_ttt import OFFICIAL_MASK_KEY
from ..processing import TtTProcessor
from .folders import Converted, check_new_folder, codec_reference, save


GGUF_SUFFIX = ".gguf"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def convert_text_model(base: str, out: Path, codec: str, seed: int = 0, **config_kwargs: Any) -> Converted:
    """Grows a TtT from a text model and saves it. It answers in text as before; speech has to be trained.

    Args:
        base: Folder or Hub id of a decoder-only text model, or a GGUF file, whose weights are dequantised.
        out: The new folder.
        codec: Folder of the codec, which is copied into `out`, or its Hub id or short name, which is stored as a
            reference. The model gets one audio token per code of its codebook.
        seed: Seed of the new tokens' embeddings.
        **config_kwargs: Further fields of `TtTConfig`, e.g. `audio_attention`.

    Returns:
        A summary.

    Raises:
        ImportError: If `base` is a GGUF file and the package gguf is not installed.
        OSError: If something is missing, `out` is not empty, or cannot be written.
        ValueError: If the model is not a decoder-only text model, or a TtT already.
    """
    check_new_folder(out)
    folder, gguf_file = _find_text_model(base)
    # The codec first, so that a wrong name fails before the text model is loaded.
    speech = load_named_codec(codec)
    # All files are here by now: transformers need not ask the Hub for newer ones.
    location = {"local_files_only": True, **({"gguf_file": gguf_file} if gguf_file else {})}
    with clear_errors(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **location)
        text_model = _load_text_model(folder, **location)
    model = TtTForConditionalGeneration.from_text_model(
        text_model,
        codec=speech,
        tokenizer=tokenizer,
        seed=seed,
        text_tokens=(TURN_START_TOKEN, TURN_END_TOKEN),
        **config_kwargs,
    )
    # Only now: from_text_model has added the end of a turn to the tokenizer, which gives it an id.
    model.generation_config = _generation_config(text_model, tokenizer, model.config)
    # The new model is a copy: the old one would only take memory while it is saved.
    del text_model
    # Batches need padding, and some text models name no token for it.
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or TURN_END_TOKEN
    processor = TtTProcessor(tokenizer, speech)
    processor.codec_reference = codec_reference(codec)
    return save(model, processor, out)


def _find_text_model(base: str) -> tuple[Path, str | None]:
    """Finds the folder of a text model, and the name of the GGUF file in it if `base` is one; checks file headers."""
    path = Path(base).expanduser()
    if path.suffix == GGUF_SUFFIX:
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {base}: name a GGUF file, the folder of a model, or a Hub id.")
        if find_spec("gguf") is None:
            raise ImportError("GGUF files need the package gguf: pip install gguf.")
        return path.parent, path.name
    folder = find_folder(base)
    config = read_json(folder, "config.json")
    if config.get("model_type") == TtTConfig.model_type or OFFICIAL_MASK_KEY in config:
        raise ValueError(f"{base} is a TtT model already: talk to it, or train it, as it is.")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise FileNotFoundError(f"{folder} has no tokenizer ({TOKENIZER_FILES[0]}): fetch the model again.")
    check_weights(folder)
    return folder, None


def _load_text_model(folder: Path, **location: Any) -> PreTrainedModel:
    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype="auto", trust_remote_code=False, **location)
    except ValueError as error:
        # transformers lists every class it knows.
        raise ValueError(
            f"{folder} is no decoder-only text model that transformers can load: {str(error).split('.')[0][:200]}."
        ) from error


def _generation_config(text_model: Any, tokenizer: Any, config: TtTConfig) -> GenerationConfig:
    """The text model's generation config, in which the end of a turn also ends generation.

    A new object: one derived from a model's own would lose the audio keys when it is saved.
    """
    own = text_model.generation_config.to_diff_dict()
    # Underscored keys and the version are transformers' own bookkeeping.
    keys = {name: value for name, value in own.items() if not name.startswith("_") and name != "transformers_version"}
    previous = keys.pop("eos_token_id", None)
    # The field may hold one id, several, or none.
    previous = previous if isinstance(previous, list) else [previous]
    ends = [tokenizer.convert_tokens_to_ids(TURN_END_TOKEN), *previous]
    keys["eos_token_id"] = list(dict.fromkeys(token_id for token_id in ends if token_id is not None))
    return GenerationConfig(**keys, audio_block_length=config.audio_block_length)
