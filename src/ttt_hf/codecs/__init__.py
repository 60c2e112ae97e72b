"""Audio codecs, waveform to codes and back; importing registers them with the Auto classes of transformers."""

from __future__ import annotations

from os import PathLike
from typing import Any

from transformers import AutoConfig, AutoModelForAudioTokenization
from transformers.modeling_utils import PreTrainedAudioTokenizerBase

from .configuration_ttt_tiny_codec import TtTTinyCodecConfig
from .modeling_ttt_tiny_codec import TtTTinyCodec, TtTTinyCodecOutput, TtTTinyCodecStream


__all__ = ["TtTTinyCodec", "TtTTinyCodecConfig", "TtTTinyCodecOutput", "TtTTinyCodecStream", "load_codec"]

AutoConfig.register(TtTTinyCodecConfig.model_type, TtTTinyCodecConfig)
AutoModelForAudioTokenization.register(TtTTinyCodecConfig, TtTTinyCodec)


def load_codec(path: str | PathLike[str], **kwargs: Any) -> PreTrainedAudioTokenizerBase:
    """Loads any codec that transformers or this package knows, ready for inference.

    Args:
        path: folder or Hub id of the codec.
        kwargs: passed on to `from_pretrained` (`dtype`, `device_map`, `subfolder`, ...).

    Returns:
        The codec in evaluation mode; its `config` has `sampling_rate` and `codebook_size`.
    """
    codec: PreTrainedAudioTokenizerBase = AutoModelForAudioTokenization.from_pretrained(path, **kwargs)
    return codec.eval()
