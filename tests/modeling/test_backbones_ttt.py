"""Which text models become a TtT: families that do, and backbones whose mask or cache shows that they cannot."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ttt_hf.modeling import TtTForConditionalGeneration


SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "pad_token_id": 1,
}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 12,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 32,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
FAMILIES: dict[str, dict[str, Any]] = {
    "apertus": {},
    "arcee": {},
    "biogpt": {},
    "bitnet": {},
    "cohere": {},
    "cohere2": {},
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "ernie4_5": {},
    "exaone4": {},
    "gemma": {},
    "gemma2": {"query_pre_attn_scalar": 8},
    "gemma3_text": {"query_pre_attn_scalar": 8},
    "glm": {},
    "glm4": {},
    "gpt2": GPT,
    "gpt_bigcode": GPT,
    "gpt_neox": {},
    "gpt_oss": {"num_local_experts": 4},
    "granite": {},
    "granitemoe": {},
    "helium": {},
    "hunyuan_v1_dense": {},
    "llama": {},
    "ministral": {},
    "mistral": {},
    "mixtral": {"num_local_experts": 4},
    "nemotron": {},
    "olmo": {},
    "olmo2": {},
    "olmo3": {},
    "olmoe": EXPERTS,
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "phi3": {},
    "phimoe": {},
    "qwen2": {},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 32},
    "qwen3": {},
    "qwen3_moe": EXPERTS,
    "seed_oss": {},
    "smollm3": {},
    "stablelm": {},
    "starcoder2": {},
}


def text_model(family: str, **settings: Any) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **{**SIZES, **FAMILIES.get(family, {}), **settings})
        model = AutoModelForCausalLM.from_config(config).eval()
        # Attention of freshly drawn weights is almost uniform, which would hide a wrong mask.
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 2:
                    weight.mul_(4)
    return model


def check(family: str) -> None:
    """Text as the text model generates it, and audio with the cache as without it."""
    source = text_model(family)
    model = TtTForConditionalGeneration.from_text_model(source, audio_vocab_size=8, audio_block_length=4)
    model.generation_config.update(eos_token_id=3, pad_token_id=1)
    prompt = torch.tensor([[5, 9, 12, 30, 7]])
    keys = {"max_new_tokens": 8, "do_sample": False}
    theirs = source.generate(prompt, attention_mask=torch.ones_like(prompt), suppress_tokens=[3], **keys)
    assert torch.equal(model.generate(prompt, suppress_tokens=[3, *range(96, 99)], **keys), theirs)
    spoken = torch.tensor([[5, 9, 96]])
    keys = {"max_new_tokens": 14, "audio_max_span_length": 12, "audio_steps_per_block": 2, "do_sample": False}
    assert torch.equal(model.generate(spoken, **keys), model.generate(spoken, use_cache=False, **keys))


@pytest.mark.parametrize("family", ["deepseek_v3", "gemma2", "gpt2", "gpt_oss", "opt", "qwen3_moe"])
def test_families_of_different_kinds(family: str) -> None:
    check(family)


@pytest.mark.slow
@pytest.mark.parametrize("family", list(FAMILIES))
def test_all_families_of_the_documentation(family: str) -> None:
    check(family)


def test_the_documentation_lists_the_tested_families() -> None:
    page = (Path(__file__).parents[2] / "docs" / "official.md").read_text("utf-8")
    listed = page.split("tests/modeling/test_backbones_ttt.py")[1].split("\n\n")[0]
    assert re.findall(r"`(\w+)`", listed) == list(FAMILIES)


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        # A recurrent network, which has no attention; causal attention whatever the mask says.
        ("rwkv", {"attention_hidden_size": 32}, "'rwkv' does not follow an attention mask"),
        (
            "gpt_neo",
            {"num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]]},
            "'gpt_neo' does not follow an attention mask",
        ),
        # Positions from a mask of two dimensions.
        ("bloom", {"n_head": 4, "n_layer": 2}, r"'bloom' cannot run with TtT's mask and cache \(too many values"),
        # Sizes that do not fit together, with which the text model cannot run either.
        ("deepseek_v3", {"head_dim": 16}, r"'deepseek_v3' cannot run with TtT's mask and cache \(The size of tensor"),
    ],
)
def test_unsuitable_backbones_are_refused(family: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        TtTForConditionalGeneration.from_text_model(text_model(family, **settings), audio_vocab_size=8)
    assert "\n" not in str(caught.value)


def test_a_backbone_that_uses_its_cache_wrongly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    source = text_model("llama")
    # Positions counted anew in every forward, as by a backbone that takes them from its own inputs.
    forward = type(source.model).forward

    def forgetful(self: Any, *args: Any, **kwargs: Any) -> Any:
        length = kwargs["inputs_embeds"].shape[1]
        return forward(self, *args, **{**kwargs, "position_ids": torch.arange(length)[None]})

    monkeypatch.setattr(type(source.model), "forward", forgetful)
    with pytest.raises(ValueError, match="'llama' computes other logits with a cache than without"):
        TtTForConditionalGeneration.from_text_model(source, audio_vocab_size=8)


@pytest.mark.parametrize("part", ["model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"])
def test_damaged_text_models_are_refused(part: str) -> None:
    source = text_model("llama", tie_word_embeddings=False)
    with torch.no_grad():
        source.get_parameter(part)[5] = float("nan")
    with pytest.raises(ValueError, match=r"not finite.* its weights are damaged"):
        TtTForConditionalGeneration.from_text_model(source, audio_vocab_size=8)


@pytest.mark.parametrize("attention", [{"audio_attention": "block_causal", "audio_block_length": 1}, {}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_suitable_backbones_pass_in_every_precision(dtype: torch.dtype, attention: dict[str, Any]) -> None:
    source = text_model("qwen2").to(dtype)
    assert TtTForConditionalGeneration.from_text_model(source, audio_vocab_size=8, **attention).dtype == dtype
