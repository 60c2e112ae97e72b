"""Compares what configurations describe with the headers of the weights, and checks that the weights are finite."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoint_files import read_json, read_shapes, weight_files
from .config_errors import clear_errors
from .file_checks import walk


if TYPE_CHECKING:
    from torch import nn

# Keys by which configurations count modules, and how many are built before the weights are compared.
COUNTS = re.compile(r"layers|blocks|levels|stages|quantizers|codebooks|experts")
MAX_MODULES = 1000
# Constants that a model computes itself, such as windows and filters, are not in the files.
CONSTANTS = 2**25


def check_codec_size(folder: Path) -> None:
    """Checks a codec before memory is allocated for it; raises a `ValueError` like `check_size`."""
    from ..codecs import empty_codec

    check_counts(folder)
    with clear_errors(folder / "config.json"):
        codec = empty_codec(folder)
    check_size(folder, codec)


def check_counts(folder: Path) -> None:
    """Raises a `ValueError` if a configuration has many more modules than tensors, since building them takes time."""
    limit = max(MAX_MODULES, sum(len(read_shapes(path)) for path in weight_files(folder)))
    for key, value in walk(read_json(folder, "config.json")):
        if COUNTS.search(key) and isinstance(value, (int, float)) and value > limit:
            raise ValueError(f"{folder / 'config.json'} cannot be used: {key}={value} does not fit the weights.")


def check_size(folder: Path, model: nn.Module) -> None:
    """Checks that a model is not larger than its weights in the files.

    Args:
        folder: Its folder.
        model: The model as its configuration describes it, on the meta device.

    Raises:
        ValueError: If it is larger.
    """
    stored = sum(math.prod(shape) for path in weight_files(folder) for shape in read_shapes(path).values())
    described = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if described > 1.1 * stored + CONSTANTS:
        raise ValueError(
            f"{folder / 'config.json'} describes a model of {described:,} weights, and the files hold {stored:,}: "
            "fetch the checkpoint again."
        )


def check_finite(model: Any, folder: Path) -> None:
    """Checks that all weights are finite numbers, one read of each: 0.3 s for 3 billion weights on one CPU core.

    Raises:
        ValueError: If one is infinite or not a number.
    """
    import torch

    for name, tensor in model.state_dict().items():
        # Not those on disk, nor quantised ones.
        if not isinstance(tensor, torch.Tensor) or tensor.is_meta or not tensor.numel():
            continue
        if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            continue
        # Both are NaN if one value is; unlike isfinite(), it makes no tensor of the same size.
        if not all(math.isfinite(value) for value in torch.aminmax(tensor)):
            raise ValueError(
                f"The weights in {folder} are not finite numbers ({name}, as {str(tensor.dtype)[6:]}): take another "
                "checkpoint, they would give nothing but noise."
            )
