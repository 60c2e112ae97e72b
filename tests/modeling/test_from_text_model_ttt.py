"""Growing a TtT out of a text model: what is added, how it starts, and that the text behaviour stays as it was."""

import copy
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ttt_hf.modeling import TtTForConditionalGeneration
from ttt_hf.modeling.growing_ttt import COVARIANCE_SHARE, grow_rows


CLASSES = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
}
SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "eos_token_id": 3,
}


def text_model(backbone: str = "qwen2", tie: bool = False, **settings):
    config_class, model_class = CLASSES[backbone]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model_class(config_class(**{**SIZES, "tie_word_embeddings": tie, **settings})).eval()


def tokenizer_of(size: int) -> PreTrainedTokenizerFast:
    backend = Tokenizer(WordLevel({f"w{index}": index for index in range(size)}, unk_token="w0"))
    backend.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="w0")


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("backbone", list(CLASSES))
def test_text_logits_stay_bit_for_bit(backbone, tie, implementation):
    source = text_model(backbone, tie)
    source.set_attn_implementation(implementation)
    before = copy.deepcopy(source.state_dict())
    model = TtTForConditionalGeneration.from_text_model(source, audio_vocab_size=24)
    assert not model.training
    assert model.model.config._attn_implementation == implementation
    ids = torch.randint(0, 96, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, logits = source(ids).logits, model(ids).logits
    assert torch.equal(logits[..., :96], expected)
    assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())
    assert source.config.vocab_size == 96
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tie
    assert model.config.tie_word_embeddings == tie


def test_ids_follow_the_vocabulary():
    config = TtTForConditionalGeneration.from_text_model(
        text_model(), audio_vocab_size=24, audio_attention="block_causal", audio_block_length=5
    ).config
    assert config.begin_audio_token_ids == [96, 97]
    assert config.audio_token_start_id == 99
    assert config.audio_code_offset == 100
    assert config.mask_token_id == 124
    assert config.end_audio_token_ids == [125, 126]
    assert config.text_config.vocab_size == 127
    assert config.attention_block_length == 5


@pytest.mark.parametrize(
    "codec", [SimpleNamespace(codebook_size=7), SimpleNamespace(config=SimpleNamespace(codebook_size=7))]
)
def test_codec_tells_the_number_of_codes(codec):
    assert TtTForConditionalGeneration.from_text_model(text_model(), codec=codec).config.audio_vocab_size == 7


