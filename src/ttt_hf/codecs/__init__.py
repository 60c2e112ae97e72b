"""Audio codecs, waveform to codes and back; importing this package registers ours with transformers' Auto classes."""

from __future__ import annotations

import importlib
from os import PathLike, fspath
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, AutoModelForAudioTokenization, PreTrainedConfig
from transformers.modeling_utils import PreTrainedAudioTokenizerBase

from .configuration_glm4voice import Glm4VoiceCodecConfig, Glm4VoiceDecoderConfig, Glm4VoiceTokenizerConfig
from .configuration_ttt_tiny_codec import TtTTinyCodecConfig
from .modeling_glm4voice import Glm4VoiceCodec
from .modeling_glm4voice_decoder import Glm4VoiceDecoder, Glm4VoiceStream, Glm4VoiceVoice
from .modeling_glm4voice_tokenizer import Glm4VoiceTokenizer, Glm4VoiceTokenizerOutput
from .modeling_ttt_tiny_codec import TtTTinyCodec
from .rowwise import CodecOutput, CodecStream, RowwiseCodec


__all__ = [
    "CODEC_IDS",
    "CodecOutput",
    "CodecStream",
    "Glm4VoiceCodec",
    "Glm4VoiceCodecConfig",
    "Glm4VoiceDecoder",
    "Glm4VoiceDecoderConfig",
    "Glm4VoiceStream",
    "Glm4VoiceTokenizer",
    "Glm4VoiceTokenizerConfig",
    "Glm4VoiceTokenizerOutput",
    "Glm4VoiceVoice",
    "RowwiseCodec",
    "TtTTinyCodec",
    "TtTTinyCodecConfig",
    "empty_codec",
    "load_codec",
    "load_codec_config",
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

# Codecs of transformers that are wrapped in a class of ours, by the model type of their configuration.
_ADAPTERS = {
    "mimi": ("mimi", "MimiCodec"),
    "neucodec": ("xcodec2", "NeuCodecCodec"),
    "xcodec2": ("xcodec2", "Xcodec2Codec"),
}
# Short names of released codecs.
CODEC_IDS = {"mimi": "kyutai/mimi", "neucodec": "neuphonic/neucodec", "xcodec2": "HKUSTAudio/xcodec2-hf"}


def load_codec(
    path: str | PathLike[str], trust_remote_code: bool = False, **kwargs: Any
) -> PreTrainedAudioTokenizerBase:
    """Loads any codec that transformers or this package knows, ready for inference.

    Args:
        path: Folder or Hub id of the codec, or a short name, a key of `CODEC_IDS`.
        trust_remote_code: Whether code that comes with the codec may run.
        **kwargs: Arguments of `from_pretrained` (`dtype`, `device_map`, `subfolder`, ...).

    Returns:
        The codec in evaluation mode; its `config` has `sampling_rate`, `frame_rate` and `codebook_size`.

    Raises:
        ImportError: If transformers is too old for the codec.
        ValueError: If weights are missing or do not fit the configuration.
    """
    path = CODEC_IDS.get(fspath(path), path)
    adapter = _adapter(path, kwargs)
    try:
        codec: PreTrainedAudioTokenizerBase
        codec, loaded = (adapter or AutoModelForAudioTokenization).from_pretrained(
            path, output_loading_info=True, use_safetensors=True, trust_remote_code=trust_remote_code, **kwargs
        )
    except torch.OutOfMemoryError:
        # A RuntimeError, too, but not one about the weights.
        raise
    except RuntimeError as error:
        # transformers raises it for weights of the wrong shape, with a table of all of them.
        raise ValueError(f"The weights of the codec {path} do not fit its config.json: fetch it again.") from error
    if loaded["missing_keys"]:  # which transformers initialises at random, with a warning
        missing = ", ".join(sorted(loaded["missing_keys"])[:3])
        raise ValueError(f"The weights of the codec {path} are incomplete ({missing} ...): fetch it again.")
    return codec.eval()


def output_sampling_rate(config: PreTrainedConfig) -> int:
    """Rate in Hz of the waveforms that a codec decodes: its `output_sampling_rate`, or else its `sampling_rate`."""
    return int(getattr(config, "output_sampling_rate", config.sampling_rate))


def load_codec_config(path: str | PathLike[str], **kwargs: Any) -> PreTrainedConfig:
    """Reads the configuration of a codec without its weights; arguments as for `load_codec`."""
    path = CODEC_IDS.get(fspath(path), path)
    adapter = _adapter(path, kwargs)
    config_class = adapter.config_class if adapter is not None else AutoConfig
    return config_class.from_pretrained(path, trust_remote_code=False, **kwargs)


def empty_codec(path: str | PathLike[str], settings: dict[str, Any] | None = None) -> PreTrainedAudioTokenizerBase:
    """The codec that a configuration describes, on the meta device: without weights, and without memory for them.

    Args:
        path: Folder of the codec.
        settings: Content of a config.json to use instead of its own.
    """
    adapter = _adapter(path, {})
    if settings is None:
        config = load_codec_config(path)
    else:
        config_class = adapter.config_class if adapter is not None else CONFIG_MAPPING[settings["model_type"]]
        config = config_class.from_dict(settings)
    with torch.device("meta"):
        if adapter is not None:
            return adapter(config)
        return AutoModelForAudioTokenization.from_config(config, trust_remote_code=False)


def _adapter(path: str | PathLike[str], kwargs: dict[str, Any]) -> Any:
    """Our class for a codec of transformers, or `None` if the Auto class is the right one."""
    model_type = PreTrainedConfig.get_config_dict(path, **kwargs)[0].get("model_type")
    if model_type not in _ADAPTERS:
        return None
    module, name = _ADAPTERS[model_type]
    try:
        # Imported on use, as it takes seconds.
        return getattr(importlib.import_module(f".{module}", __name__), name)
    except ImportError as error:
        raise ImportError(
            f"The codec in {path} is of the kind {model_type}, which this version of transformers does not have: pip "
            "install -U transformers."
        ) from error
