"""TtTConfig: reading the official format, round trips, and sentences for contradicting ids."""

import json

import pytest
from transformers import AutoConfig, Qwen2Config

from ttt_hf.modeling.configuration_ttt import TtTConfig


def test_reads_the_official_file(golden_folders):
    config = TtTConfig.from_pretrained(golden_folders["tied"], begin_audio_token_ids=[501, 502])
    assert config.audio_token_start_id == 511
    assert config.audio_code_offset == 512
    assert config.audio_vocab_size == 120
    assert config.mask_token_id == 632
    assert config.end_audio_token_ids == [633, 634]
    assert config.begin_audio_token_ids == [501, 502]
    assert config.audio_attention == "span"
    assert config.attention_block_length is None
    assert config.tie_word_embeddings is True
    assert isinstance(config.text_config, Qwen2Config)
    assert config.text_config.rope_parameters["rope_theta"] == 1000000.0
    assert not hasattr(config.text_config, "mask_token")


def test_official_file_without_a_start_id_means_the_released_vocabulary(golden_dir):
    flat = json.loads((golden_dir / "config_untied.json").read_text())
    del flat["audio_token_id_start"]
    config = TtTConfig.from_dict({**flat, "mask_token": 168069, "vocab_size": 168072})
    assert config.audio_token_start_id == 151684
    assert config.audio_vocab_size == 16384
    assert config.begin_audio_token_ids == []


def test_plain_text_config_needs_the_ids(tmp_path):
    Qwen2Config(vocab_size=64, hidden_size=32, num_attention_heads=4).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"mask_token_id.*from_text_model"):
        TtTConfig.from_pretrained(tmp_path)
    ids = {"mask_token_id": 57, "audio_token_start_id": 40, "audio_vocab_size": 10}
    config, unused = TtTConfig.from_pretrained(tmp_path, **ids, colour="red", return_unused_kwargs=True)
    assert (config.mask_token_id, config.audio_token_start_id, config.audio_vocab_size) == (57, 40, 10)
    assert unused["colour"] == "red"


@pytest.mark.parametrize("backbone", ["qwen2", "qwen3", "llama"])
def test_round_trip(tiny_config, tmp_path, backbone):
    config = tiny_config(backbone, audio_attention="block_causal", audio_block_length=6, tie_word_embeddings=True)
    config.save_pretrained(tmp_path)
    loaded = TtTConfig.from_pretrained(tmp_path)
    assert type(loaded.text_config) is type(config.text_config)
    assert loaded.get_text_config().hidden_size == 32
    assert loaded.text_config.tie_word_embeddings is True
    assert loaded.attention_block_length == 6
    ours, theirs = config.to_dict(), loaded.to_dict()
    for saved in (ours, theirs, ours["text_config"], theirs["text_config"]):
        saved.pop("transformers_version", None)
        saved.pop("auto_map", None)
        saved.pop("_name_or_path", None)
    assert ours == theirs


def test_fields_can_be_overridden_when_loading(tiny_config, tmp_path):
    tiny_config().save_pretrained(tmp_path)
    config = TtTConfig.from_pretrained(tmp_path, audio_attention="block_causal", audio_block_length=3)
    assert config.attention_block_length == 3


def test_saved_config_is_found_by_its_type(tiny_config, tmp_path):
    tiny_config().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == "ttt"
    assert saved["auto_map"] == {"AutoConfig": "configuration_ttt.TtTConfig"}
    assert AutoConfig.for_model("qwen2").model_type == saved["text_config"]["model_type"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"audio_vocab_size": 17}, "17 audio codes from id 41 on do not fit below mask_token_id 57"),
        ({"audio_vocab_size": 0}, "audio_vocab_size must be at least 1"),
        ({"mask_token_id": 64}, "mask_token_id 64 does not fit a vocabulary of 64 tokens"),
        ({"end_audio_token_ids": [58, 64]}, "end_audio_token_ids 64 does not fit"),
        ({"end_audio_token_ids": [39]}, "at or above audio_token_start_id 40"),
        ({"end_audio_token_ids": [41]}, "neither codes nor the mask token"),
        ({"end_audio_token_ids": []}, "at least one id"),
        ({"begin_audio_token_ids": [36, 40]}, "must be text ids, below audio_token_start_id 40, got 40"),
        ({"audio_block_length": 0}, "audio_block_length must be at least 1, got 0"),
        ({"audio_token_start_id": 0}, "audio_token_start_id must be at least 1"),
    ],
)
def test_contradicting_ids_are_one_sentence(tiny_config, fields, message):
    with pytest.raises(ValueError, match=message) as raised:
        tiny_config(**fields)
    assert "\n" not in str(raised.value)


def test_unknown_attention_is_refused(tiny_config):
    with pytest.raises(Exception, match="audio_attention"):
        tiny_config(audio_attention="sparse")
