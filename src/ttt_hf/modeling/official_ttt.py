"""What official TtT checkpoints lack in their configs: marker ids, from the tokenizer, and the paper's decoding."""

import json
import os
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig
from transformers.utils import cached_file

from .growing_ttt import AUDIO_TOKEN, END_TOKENS, MASK_TOKEN, PAD_TOKEN, TEXT_SIDE_TOKENS, TURN_END_TOKEN


# Keys of the official flat config.json (https://github.com/ai4ed/TtT) that text models do not have.
OFFICIAL_START_KEY = "audio_token_id_start"
OFFICIAL_MASK_KEY = "mask_token"
# Files in which tokenizers of different versions of transformers list their added tokens.
TOKEN_FILES = ("added_tokens.json", "tokenizer_config.json", "tokenizer.json")
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")

# Decoding of the paper (arXiv 2509.20072): 200 denoising steps over a span of 640 in blocks of 32, so 10 per block.
# The limit on new tokens is the training length.
PAPER_GENERATION = {
    "do_sample": True,
    "temperature": 1.0,
    "top_k": 10,
    "top_p": 0.95,
    "max_new_tokens": 2048,
    "audio_block_length": 32,
    "audio_steps_per_block": 10,
    "audio_max_span_length": 640,
    "audio_temperature": 0.0,
    "audio_cfg_scale": 0.1,
    "audio_remasking": "low_confidence",
}


def hub_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Picks the keyword arguments of `from_pretrained` that say where a checkpoint's files are."""
    return {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}


def is_official(name_or_path: str | os.PathLike, **kwargs: Any) -> bool:
    """Whether a checkpoint has the official flat config.json; see `added_token_ids` for the arguments."""
    return OFFICIAL_MASK_KEY in PreTrainedConfig.get_config_dict(name_or_path, **hub_arguments(kwargs))[0]


def added_token_ids(name_or_path: str | os.PathLike, **kwargs: Any) -> dict[str, int]:
    """Reads the added tokens of a checkpoint's tokenizer without loading the tokenizer.

    Args:
        name_or_path: Folder or Hub id of the checkpoint, or its config.json.
        **kwargs: Arguments of `from_pretrained`, of which those of the Hub (`revision`, `token`, ...) are used.

    Returns:
        Ids by token; empty if there is no tokenizer.
    """
    # Configs can also be loaded from the file itself; the tokenizer's files lie next to it.
    if os.path.isfile(name_or_path):
        name_or_path = os.path.dirname(os.path.abspath(name_or_path))
    ids: dict[str, int] = {}
    for file in TOKEN_FILES:
        path = cached_file(
            name_or_path,
            file,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            **hub_arguments(kwargs),
        )
        if path is not None:
            with open(path, encoding="utf-8") as content:
                ids |= _tokens_of(file, json.load(content))
    return ids


def _tokens_of(file: str, content: dict[str, Any]) -> dict[str, int]:
    if file == "added_tokens.json":
        return content
    if file == "tokenizer_config.json":
        return {token["content"]: int(index) for index, token in content.get("added_tokens_decoder", {}).items()}
    return {token["content"]: token["id"] for token in content.get("added_tokens", [])}


def official_marker_ids(ids: dict[str, int], config_dict: dict[str, Any]) -> dict[str, list[int]]:
    """The fields of `TtTConfig` that the official format lacks.

    Args:
        ids: Result of `added_token_ids`.
        config_dict: The flat config.json.

    Returns:
        `begin_audio_token_ids` and `end_audio_token_ids`, each if the tokenizer has all of its tokens.

    Raises:
        ValueError: If the tokenizer numbers a token differently than the config.json.
    """
    for key, name in ((OFFICIAL_START_KEY, AUDIO_TOKEN), (OFFICIAL_MASK_KEY, MASK_TOKEN)):
        if key in config_dict and name in ids and config_dict[key] != ids[name]:
            raise ValueError(
                f"Tokenizer and config.json number the audio tokens differently: {name} is {ids[name]} there and "
                f"{config_dict[key]} here; fetch the checkpoint again."
            )
    if MASK_TOKEN not in ids:  # not a tokenizer of TtT
        return {}
    # The third text-side token ends the user's audio and opens no span.
    fields = {"begin_audio_token_ids": TEXT_SIDE_TOKENS[:2], "end_audio_token_ids": END_TOKENS}
    return {field: [ids[name] for name in names] for field, names in fields.items() if ids.keys() >= set(names)}


def paper_generation_config(ids: dict[str, int], previous: GenerationConfig) -> GenerationConfig:
    """Generation config with the decoding of the paper.

    That of an official checkpoint is left over from its text model, which ends its replies with another token.

    Args:
        ids: Result of `added_token_ids`.
        previous: Gives the ids of end of sequence and padding that are not in `ids`.
    """
    # A new object: one derived from the model's own config would lose the audio keys when it is saved.
    eos = ids.get(TURN_END_TOKEN, previous.eos_token_id)
    pad = ids.get(PAD_TOKEN, previous.pad_token_id)
    return GenerationConfig(**PAPER_GENERATION, eos_token_id=eos, pad_token_id=pad)
