"""From speech and text to training batches: interleaving, chat samples, and the collator that draws the noise."""

from .collator import TtTDataCollator
from .interleaving import interleave
from .packing import pack_samples, training_length
from .samples import ChatExample, ChatSampleBuilder
from .sampling import LengthGroupedSampler, NumberedDataset


__all__ = [
    "ChatExample",
    "ChatSampleBuilder",
    "LengthGroupedSampler",
    "NumberedDataset",
    "TtTDataCollator",
    "interleave",
    "pack_samples",
    "training_length",
]
