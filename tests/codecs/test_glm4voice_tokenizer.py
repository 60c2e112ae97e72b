"""The GLM-4-Voice tokenizer against tensors of the original, and its independence of batches."""

import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from published_glm4voice import GOLDEN, golden_case, golden_codec, golden_json
from ttt_hf.codecs import Glm4VoiceTokenizer, Glm4VoiceTokenizerConfig
from ttt_hf.converting.glm4voice import convert_tokenizer, read_tokenizer_config


WAVES = {"n1": 1, "n1280": 1280, "n1281": 1281, "n20000": 20000}


@pytest.fixture(scope="module")
def codec():
    return golden_codec()


@pytest.fixture(scope="module")
def waves():
    waves = golden_case("encoder/wave128.cases.safetensors", "wave")
    return {**waves, "tiled": waves["n20000"].repeat(25)}


def batch_of(waves, *names):
    rows = [waves[name] for name in names]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])


@pytest.mark.parametrize("case", ["block200", "block8", "block8_pad"])
def test_vectors_and_codes_are_those_of_the_original(case):
    config = read_tokenizer_config(GOLDEN / "encoder" / "mel16.config.json")
    changes = golden_json("encoder/cases.json")["mel16"][case]["config_override"]
    config.block_size = changes.get("quantize_causal_block_size", config.block_size)
    tokenizer = Glm4VoiceTokenizer(config).eval()
    tokenizer.load_state_dict(convert_tokenizer(load_file(GOLDEN / "encoder" / "mel16.weights.safetensors")))
    golden = golden_case("encoder/mel16.cases.safetensors", case)
    with torch.no_grad():
        output = tokenizer(golden["input_features"], golden["attention_mask"])
    valid = golden["valid"]
    assert torch.equal(output.audio_codes[valid], golden["ids"][valid])
    assert (output.hidden - golden["hidden"])[valid].abs().max() <= 1e-5


def test_layers_may_follow_the_average():
    """No published model has them, but its configuration can say so; the block is then counted in codes."""
    config = Glm4VoiceTokenizerConfig(
        num_mel_bins=4, d_model=8, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=8, block_size=8,
        pooling_position=1, codebook_size=16,
    )  # fmt: skip
    torch.manual_seed(0)
    tokenizer = Glm4VoiceTokenizer(config).eval()
    features = torch.randn(1, 4, 64)
    changed = features.clone()
    changed[..., 40:] += 1.0  # in the second code of the third block
    with torch.no_grad():
        difference = (tokenizer(features).hidden - tokenizer(changed).hidden).abs().amax((0, 2))
    assert (difference > 0).tolist() == [False] * 4 + [True] * 4


@pytest.mark.parametrize(
    ("call", "names"),
    [
        *((name, [name]) for name in WAVES),
        ("batch4", list(WAVES)),
        ("tile31s", ["tiled"]),
        ("tile31s_with_short", ["n1281", "tiled", "n1"]),
    ],
)
def test_codes_of_waveforms_are_those_of_the_original(codec, waves, call, names):
    golden = golden_case("encoder/wave128.cases.safetensors", call)
    codes = codec.encode(*batch_of(waves, *names))
    assert codes.dtype == torch.long
    for row, found in enumerate(codes):
        expected = golden[f"tokens.{row}"]
        assert torch.equal(found[: len(expected)], expected)
        assert (found[len(expected) :] == -1).all()


@pytest.mark.parametrize("name", WAVES)
def test_features_and_vectors_of_waveforms_are_those_of_the_original(codec, waves, name):
    golden = golden_case("encoder/wave128.cases.safetensors", name)
    # The logarithm of next to nothing shows which Fourier transform was used.
    assert (codec.tokenizer.features(waves[name]) - golden["input_features"][0]).abs().max() <= 1e-3
    with torch.no_grad():
        hidden = codec.tokenizer(golden["input_features"], golden["attention_mask"]).hidden
    assert (hidden[golden["valid"].bool()] - golden["hidden_valid"]).abs().max() <= 1e-5


def test_a_row_has_the_same_codes_alone_and_in_a_padded_batch(codec, waves):
    waveform, lengths = batch_of(waves, *WAVES)
    waveform[torch.arange(waveform.shape[1]) >= lengths[:, None]] = 7.0
    batch = codec.encode(waveform, lengths)
    for name, found in zip(WAVES, batch):
        alone = codec.encode(waves[name][None])[0]
        assert torch.equal(found[: len(alone)], alone)


@pytest.mark.parametrize("samples", [1, 1279, 1280, 1281, 480_000, 480_001])
def test_number_of_codes_is_rounded_up(codec, samples):
    codes = codec.encode(torch.randn(1, samples, generator=torch.Generator().manual_seed(0)))
    assert codes.shape == (1, math.ceil(samples / 1280))
    assert 0 <= codes.min() <= codes.max() < codec.config.codebook_size


def test_save_and_load(codec, waves, tmp_path):
    codec.tokenizer.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, Glm4VoiceTokenizer)
    assert (tmp_path / "model.safetensors").is_file()
    assert torch.equal(loaded.encode(waves["n20000"][None], [20000]), codec.encode(waves["n20000"][None]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [({"pooling_position": 17}, "pooling_position"), ({"block_size": 10}, "block_size")],
)
def test_bad_configs_are_refused(overrides, message):
    with pytest.raises(Exception, match=message):
        Glm4VoiceTokenizerConfig(**overrides)