@pytest.mark.parametrize("words", [96, 80, 98])
def test_tokenizer_gets_the_tokens(words):
    tokenizer = tokenizer_of(words)
    source = text_model()
    model = TtTForConditionalGeneration.from_text_model(source, audio_vocab_size=8, tokenizer=tokenizer)
    config = model.config
    assert config.begin_audio_token_ids == tokenizer.convert_tokens_to_ids(["<|begin_of_audio|>", "<|begin_of_quad|>"])
    assert config.begin_audio_token_ids[0] == words
    assert config.audio_token_start_id == tokenizer.convert_tokens_to_ids("<|audio|>")
    assert config.audio_code_offset + 7 == tokenizer.convert_tokens_to_ids("<|audio_7|>")
    assert config.mask_token_id == tokenizer.convert_tokens_to_ids("<|mask_token|>")
    assert config.end_audio_token_ids == tokenizer.convert_tokens_to_ids(
        ["<|end_of_audio_new|>", "<|end_of_audio_span_last|>"]
    )
    assert len(tokenizer) == words + 15
    assert config.text_config.vocab_size == max(words + 15, 96)
    assert tokenizer("w5 <|begin_of_audio|> <|audio_0|>").input_ids == [5, words, words + 4]
    # rows that only padded the embedding matrix are drawn anew, those of real tokens stay; the tokenizer may know more
    # tokens than the text model
    old, new, kept = source.get_input_embeddings().weight, model.get_input_embeddings().weight, min(words, 96)
    assert torch.equal(new[:kept], old[:kept])
    assert not torch.equal(new[kept], old[kept - 1])
    assert torch.isfinite(new).all()
    with pytest.raises(ValueError, match=r"already has audio tokens \(<\|begin_of_audio\|>\)"):
        TtTForConditionalGeneration.from_text_model(source, audio_vocab_size=8, tokenizer=tokenizer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_from_a_folder(tmp_path, dtype):
    source = text_model(tie=True).to(dtype)
    source.generation_config.update(do_sample=True, top_k=7)
    source.save_pretrained(tmp_path / "text")
    model = TtTForConditionalGeneration.from_text_model(tmp_path / "text", audio_vocab_size=24)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert model.generation_config.top_k == 7
    assert model.generation_config.eos_token_id == 3
    model.save_pretrained(tmp_path / "ttt")
    loaded = TtTForConditionalGeneration.from_pretrained(tmp_path / "ttt").eval()
    ids = torch.tensor([[1, 2, 96, 101, 105, 125, 3]])
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_seed_decides_and_the_callers_randomness_stays():
    source = text_model()
    state = torch.random.get_rng_state()
    models = [TtTForConditionalGeneration.from_text_model(source, audio_vocab_size=8, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), state)
    new = [model.get_input_embeddings().weight[96:] for model in models]
    assert torch.equal(new[0], new[1])
    assert not torch.equal(new[0], new[2])
    assert not torch.equal(new[0], models[0].lm_head.weight[96:])


def test_new_rows_have_the_mean_and_the_covariance_of_the_old_ones():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator)
    old = torch.randn(5000, 6, generator=generator) @ mixing + torch.tensor([5.0, 0, 0, -3, 0, 1])
    grown = grow_rows(old, 5000, 25000, torch.Generator().manual_seed(0))
    assert grown.shape == (25000, 6)
    assert grown.dtype == torch.float32
    assert torch.equal(grown[:5000], old)
    new = grown[5000:]
    spread = old.std(dim=0) * COVARIANCE_SHARE**0.5
    assert ((new.mean(dim=0) - old.mean(dim=0)).abs() < 5 * spread / 20000**0.5 + 1e-6).all()
    torch.testing.assert_close(new.T.cov() / COVARIANCE_SHARE, old.T.cov(), atol=0.03 * old.T.cov().max(), rtol=0)


def test_fewer_rows_than_dimensions():
    grown = grow_rows(torch.randn(3, 16, generator=torch.Generator().manual_seed(0)), 3, 9, torch.Generator())
    assert torch.isfinite(grown).all()


def test_new_tokens_hardly_disturb_the_text_distribution():
    source = text_model(initializer_range=0.3)
    model = TtTForConditionalGeneration.from_text_model(source, audio_vocab_size=8)
    ids = torch.tensor([[1, 2, 5, 8, 13]])
    with torch.no_grad():
        probabilities = model(ids).logits.softmax(dim=-1)
        best = source(ids).logits.argmax(dim=-1)
    assert torch.equal(probabilities.argmax(dim=-1), best)
    assert (probabilities[..., 96:].sum(dim=-1) < 15 / 96 * 1.5).all()


def test_grown_model_learns_audio():
    model = TtTForConditionalGeneration.from_text_model(text_model(tie=True), audio_vocab_size=8).train()
    labels = torch.tensor([[1, 2, 96, 100, 103, 101, 108, 5]])
    noisy = labels.clone()
    noisy[0, 3:7] = model.config.mask_token_id
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = model(noisy, labels=labels, audio_loss_weights=(noisy != labels) / 4).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_wrong_arguments_are_one_sentence():
    source = text_model()
    for arguments in ({}, {"codec": SimpleNamespace(codebook_size=8), "audio_vocab_size": 8}):
        with pytest.raises(ValueError, match="either codec or audio_vocab_size"):
            TtTForConditionalGeneration.from_text_model(source, **arguments)
    with pytest.raises(ValueError, match="Qwen2Model is no plain decoder-only language model"):
        TtTForConditionalGeneration.from_text_model(source.model, audio_vocab_size=8)
    with pytest.raises(ValueError, match="audio_vocab_size must be at least 1"):
        TtTForConditionalGeneration.from_text_model(source, audio_vocab_size=0)


def test_backbones_that_name_their_parts_differently():
    source = GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4)).eval()
    model = TtTForConditionalGeneration.from_text_model(source, audio_vocab_size=8)
    assert model.lm_head.weight is model.model.wte.weight
    ids = torch.tensor([[1, 2, 5, 8, 13]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits[..., :96], source(ids).logits, atol=1e-5, rtol=0)
