"""Official checkpoints: loaded as they are, with ids by their names and the paper's decoding."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen2Config, Qwen2ForCausalLM

import ttt_hf
from official_layout import RELEASED, official_tokenizer, write_official
from ttt_hf.modeling import TtTConfig, TtTForConditionalGeneration
from ttt_hf.modeling.official_ttt import PAPER_GENERATION, TOKEN_FILES, added_token_ids


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    return write_official(tmp_path_factory.mktemp("official"))


def test_ids_come_from_the_names(official):
    tokenizer = official_tokenizer()
    config = TtTConfig.from_pretrained(official)
    names = {
        "begin_audio_token_ids": ["<|begin_of_audio|>", "<|begin_of_quad|>"],
        "end_audio_token_ids": ["<|end_of_audio_new|>", "<|end_of_audio_span_last|>"],
    }
    for field, tokens in names.items():
        assert getattr(config, field) == tokenizer.convert_tokens_to_ids(tokens)
    assert config.audio_token_start_id == tokenizer.convert_tokens_to_ids("<|audio|>")
    assert config.begin_audio_token_ids[1] < config.audio_token_start_id - 2  # text lies between
    assert config.audio_vocab_size == 75
    assert TtTConfig.from_pretrained(official / "config.json").begin_audio_token_ids == config.begin_audio_token_ids


@pytest.mark.parametrize("kept", TOKEN_FILES)
def test_tokenizers_of_all_ages_are_read(official, tmp_path, kept):
    tokenizer = official_tokenizer()
    added = {token.content: index for index, token in tokenizer.added_tokens_decoder.items()}
    contents = {
        "added_tokens.json": added,
        "tokenizer_config.json": {"added_tokens_decoder": {str(i): {"content": name} for name, i in added.items()}},
        "tokenizer.json": {"added_tokens": [{"id": index, "content": name} for name, index in added.items()]},
    }
    (tmp_path / kept).write_text(json.dumps(contents[kept]))
    assert added_token_ids(tmp_path) == added
    assert added_token_ids(official) == added


def test_decoding_is_that_of_the_paper(official):
    model = TtTForConditionalGeneration.from_pretrained(official)
    keys = model.generation_config
    assert {name: getattr(keys, name) for name in PAPER_GENERATION} == PAPER_GENERATION
    assert keys.audio_steps_per_block * keys.audio_max_span_length // keys.audio_block_length == 200
    tokenizer = official_tokenizer()
    assert keys.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert keys.pad_token_id == tokenizer.convert_tokens_to_ids("<|endoftext|>")


def test_a_config_of_its_own_stays(official, tmp_path):
    folder = shutil.copytree(official, tmp_path / "model")
    GenerationConfig(eos_token_id=3, audio_steps_per_block=4).save_pretrained(folder)
    keys = TtTForConditionalGeneration.from_pretrained(folder).generation_config
    assert (keys.eos_token_id, keys.audio_steps_per_block, keys.do_sample) == (3, 4, None)
    given = GenerationConfig(eos_token_id=5)
    keys = TtTForConditionalGeneration.from_pretrained(official, generation_config=given).generation_config
    assert keys.eos_token_id == 5 and getattr(keys, "audio_cfg_scale", None) is None


def test_weights_are_those_of_the_text_model_in_bfloat16(official):
    assert len(list(official.glob("model-*.safetensors"))) > 2
    model = TtTForConditionalGeneration.from_pretrained(official)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.lm_head.weight is model.get_input_embeddings().weight
    reference = Qwen2ForCausalLM.from_pretrained(official).state_dict()
    state = model.state_dict()
    assert state.keys() == reference.keys()
    assert all(torch.equal(state[name], reference[name]) for name in state)


def test_it_speaks(official):
    tokenizer = official_tokenizer()
    model = TtTForConditionalGeneration.from_pretrained(official, dtype=torch.float32).eval()
    ids = tokenizer("<|im_start|>assistant\n", return_tensors="pt")["input_ids"]
    out = model.generate(ids, max_new_tokens=20, seed=0, return_dict_in_generate=True)
    assert any(isinstance(segment, ttt_hf.AudioSegment) for segment in out.segments[0])


def test_layers_are_not_cut_when_it_is_spread(official):
    model = TtTForConditionalGeneration.from_pretrained(official, device_map="auto", dtype=torch.float32)
    assert model._no_split_modules == {"Qwen2DecoderLayer"}


def test_it_speaks_the_same_from_several_places(official, tmp_path):
    """As a model that is too large for a device does: some of its layers lie elsewhere, here on the disk."""
    places = dict.fromkeys(
        ("model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb", "lm_head"), "cpu"
    )
    places["model.layers.1"] = "disk"
    settings = {"device_map": places, "offload_folder": tmp_path, "dtype": torch.float32}
    spread = TtTForConditionalGeneration.from_pretrained(official, **settings).eval()
    whole = TtTForConditionalGeneration.from_pretrained(official, dtype=torch.float32).eval()
    assert next(spread.model.layers[1].parameters()).device.type == "meta"
    prompt = torch.tensor([[40, 41, 257, 10]])
    replies = [model.generate(prompt, max_new_tokens=12, seed=0) for model in (spread, whole)]
    assert torch.equal(*replies)


def test_released_ids_in_a_small_model(tmp_path):
    """The ids of the released vocabulary, in a model of few channels."""
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps({**RELEASED, **small}))
    reference = Qwen2ForCausalLM(Qwen2Config(vocab_size=168072, num_key_value_heads=2, **small)).to(torch.bfloat16)
    weights = {name: tensor for name, tensor in reference.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    added = {"<|im_end|>": 151645, "<|begin_of_audio|>": 151665, "<|begin_of_quad|>": 151666, "<|audio|>": 151684}
    added |= {"<|mask_token|>": 168069, "<|end_of_audio_new|>": 168070, "<|end_of_audio_span_last|>": 168071}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    model = TtTForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert model.config.begin_audio_token_ids == [151665, 151666]
    assert model.config.audio_vocab_size == 16384
    prompt = torch.tensor([[100, 151665, 151685, 168068, 198]])
    out = model.generate(prompt, max_new_tokens=3, seed=0, return_dict_in_generate=True)
    assert out.sequences.shape[1] > prompt.shape[1]


def test_released_sizes_on_the_meta_device():
    config = TtTConfig.from_dict(RELEASED)
    with torch.device("meta"):
        model = TtTForConditionalGeneration(config)
        reference = Qwen2ForCausalLM(config.text_config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in reference.state_dict().items()}
    assert shapes["model.embed_tokens.weight"] == (168072, 2048)
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_118_985_216


def test_saved_again_it_is_a_native_checkpoint(official, tmp_path):
    model = TtTForConditionalGeneration.from_pretrained(official)
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == "ttt" and "mask_token" not in saved
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is TtTForConditionalGeneration
    assert loaded.config.begin_audio_token_ids == model.config.begin_audio_token_ids
    assert loaded.generation_config.audio_cfg_scale == 0.1
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
