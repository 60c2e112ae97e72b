"""From speech and text to training batches: interleaving, chat samples, and the collator that draws the noise."""

from .collator import TtTDataCollator
from .interleaving import interleave
from .samples import ChatExample, ChatSampleBuilder
from .sampling import LengthGroupedSampler


__all__ = ["ChatExample", "ChatSampleBuilder", "LengthGroupedSampler", "TtTDataCollator", "interleave"]
