"""A small configuration with the vocabulary of the golden data."""

import pytest
from transformers import Qwen2Config

from ttt_hf import TtTConfig


def _make_config(audio_attention: str = "span", audio_block_length: int = 8) -> TtTConfig:
    backbone = Qwen2Config(
        vocab_size=640, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    return TtTConfig(
        text_config=backbone,
        audio_token_start_id=511,
        audio_vocab_size=120,
        mask_token_id=632,
        begin_audio_token_ids=[501, 502],
        end_audio_token_ids=[633, 634],
        audio_attention=audio_attention,
        audio_block_length=audio_block_length,
    )


@pytest.fixture
def make_config():
    return _make_config


@pytest.fixture
def config() -> TtTConfig:
    return _make_config()
