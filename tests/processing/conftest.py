"""A small random processor, shared by the tests of this folder."""

import pytest
import torch

from ttt_hf.codecs import TtTTinyCodec, TtTTinyCodecConfig
from ttt_hf.processing import TtTProcessor, train_tokenizer


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    return ["What is twenty-four plus four?", "The capital of France is Paris.", "Hello! How are you?"] * 3


@pytest.fixture(scope="session")
def small_codec() -> TtTTinyCodec:
    """75 codes, 12.5 of them a second, 16 kHz."""
    sizes = ("encoder_frame", "encoder_code", "decoder_frame", "decoder_code", "vocoder")
    config = TtTTinyCodecConfig(
        fsq_levels=(5, 5, 3),
        **{f"{part}_size": 16 for part in sizes},
        **{f"{part}_layers": 1 for part in sizes},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TtTTinyCodec(config).eval()


@pytest.fixture(scope="session")
def processor(corpus: list[str], small_codec: TtTTinyCodec) -> TtTProcessor:
    return TtTProcessor(train_tokenizer(corpus, 300, 75), small_codec)
