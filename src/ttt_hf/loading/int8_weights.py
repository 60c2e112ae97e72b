"""Weights in 8 bits on a CPU: PyTorch's dynamic quantisation, as a quantiser of transformers.

Weights are rounded to int8 with a scale per output; the inputs of a layer are rounded at each call, with one scale for
all of them, and multiplied by the integer kernels of `torch.backends.quantized` (FBGEMM and oneDNN on x86, QNNPACK on
ARM). torchao computes the same with Python code around each layer, which at one position takes longer than float32.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin


METHOD = "dynamic_int8"


@register_quantization_config(METHOD)
class DynamicInt8Config(QuantizationConfigMixin):
    """Configuration of dynamic quantisation: for `from_pretrained(quantization_config=...)`, nothing to set."""

    def __init__(self, **_: Any) -> None:
        self.quant_method = METHOD


@register_quantizer(METHOD)
class DynamicInt8Quantizer(HfQuantizer):
    """Quantises the linear layers of a model once its weights are loaded."""

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Returns float32: the kernels take and give nothing else."""
        return torch.float32

    def is_serializable(self) -> bool:
        """False: packed weights suit one processor. transformers then refuses to save the model."""
        return False

    @property
    def is_trainable(self) -> bool:
        """False: integers have no gradient."""
        return False

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        return _quantize_layers(model)


def quantize(model: PreTrainedModel) -> None:
    """Quantises a loaded model in place, as `from_pretrained` with a `DynamicInt8Config` does.

    Args:
        model: A model in float32, in the memory of the CPU.

    Raises:
        ImportError: If this PyTorch has no kernels for integers.
        ValueError: If the weights are not in float32 on the CPU.
    """
    model.hf_quantizer = DynamicInt8Quantizer(DynamicInt8Config(), pre_quantized=False)
    model.hf_quantizer.preprocess_model(model)
    model.hf_quantizer.postprocess_model(model)


def check_kernels() -> None:
    """Checks that this PyTorch can multiply integers.

    Raises:
        ImportError: If it cannot.
    """
    # PyTorch has announced that it will remove them.
    if not hasattr(torch.ao.quantization, "quantize_dynamic") or torch.backends.quantized.engine == "none":
        raise ImportError(
            f"Weights in 8 bits need kernels for integers, which PyTorch {torch.__version__} has not on this "
            "processor: load the model in float32."
        )


def _quantize_layers(model: PreTrainedModel) -> PreTrainedModel:
    check_kernels()
    linears = [module for module in model.modules() if type(module) is nn.Linear]
    if any((layer.weight.device.type, layer.weight.dtype) != ("cpu", torch.float32) for layer in linears):
        raise ValueError(
            "Weights in 8 bits of this kind are made from float32 in the memory of a CPU: leave out dtype and "
            "device_map, or use bitsandbytes on a GPU."
        )
    with warnings.catch_warnings():
        # Of its removal, which check_kernels tells from an old PyTorch.
        warnings.simplefilter("ignore")
        scale_per_output = torch.ao.quantization.per_channel_dynamic_qconfig
        # The output layer, too: in a span it takes as long as all others in 8 bits. Embeddings stay, tied or not.
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear: scale_per_output}, inplace=True)
