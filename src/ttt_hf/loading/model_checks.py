"""Checks of a model: the sizes that it describes against its files, finite weights, and defaults of generation."""

from __future__ import annotations

import copy
import math
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoint_files import read_shapes, weight_files
from .config_errors import clear_errors


if TYPE_CHECKING:
    from torch import nn

# Constants that a model computes itself, such as windows and filters, are not in the files.
CONSTANTS = 2**25
# Of waveforms and codes, in Hz: far above those of any codec.
MAX_RATES = (384_000, 384_000, 1000)
# Generation keys that no check of transformers looks at.
LENGTHS = ("max_new_tokens", "min_new_tokens", "max_length", "min_length")
# Memory and time grow with these: at most the model's context, or this many.
AUDIO_LENGTHS = ("audio_block_length", "audio_steps_per_block", "audio_max_span_length")
MAX_AUDIO_LENGTH = 4096


def check_model_size(folder: Path) -> None:
    """Checks a model before memory is allocated for it; raises a `ValueError` like `check_size`."""
    import torch

    from ..modeling.configuration_ttt import TtTConfig
    from ..modeling.modeling_ttt import TtTForConditionalGeneration

    def build(config: TtTConfig) -> TtTForConditionalGeneration:
        with torch.device("meta"):
            return TtTForConditionalGeneration(config)

    with clear_errors(folder / "config.json", lambda settings: build(TtTConfig.from_dict(settings))):
        model = build(TtTConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
    check_size(folder, model)


def check_codec_size(folder: Path) -> None:
    """Checks a codec before memory is allocated for it; raises a `ValueError` like `check_size`."""
    from ..codecs import empty_codec, output_sampling_rate

    with clear_errors(folder / "config.json", partial(empty_codec, folder)):
        codec = empty_codec(folder)
        rates = (codec.config.sampling_rate, output_sampling_rate(codec.config), codec.config.frame_rate)
    # Recordings are resampled to the rates, and encoded to as many frames.
    for name, rate, highest in zip(("sampling_rate", "output_sampling_rate", "frame_rate"), rates, MAX_RATES):
        if not 0 < rate <= highest:
            raise ValueError(f"{folder / 'config.json'} cannot be used: its {name} is {rate:g} Hz, beyond {highest}.")
    check_size(folder, codec)


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
    """Checks that all weights are finite numbers, one read of each at the speed of memory.

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


def check_generation_config(model: Any, tokenizer: Any, path: Path) -> None:
    """Checks that generation can start with a model's defaults. It runs no forward.

    Values that `generate` refuses by a message of its own are left to it, since the caller may replace them.

    Args:
        path: The generation config.

    Raises:
        ValueError: If a value is of a wrong type, or beyond any use.
    """
    import torch
    from transformers import GenerationConfig

    own = model.generation_config
    for key in LENGTHS:
        value = getattr(own, key, None)
        if value is not None and type(value) is not int:
            raise ValueError(f"{path} cannot be used ({key} must be an integer, not {str(value)[:40]!r}): correct it.")
    longest = max(MAX_AUDIO_LENGTH, getattr(model.config.get_text_config(), "max_position_embeddings", None) or 0)
    for key in AUDIO_LENGTHS:
        value = getattr(own, key, None)
        if type(value) is int and value > longest:
            raise ValueError(f"{path} cannot be used ({key} must be at most {longest}, not {value}): correct it.")

    def decode(model: Any, input_ids: torch.Tensor, logits_processor: Any, stopping_criteria: Any, **_: Any) -> Any:
        logits = torch.zeros(1, model.config.get_text_config().vocab_size, device=input_ids.device)
        for processors in logits_processor:  # a list per row
            processors(input_ids, logits)
        stopping_criteria(input_ids, None)
        return input_ids

    def start(config: GenerationConfig) -> None:
        model.generation_config = copy.deepcopy(config)
        if config.max_new_tokens is None and config.max_length is None:
            model.generation_config.max_new_tokens = 1  # or generate would warn that neither is set
        prompt = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        model.generate(prompt, custom_generate=decode, tokenizer=tokenizer)

    try:
        with (
            clear_errors(path, lambda settings: start(GenerationConfig.from_dict(settings))),
            suppress(ValueError, torch.OutOfMemoryError),
        ):
            start(own)
    finally:
        model.generation_config = own
