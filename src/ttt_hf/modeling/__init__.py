"""The TtT model for transformers: saved with a model as remote code, so it needs torch and transformers only."""

from .configuration_ttt import TtTConfig
from .decoding_ttt import AudioSegment, TextSegment
from .generation_ttt import TtTGenerateOutput
from .modeling_ttt import TtTForConditionalGeneration, TtTOutputWithPast
from .session_ttt import DecodingSession, SessionEvent
from .streamers_ttt import InterruptCriteria, StreamEvent, TtTIteratorStreamer, TtTStreamer


__all__ = [
    "AudioSegment",
    "DecodingSession",
    "InterruptCriteria",
    "SessionEvent",
    "StreamEvent",
    "TextSegment",
    "TtTConfig",
    "TtTForConditionalGeneration",
    "TtTGenerateOutput",
    "TtTIteratorStreamer",
    "TtTOutputWithPast",
    "TtTStreamer",
]
