"""From data sets to training batches: sources, codes, samples, packing, and the collator that draws the noise."""

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
