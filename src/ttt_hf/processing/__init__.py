"""Text and audio to token ids and back: the processor, audio files, tokenizers.

Modules are imported on first use, so that reading audio does not import torch and transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .audio import load_audio, read_audio
    from .conversation import SYSTEM_PROMPTS
    from .processing_ttt import TtTProcessor
    from .replies import Reply
    from .tokenization import AudioTokenIds, audio_token_ids, check_codec, train_tokenizer

__all__ = [
    "SYSTEM_PROMPTS",
    "AudioTokenIds",
    "Reply",
    "TtTProcessor",
    "audio_token_ids",
    "check_codec",
    "load_audio",
    "read_audio",
    "train_tokenizer",
]

_MODULES = {
    "audio": ("load_audio", "read_audio"),
    "conversation": ("SYSTEM_PROMPTS",),
    "processing_ttt": ("TtTProcessor",),
    "replies": ("Reply",),
    "tokenization": ("AudioTokenIds", "audio_token_ids", "check_codec", "train_tokenizer"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
