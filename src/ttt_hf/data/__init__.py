"""From data sets to training batches: sources, codes, samples, packing, and the collator that draws the noise.

Names are loaded on first use, so that reading tables does not wait for torch and transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .collator import TtTDataCollator
    from .conversations import canonical_row
    from .encoding import EncodingReport, check_fingerprint, codec_fingerprint, encode_source
    from .fitting import Fitted, fit_sample, fit_samples
    from .interleaving import interleave
    from .packing import pack_samples, training_length
    from .samples import SampleBuilder
    from .sampling import LengthGroupedSampler, NumberedDataset
    from .shards import encode_row
    from .sources import Source, load_source, open_source

__all__ = [
    "EncodingReport",
    "Fitted",
    "LengthGroupedSampler",
    "NumberedDataset",
    "SampleBuilder",
    "Source",
    "TtTDataCollator",
    "canonical_row",
    "check_fingerprint",
    "codec_fingerprint",
    "encode_row",
    "encode_source",
    "fit_sample",
    "fit_samples",
    "interleave",
    "load_source",
    "open_source",
    "pack_samples",
    "training_length",
]

_MODULES = {
    "collator": ("TtTDataCollator",),
    "conversations": ("canonical_row",),
    "encoding": ("EncodingReport", "check_fingerprint", "codec_fingerprint", "encode_source"),
    "fitting": ("Fitted", "fit_sample", "fit_samples"),
    "interleaving": ("interleave",),
    "packing": ("pack_samples", "training_length"),
    "samples": ("SampleBuilder",),
    "sampling": ("LengthGroupedSampler", "NumberedDataset"),
    "shards": ("encode_row",),
    "sources": ("Source", "load_source", "open_source"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
