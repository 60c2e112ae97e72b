"""LoRA adapters: what they train, that they save, load and merge exactly."""

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model

from ttt_hf import TtTForConditionalGeneration
from ttt_hf.training.adapters import add_adapter, audio_token_rows
from ttt_hf.training.arguments import ModelArguments


# Vocabulary of `tiny_config`: text below 40, begin markers 36 and 37, audio from 40 on.
IDS = torch.tensor([[3, 5, 37, 41, 44, 57, 59, 8]])


def make_model(config):
    torch.manual_seed(0)
    return TtTForConditionalGeneration(config)


def train_a_little(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def config(request, tiny_config):
    config = tiny_config()
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = request.param
    return config


@pytest.mark.parametrize("kind", [{}, {"use_rslora": True}, {"use_dora": True}])
def test_a_fresh_adapter_changes_nothing(config, kind):
    base = make_model(config)
    expected = base(IDS).logits.detach()
    assert torch.allclose(add_adapter(base, ModelArguments(lora_rank=4, **kind))(IDS).logits, expected, atol=1e-5)


def test_rows_of_audio_tokens_are_trained_and_no_others(config):
    model = add_adapter(make_model(config), ModelArguments(lora_rank=4))
    before = model.get_input_embeddings()(torch.arange(config.get_text_config().vocab_size)).detach().clone()
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1.0)
    model(IDS, labels=IDS, audio_loss_weights=(IDS >= 40).float()).loss.backward()
    optimizer.step()
    after = model.get_input_embeddings()(torch.arange(config.get_text_config().vocab_size)).detach()
    changed = set((before != after).any(dim=1).nonzero()[:, 0].tolist())
    assert changed and changed <= set(audio_token_rows(config))
    assert {41, 44, 57, 59} <= changed
    assert not {3, 5, 8} & changed


def test_saved_adapter_loads_with_plain_peft_and_merges_exactly(config, tmp_path):
    model = add_adapter(make_model(config), ModelArguments(lora_rank=4))
    train_a_little(model)
    expected = model(IDS).logits.detach()
    assert not torch.allclose(expected, make_model(config)(IDS).logits, atol=1e-2)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_model(config), tmp_path)
    assert torch.equal(loaded(IDS).logits, expected)
    merged = loaded.merge_and_unload()
    assert isinstance(merged, TtTForConditionalGeneration)
    assert torch.allclose(merged(IDS).logits, expected, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    again = TtTForConditionalGeneration.from_pretrained(tmp_path / "merged")
    assert torch.equal(again(IDS).logits, merged(IDS).logits)


def test_without_audio_tokens_only_the_layers_are_trained(config):
    model = add_adapter(make_model(config), ModelArguments(lora_rank=4, lora_audio_tokens=False))
    assert all("lora_" in name for name, parameter in model.named_parameters() if parameter.requires_grad)


def test_layers_that_do_not_exist_are_named(config):
    with pytest.raises(ValueError, match="banana"):
        add_adapter(make_model(config), ModelArguments(lora_rank=4, lora_targets=["banana"]))


def test_default_layers_are_those_of_the_backbone(tiny_config):
    for backbone, kind, layers in (
        ("qwen2", LoraConfig, {"q_proj", "v_proj"}),
        ("qwen2", IA3Config, {"q_proj", "v_proj", "down_proj"}),
        ("llama", LoraConfig, {"q_proj", "v_proj"}),
    ):
        adapted = get_peft_model(make_model(tiny_config(backbone)), kind(task_type="CAUSAL_LM"))
        assert set(adapted.peft_config["default"].target_modules) == layers
