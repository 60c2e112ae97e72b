"""From speech and text to training batches: interleaving, chat samples, and the collator that draws the noise."""

from .collator import TtTDataCollator
from .interleaving import interleave
from .samples import ChatExample, ChatSampleBuilder


__all__ = ["ChatExample", "ChatSampleBuilder", "TtTDataCollator", "interleave"]
