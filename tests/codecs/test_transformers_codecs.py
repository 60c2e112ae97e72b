"""Codecs of transformers behind our interface, with small random weights: rates, lengths, batches, streams, saving."""

from types import SimpleNamespace

import pytest
import torch
from transformers import MimiModel, NeuCodecModel, Xcodec2Model

from ttt_hf.codecs import load_codec, load_codec_config, output_sampling_rate
from ttt_hf.codecs.mimi import MimiCodec, MimiCodecConfig
from ttt_hf.codecs.xcodec2 import NeuCodecCodec, NeuCodecCodecConfig, Xcodec2Codec, Xcodec2CodecConfig
from ttt_hf.modeling import AudioSegment
from ttt_hf.processing import TtTProcessor, train_tokenizer


SEMANTIC = {
    "model_type": "wav2vec2-bert",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "output_hidden_size": 16,
    "conv_depthwise_kernel_size": 3,
}
XCODEC2 = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "encoder_hidden_size": 1,
    "quantization_dim": 48,
    "quantization_levels": [4, 4, 4],
    "semantic_model_config": SEMANTIC,
}
MIMI = {
    "hidden_size": 16,
    "num_filters": 2,
    "codebook_size": 32,
    "codebook_dim": 8,
    "vector_quantization_hidden_dimension": 8,
    "num_quantizers": 3,
    "upsample_groups": 16,
    "num_hidden_layers": 2,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "sliding_window": 6,
}
KINDS = ("xcodec2", "neucodec", "mimi")
# sampling rate, output sampling rate, codes a second, codes, samples a code
FACTS = {
    "xcodec2": (16000, 16000, 50.0, 64, 320),
    "neucodec": (16000, 24000, 50.0, 64, 480),
    "mimi": (24000, 24000, 12.5, 32, 1920),
}
FRAMES = {
    "xcodec2": lambda samples: samples // 320 + 1,
    "neucodec": lambda samples: max(1, samples // 320),
    "mimi": lambda samples: -(-samples // 1920),
}


def make(kind):
    torch.manual_seed(0)
    if kind == "mimi":
        codec = MimiCodec(MimiCodecConfig(**MIMI)).eval()
        with torch.no_grad():
            for name, buffer in codec.named_buffers():
                if name.endswith("embed_sum"):  # all the same until it is trained
                    buffer.normal_()
            for name, parameter in codec.named_parameters():
                if "layer_scale" in name:
                    parameter.fill_(1.0)
        return codec
    codec_class, config_class = {
        "xcodec2": (Xcodec2Codec, Xcodec2CodecConfig),
        "neucodec": (NeuCodecCodec, NeuCodecCodecConfig),
    }[kind]
    codec = codec_class(config_class(**XCODEC2)).eval()
    with torch.no_grad():
        codec.quantizer.project_in.weight.mul_(8000)
        codec.acoustic_decoder.head.linear.weight.normal_()
    return codec


@pytest.fixture(scope="module")
def codecs():
    with torch.random.fork_rng(devices=[]):
        return {kind: make(kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def codec(codecs, kind):
    return codecs[kind]


@pytest.fixture(scope="module")
def noise():
    return 0.2 * torch.randn(2, 12000, generator=torch.Generator().manual_seed(1))


def test_rates_follow_from_the_config(codec, kind):
    config = codec.config
    found = (config.sampling_rate, output_sampling_rate(config), config.frame_rate)
    assert (*found, config.codebook_size, config.samples_per_code) == FACTS[kind]
    assert config.samples_per_code * config.frame_rate == output_sampling_rate(config)


def test_released_rates():
    assert Xcodec2CodecConfig().codebook_size == NeuCodecCodecConfig().codebook_size == 65536
    assert Xcodec2CodecConfig().frame_rate == NeuCodecCodecConfig().frame_rate == 50
    assert (MimiCodecConfig().codebook_size, MimiCodecConfig().frame_rate) == (2048, 12.5)


@pytest.mark.parametrize("samples", [1, 319, 3840, 4000])
def test_number_of_codes(codec, kind, noise, samples):
    codes = codec.encode(noise[:1, :samples])
    assert codes.shape == (1, FRAMES[kind](samples))
    assert codes.dtype == torch.long
    assert codes.min() >= 0 and codes.max() < codec.config.codebook_size


def test_a_row_has_the_same_codes_and_sound_alone_and_in_a_padded_batch(codec, kind, noise):
    batch = codec.encode(noise, torch.tensor([12000, 4000]))
    alone = codec.encode(noise[1:, :4000])
    assert batch[0].unique().numel() > 1
    assert torch.equal(batch[1, : alone.shape[1]], alone[0])
    assert (batch[1, alone.shape[1] :] == -1).all()
    sound = codec.decode(batch)
    samples = codec.config.samples_per_code
    assert sound.shape == (2, batch.shape[1] * samples)
    assert sound.dtype == torch.float32
    assert 0 < sound.abs().max() <= 1
    assert torch.equal(sound[1, : alone.shape[1] * samples], codec.decode(alone)[0])
    assert (sound[1, alone.shape[1] * samples :] == 0).all()


def test_codes_are_those_of_the_model_itself(codecs, noise):
    codec = codecs["mimi"]
    expected = MimiModel.encode(codec, noise[:, None], num_quantizers=1).audio_codes[:, 0]
    assert torch.equal(codec.encode(noise), expected)
    expected = MimiModel.decode(codec, expected[:, None]).audio_values[:, 0].clamp(-1, 1)
    assert torch.allclose(codec.decode(codec.encode(noise)), expected, atol=1e-5)


def test_filter_banks_are_normalised_and_cover_the_waveform(codecs, noise):
    inputs = codecs["xcodec2"]._encoder_inputs(noise[0, :4000], 320)
    assert inputs["input_values"].shape == (1, 1, 4160)
    assert inputs["input_features"].shape == (1, 13, 160)
    banks = inputs["input_features"].reshape(26, 80)
    assert torch.allclose(banks.mean(0), torch.zeros(80), atol=1e-4)
    assert torch.allclose(banks.std(0), torch.ones(80), atol=1e-3)
    inputs = codecs["neucodec"]._encoder_inputs(noise[0, :4000], 320)
    assert inputs["input_features"].shape == (1, 12, 160)


def test_pieces_of_a_stream_are_as_long_as_the_whole(codec):
    codes = torch.randint(0, codec.config.codebook_size, (150,), generator=torch.Generator().manual_seed(2))
    stream = codec.decode_stream()
    pieces = [stream.push(part) for part in codes.split(40)]
    assert len(pieces[0]) == (40 - codec.look_ahead) * codec.config.samples_per_code
    sound = torch.cat([*pieces, stream.finish()])
    whole = codec.decode(codes[None])[0]
    assert sound.shape == whole.shape
    assert sound.abs().max() > 0


def test_stream_of_mimi_equals_decode(codecs):
    """It forgets what its decoder cannot see any more, and nothing else."""
    codec = codecs["mimi"]
    codes = torch.randint(0, 32, (60,), generator=torch.Generator().manual_seed(2))
    assert codec.look_behind < 30
    stream = codec.decode_stream()
    sound = torch.cat([stream.push(part) for part in codes.split(7)])
    assert (sound - codec.decode(codes[None])[0]).abs().max() < 1e-4


def test_saved_as_transformers_saves_it(codec, kind, noise, tmp_path):
    codec.save_pretrained(tmp_path)
    loaded = load_codec(tmp_path)
    assert type(loaded) is type(codec) and not loaded.training
    assert type(load_codec_config(tmp_path)) is type(codec.config)
    codes = codec.encode(noise[:, :4000])
    assert torch.equal(loaded.encode(noise[:, :4000]), codes)
    assert torch.equal(loaded.decode(codes), codec.decode(codes))
    parent = {"xcodec2": Xcodec2Model, "neucodec": NeuCodecModel, "mimi": MimiModel}[kind].from_pretrained(tmp_path)
    assert parent.state_dict().keys() == codec.state_dict().keys()


def test_several_semantic_codebooks_are_refused():
    with pytest.raises(ValueError, match="2 semantic codebooks"):
        MimiCodec(MimiCodecConfig(**{**MIMI, "num_semantic_quantizers": 2}))


def test_bad_input_is_one_sentence(codec):
    with pytest.raises(ValueError, match="empty"):
        codec.encode(torch.zeros(1, 0))
    with pytest.raises(ValueError, match="were they made by another codec"):
        codec.decode(torch.tensor([[codec.config.codebook_size]]))


def test_processor_listens_at_one_rate_and_speaks_at_another(codecs):
    processor = TtTProcessor(train_tokenizer(["Hello."], 260, 64), codecs["neucodec"])
    sound = 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(3)).numpy()
    message = {"role": "user", "content": [{"type": "audio", "audio": sound, "sampling_rate": 8000}]}
    ids = processor.apply_chat_template([message])["input_ids"]
    assert (ids > processor.token_ids.audio_token_start_id).sum() == 50
    out = SimpleNamespace(segments=[[AudioSegment(torch.arange(50), complete=True)]])
    reply = processor.decode_reply(out)
    assert (reply.sampling_rate, len(reply.audio)) == (24000, 24000)
    assert reply.segments[0]["seconds"] == 1.0
