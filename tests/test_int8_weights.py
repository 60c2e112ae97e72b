"""Weights in 8 bits on a CPU: near those in float32, by every way to load them, and refused where they cannot work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from test_loading import make_adapter
from ttt_hf import TtTForConditionalGeneration, embedded_checkpoint
from ttt_hf.evaluation import load_model
from ttt_hf.evaluation.models.ttt import wrap_loaded
from ttt_hf.loading import load_model_and_processor, quantization_config
from ttt_hf.loading.int8_weights import DynamicInt8Config


IDS = torch.arange(24)[None]


def test_all_linear_layers_are_quantised() -> None:
    name = embedded_checkpoint()
    plain, _ = load_model_and_processor(name, device="cpu")
    model, processor = load_model_and_processor(name, device="cpu", bits=8)
    linears = {key for key, module in plain.named_modules() if isinstance(module, nn.Linear)}
    assert linears and linears == {
        key for key, module in model.named_modules() if isinstance(module, torch.ao.nn.quantized.dynamic.Linear)
    }
    assert torch.equal(model.get_input_embeddings().weight, plain.get_input_embeddings().weight)
    with torch.no_grad():
        expected, logits = plain(IDS).logits, model(IDS).logits
    error = (logits - expected).norm() / expected.norm()
    assert 0 < error < 0.15
    # The codec is not touched.
    assert any(isinstance(module, nn.Linear) for module in processor.codec.modules())


@pytest.mark.parametrize("dtype", [None, "auto", "float32"])
def test_every_way_gives_the_same_model(checkpoint: Path, dtype: str | None) -> None:
    loaded, _ = load_model_and_processor(str(checkpoint), device="cpu", dtype=dtype, bits=8)
    model = TtTForConditionalGeneration.from_pretrained(
        checkpoint, quantization_config=quantization_config(8, device="cpu"), **({"dtype": dtype} if dtype else {})
    )
    assert model.dtype == loaded.dtype == torch.float32
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)


def test_an_adapter_is_merged_before(checkpoint: Path, tmp_path: Path) -> None:
    with torch.no_grad():
        expected = make_adapter(checkpoint, tmp_path / "adapter")(IDS).logits
        base = load_model_and_processor(str(checkpoint), device="cpu", bits=8)[0](IDS).logits
        logits = load_model_and_processor(str(tmp_path / "adapter"), device="cpu", bits=8)[0](IDS).logits
    assert (logits - expected).norm() < 0.05 * expected.norm() < 0.5 * (base - expected).norm()


def test_evaluation_by_name(checkpoint: Path) -> None:
    plain, few_bits = (load_model(str(checkpoint), device="cpu", **bits).description for bits in ({}, {"bits": 8}))
    assert few_bits == {**plain, "bits": 8}
    model, processor = load_model_and_processor(str(checkpoint), device="cpu", bits=8)
    with pytest.raises(ValueError, match="cannot be identified: give its name and bits=8 instead"):
        wrap_loaded(model, processor)


def test_it_cannot_be_saved(checkpoint: Path, tmp_path: Path) -> None:
    model, _ = load_model_and_processor(str(checkpoint), device="cpu", bits=8)
    with pytest.raises(ValueError, match="not serializable"):
        model.save_pretrained(tmp_path)


def test_what_cannot_work_is_refused(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="multiplied in float32: leave out the data type"):
        load_model_and_processor(str(checkpoint), device="cpu", dtype="bfloat16", bits=8)
    with pytest.raises(ValueError, match="in 8 or 4 bits, not in 5"):
        load_model_and_processor(str(checkpoint), device="cpu", bits=5)
    with pytest.raises(ValueError, match="in the memory of a CPU: leave out dtype and device_map"):
        TtTForConditionalGeneration.from_pretrained(
            checkpoint,
            quantization_config=DynamicInt8Config(),
            device_map={"model": "cpu", "lm_head": "disk"},
            offload_folder=tmp_path,
        )
    monkeypatch.delattr(torch.ao.quantization, "quantize_dynamic")
    with pytest.raises(ImportError, match=r"need kernels for integers, which PyTorch .* has not"):
        load_model_and_processor(str(checkpoint), device="cpu", bits=8)
