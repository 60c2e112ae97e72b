"""A codec that speaks at another rate than it hears: the processor tells them apart."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from published_glm4voice import golden_codec
from ttt_hf.modeling import AudioSegment
from ttt_hf.processing import TtTProcessor, train_tokenizer


@pytest.fixture
def processor() -> TtTProcessor:
    return TtTProcessor(train_tokenizer(["Hello there."], 270, 64), golden_codec())


def test_a_reply_has_the_rate_at_which_the_codec_speaks(processor: TtTProcessor) -> None:
    out = SimpleNamespace(segments=[[AudioSegment(codes=torch.arange(4), complete=True)]])
    reply = processor.decode_reply(out)
    assert reply.sampling_rate == 22050
    assert len(reply.audio) == 27 * 256
    assert reply.segments[0]["seconds"] == 4 / 12.5


def test_a_question_is_heard_at_the_rate_at_which_the_codec_hears(processor: TtTProcessor) -> None:
    samples = np.sin(np.arange(22050) / 10).astype(np.float32)
    inputs = processor("<|audio|>", audio=[samples], sampling_rate=22050)
    codes = inputs["input_ids"][0] - processor.token_ids.audio_code_offset
    assert int(((codes >= 0) & (codes < 64)).sum()) == 13  # of 16,000 samples
