"""Audio codecs, waveform to codes and back; importing registers them with the Auto classes of transformers."""

from __future__ import annotations

from os import PathLike
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForAudioTokenization, PreTrainedConfig
from transformers.modeling_utils import PreTrainedAudioTokenizerBase

from .configuration_glm4voice import Glm4VoiceCodecConfig, Glm4VoiceDecoderConfig, Glm4VoiceTokenizerConfig
from .configuration_ttt_tiny_codec import TtTTinyCodecConfig
from .modeling_glm4voice import Glm4VoiceCodec, Glm4VoiceCodecOutput
from .modeling_glm4voice_decoder import Glm4VoiceDecoder, Glm4VoiceStream, Glm4VoiceVoice
from .modeling_glm4voice_tokenizer import Glm4VoiceTokenizer, Glm4VoiceTokenizerOutput
from .modeling_ttt_tiny_codec import TtTTinyCodec, TtTTinyCodecOutput, TtTTinyCodecStream


__all__ = [
    "Glm4VoiceCodec",
    "Glm4VoiceCodecConfig",
    "Glm4VoiceCodecOutput",
    "Glm4VoiceDecoder",
    "Glm4VoiceDecoderConfig",
    "Glm4VoiceStream",
    "Glm4VoiceTokenizer",
    "Glm4VoiceTokenizerConfig",
    "Glm4VoiceTokenizerOutput",
    "Glm4VoiceVoice",
    "TtTTinyCodec",
    "TtTTinyCodecConfig",
    "TtTTinyCodecOutput",
    "TtTTinyCodecStream",
    "load_codec",
    "output_sampling_rate",
]

for _config_class, _codec_class in ((TtTTinyCodecConfig, TtTTinyCodec), (Glm4VoiceCodecConfig, Glm4VoiceCodec)):
    AutoConfig.register(_config_class.model_type, _config_class)
    AutoModelForAudioTokenization.register(_config_class, _codec_class)
for _config_class, _part_class in (
    (Glm4VoiceTokenizerConfig, Glm4VoiceTokenizer),
    (Glm4VoiceDecoderConfig, Glm4VoiceDecoder),
):
    AutoConfig.register(_config_class.model_type, _config_class)
    AutoModel.register(_config_class, _part_class)


def load_codec(path: str | PathLike[str], **kwargs: Any) -> PreTrainedAudioTokenizerBase:
    """Loads any codec that transformers or this package knows, ready for inference.

    Args:
        path: folder or Hub id of the codec.
        kwargs: passed on to `from_pretrained` (`dtype`, `device_map`, `subfolder`, ...).

    Returns:
        The codec in evaluation mode; its `config` has `sampling_rate` and `codebook_size`.

    Raises:
        ValueError: if the weights do not fit the configuration.
    """
    try:
        codec: PreTrainedAudioTokenizerBase = AutoModelForAudioTokenization.from_pretrained(path, **kwargs)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        # transformers raises it for weights of a wrong shape, with a table of all of them.
        raise ValueError(f"The weights of the codec {path} do not fit its config.json: fetch it again.") from error
    return codec.eval()


def output_sampling_rate(config: PreTrainedConfig) -> int:
    """Samples a second of what a codec decodes.

    Args:
        config: that of the codec.

    Returns:
        Its `output_sampling_rate`; codecs without one speak at the `sampling_rate` at which they listen.
    """
    return int(getattr(config, "output_sampling_rate", config.sampling_rate))
