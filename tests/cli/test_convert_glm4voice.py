"""`ttt-hf convert`: from published files to a codec that a checkpoint can have."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import soundfile
import torch

from published_glm4voice import write_published
from ttt_hf.cli.streaming import AnswerStreamer, AnswerWriter
from ttt_hf.codecs import load_codec, output_sampling_rate
from ttt_hf.processing import TtTProcessor, train_tokenizer


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, Path]:
    return write_published(tmp_path)


def test_glm4voice(run, published, tmp_path):
    result = run("convert", "glm4voice", *published, tmp_path / "codec", "--json")
    assert (result.code, result.err) == (0, "")
    facts = json.loads(result.out)
    assert (facts["sampling_rate"], facts["output_sampling_rate"], facts["codes"]) == (16000, 22050, 64)
    assert not {"hyperpyyaml", "torchaudio", "matcha", "diffusers", "conformer", "omegaconf"} & set(sys.modules)


def test_glm4voice_in_words(run, published, tmp_path):
    result = run("convert", "glm4voice", *published, tmp_path / "new" / "codec")
    assert result.code == 0
    assert "input 16,000 Hz, output 22,050 Hz" in result.out


def test_errors_are_one_line(run, published, tmp_path):
    (published[1] / "hift.pt").unlink()
    result = run("convert", "glm4voice", *published, tmp_path / "codec")
    assert result.code == 1
    assert result.err.count("\n") == 1
    assert "has no hift.pt" in result.err
    assert run("convert").code == 2
    assert run("convert", "glm4voice", *published).code == 2


def test_a_streamed_answer_has_the_rate_at_which_the_converted_codec_speaks(run, published, tmp_path):
    assert run("convert", "glm4voice", *published, tmp_path / "codec").code == 0
    processor = TtTProcessor(train_tokenizer(["Hello there."], 270, 64), load_codec(tmp_path / "codec"))
    first = processor.token_ids.audio_code_offset
    with ExitStack() as files:
        rate = output_sampling_rate(processor.codec.config)
        streamer = AnswerStreamer(processor, AnswerWriter(files, tmp_path / "reply.wav", rate, None))
        for block in torch.arange(12).split(6):
            streamer.put_block((block + first).tolist())
        streamer.end()
    samples, rate = soundfile.read(tmp_path / "reply.wav")
    assert (len(samples), rate) == (82 * 256, 22050)
