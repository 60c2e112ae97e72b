"""The one way from a name to a model with its processor and codec, or to an adapter with its base.

Every fault of a checkpoint raises an error of one sentence, before weights are read if possible, and nothing in one is
executed. Importing this package imports neither torch nor transformers, so that a wrong name fails at once.
"""

from .checkpoint_files import (
    DOWNLOAD_PATTERNS,
    OtherModelError,
    base_folder,
    check_codec_folder,
    check_weights,
    embedded_checkpoint,
    find_checkpoint,
    find_codec,
    find_folder,
    find_named_codec,
    is_adapter,
    read_json,
    read_shapes,
    weight_files,
)
from .config_errors import clear_errors
from .loader import DTYPES, load_checkpoint, load_model_and_processor, load_named_codec, quantization_config


__all__ = [
    "DOWNLOAD_PATTERNS",
    "DTYPES",
    "OtherModelError",
    "base_folder",
    "check_codec_folder",
    "check_weights",
    "clear_errors",
    "embedded_checkpoint",
    "find_checkpoint",
    "find_codec",
    "find_folder",
    "find_named_codec",
    "is_adapter",
    "load_checkpoint",
    "load_model_and_processor",
    "load_named_codec",
    "quantization_config",
    "read_json",
    "read_shapes",
    "weight_files",
]
