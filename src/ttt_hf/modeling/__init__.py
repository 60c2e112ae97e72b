"""The TtT model for transformers. Its files travel to the Hub as remote code and need torch and transformers alone."""

from .configuration_ttt import TtTConfig
from .decoding_ttt import AudioSegment, TextSegment
from .generation_ttt import TtTGenerateOutput
from .modeling_ttt import TtTForConditionalGeneration, TtTOutputWithPast
from .streamers_ttt import InterruptCriteria, StreamEvent, TtTIteratorStreamer, TtTStreamer


__all__ = [
    "AudioSegment",
    "InterruptCriteria",
    "StreamEvent",
    "TextSegment",
    "TtTConfig",
    "TtTForConditionalGeneration",
    "TtTGenerateOutput",
    "TtTIteratorStreamer",
    "TtTOutputWithPast",
    "TtTStreamer",
]
