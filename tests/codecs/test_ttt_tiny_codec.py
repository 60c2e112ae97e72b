"""The tiny codec with small random weights: shapes, quantiser, independence of batch, streaming, saving."""

import math

import pytest
import torch
from transformers import AutoConfig, AutoModelForAudioTokenization

from ttt_hf.codecs import TtTTinyCodec, TtTTinyCodecConfig, load_codec


def small_config(**overrides):
    settings = {
        "num_mel_bins": 20,
        "encoder_frame_size": 16,
        "encoder_code_size": 24,
        "encoder_frame_layers": 1,
        "encoder_code_layers": 1,
        "decoder_frame_size": 16,
        "decoder_code_size": 24,
        "decoder_code_layers": 2,
        "vocoder_size": 16,
        "vocoder_layers": 3,
        "vocoder_look_ahead": 2,
    }
    return TtTTinyCodecConfig(**(settings | overrides))


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    codec = TtTTinyCodec(small_config()).eval()
    with torch.no_grad():
        # Strong branches and a wide projection make every code depend visibly on its surroundings.
        for name, parameter in codec.named_parameters():
            if name.endswith(".scale"):
                parameter.fill_(1.0)
        codec.encoder.project.weight.mul_(3.0)
    return codec


@pytest.fixture(scope="module")
def speechlike():
    generator = torch.Generator().manual_seed(1)
    # Another tone and loudness every 50 ms, and a little noise.
    frequency = torch.rand(2, 25, 1, generator=generator) * 3000
    loudness = torch.rand(2, 25, 1, generator=generator)
    tones = loudness * torch.sin(2 * math.pi * frequency * torch.arange(800) / 16000)
    return 0.2 * tones.flatten(1) + 0.01 * torch.randn(2, 20000, generator=generator)


@pytest.mark.parametrize("samples", [1, 1279, 1280, 1281, 20000])
def test_number_of_codes_is_rounded_up(codec, samples):
    codes = codec.encode(torch.randn(2, samples))
    assert codes.shape == (2, math.ceil(samples / 1280))
    assert codes.dtype == torch.long
    assert codes.min() >= 0
    assert codes.max() < codec.config.codebook_size


def test_config_describes_the_codes():
    config = TtTTinyCodecConfig()
    assert (config.sampling_rate, config.frame_rate, config.codebook_size) == (16000, 12.5, 4375)


def test_default_size_fits_the_embedded_checkpoint():
    assert sum(parameter.numel() for parameter in TtTTinyCodec(TtTTinyCodecConfig()).parameters()) <= 5_200_000


def test_codes_vary_with_the_sound(codec, speechlike):
    assert codec.encode(speechlike).unique().numel() > 10


def test_a_row_has_the_same_codes_alone_and_in_a_padded_batch(codec, speechlike):
    lengths = torch.tensor([20000, 7001])
    padded = speechlike.clone()
    padded[1, 7001:] = 123.0
    batch = codec.encode(padded, lengths)
    assert torch.equal(batch[0], codec.encode(speechlike[:1])[0])
    assert torch.equal(batch[1, :6], codec.encode(speechlike[1:, :7001])[0])
    assert (batch[1, 6:] == -1).all()


def test_codes_do_not_depend_on_loudness_above_silence(codec, speechlike):
    same = codec.encode(speechlike) == codec.encode(speechlike * 0.25)
    assert same.float().mean() > 0.95


def test_silence_is_encoded(codec):
    assert codec.encode(torch.zeros(1, 4000)).shape == (1, 4)


def test_codebook_and_codes_are_inverse(codec):
    codebook = codec.codebook
    assert codebook.shape == (codec.config.codebook_size, len(codec.config.fsq_levels))
    assert codebook.min() == -1
    assert codebook.max() == 1
    assert codebook.unique(dim=0).shape == codebook.shape
    codes = torch.arange(codec.config.codebook_size)
    assert torch.equal(codec.vectors_to_codes(codebook), codes)
    assert torch.equal(codec.vectors_to_codes(codec.quantise(torch.atanh(codebook * 0.999))), codes)


def test_quantiser_passes_the_gradient(codec):
    hidden = torch.zeros(1, 1, 5, requires_grad=True)
    codec.quantise(hidden).sum().backward()
    assert torch.allclose(hidden.grad, torch.ones(1, 1, 5))


def test_decode_length_and_padding(codec):
    codes = torch.randint(0, codec.config.codebook_size, (2, 9))
    codes[1, 4:] = -1
    waveform = codec.decode(codes)
    assert waveform.shape == (2, 9 * 1280)
    assert waveform.dtype == torch.float32
    assert waveform.abs().max() <= 1
    assert (waveform[1, 4 * 1280 :] == 0).all()
    assert torch.equal(waveform[1, : 4 * 1280], codec.decode(codes[1:, :4])[0])
    assert torch.equal(codec.decode(codes.clamp(min=0), torch.tensor([9, 4])), waveform)


def test_decode_of_no_codes_is_empty(codec):
    assert codec.decode(torch.zeros(1, 0, dtype=torch.long)).shape == (1, 0)
    assert (codec.decode(torch.full((1, 3), -1)) == 0).all()


@pytest.mark.parametrize("piece", [1, 7, 26, 200])
def test_stream_equals_decode(codec, piece):
    codes = torch.randint(0, codec.config.codebook_size, (80,), generator=torch.Generator().manual_seed(2))
    stream = codec.decode_stream()
    pieces = [stream.push(part) for part in codes.split(piece)]
    pieces.append(stream.finish())
    streamed, whole = torch.cat(pieces), codec.decode(codes[None])[0]
    assert streamed.shape == whole.shape
    assert whole.abs().max() > 1e-2
    assert (streamed - whole).abs().max() <= 1e-4


def test_streams_together_equal_each_alone(codec, monkeypatch):
    """Of different lengths and at different places; the last pieces, too."""
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(0, codec.config.codebook_size, (count,), generator=generator) for count in (70, 70, 26, 3)]
    sizes, decode = [], codec._decode_rows
    monkeypatch.setattr(codec, "_decode_rows", lambda codes: sizes.append(tuple(codes.shape)) or decode(codes))
    streams, pieces = [codec.decode_stream() for _ in rows], [[] for _ in rows]
    for first in range(0, 96, 32):
        parts = [row[first : first + 32] for row in rows]
        decoded = codec.decode_streams(streams, parts, [first == 64] * len(rows))
        for own, samples in zip(pieces, decoded, strict=True):
            own.append(samples)
    # The rows of equal length share each of their three forwards.
    assert sizes[0] == (2, 32) and [count for count, _ in sizes].count(2) == 3
    for row, own in zip(rows, pieces, strict=True):
        whole = codec.decode(row[None])[0]
        assert whole.abs().max() > 1e-2
        assert torch.allclose(torch.cat(own), whole, rtol=0, atol=1e-4)
        alone = codec.decode_stream()
        parts = [alone.push(part) for part in row.split(32)]
        assert torch.allclose(torch.cat([*parts, alone.finish()]), torch.cat(own), rtol=0, atol=1e-6)


def test_streams_are_unchanged_when_decoding_together_fails(codec):
    good, bad, codes = codec.decode_stream(), codec.decode_stream(), torch.arange(12)
    with pytest.raises(ValueError, match="between 0 and 4374"):
        codec.decode_streams([good, bad], [codes, codes - 1], [False, True])
    samples = torch.cat([good.push(codes), good.finish()])
    assert torch.equal(samples, codec.decode(codes[None])[0])
    assert bad.finish().shape == (0,)


def test_stream_holds_back_only_its_look_ahead(codec):
    stream = codec.decode_stream()
    samples = stream.push(torch.zeros(30, dtype=torch.long))
    assert len(samples) == (30 - codec.look_ahead) * 1280
    assert len(stream.push(torch.zeros(1, dtype=torch.long))) == 1280
    assert len(stream.finish()) == codec.look_ahead * 1280


def test_look_ahead_is_exact(codec):
    """A change of one code alters nothing further than `look_ahead` codes before it and `look_behind` behind it."""
    codes = torch.zeros(1, 80, dtype=torch.long)
    changed = codes.clone()
    changed[0, 40] = codec.config.codebook_size - 1
    different = (codec.decode(codes) != codec.decode(changed))[0].unflatten(0, (80, 1280)).any(1).nonzero()
    assert 40 - codec.look_ahead <= different.min() < 40
    assert 40 < different.max() <= 40 + codec.look_behind


def test_a_finished_stream_refuses_more(codec):
    stream = codec.decode_stream()
    assert stream.finish().shape == (0,)
    with pytest.raises(RuntimeError, match="open a new one"):
        stream.push(torch.zeros(1, dtype=torch.long))
    with pytest.raises(RuntimeError, match="open a new one"):
        stream.finish()


def test_forward_encodes_and_decodes(codec, speechlike):
    output = codec(speechlike)
    assert torch.equal(output.audio_codes, codec.encode(speechlike))
    assert torch.equal(output.audio_values, codec.decode(output.audio_codes))


@pytest.mark.parametrize(
    "load", [load_codec, TtTTinyCodec.from_pretrained, AutoModelForAudioTokenization.from_pretrained]
)
def test_save_and_load(codec, speechlike, tmp_path, load):
    codec.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert isinstance(loaded, TtTTinyCodec)
    assert loaded.dtype == torch.float32
    assert not loaded.training
    codes = codec.encode(speechlike)
    assert torch.equal(loaded.encode(speechlike), codes)
    assert torch.equal(loaded.decode(codes), codec.decode(codes))
    assert isinstance(AutoConfig.from_pretrained(tmp_path), TtTTinyCodecConfig)


@pytest.mark.parametrize(
    ("waveform", "lengths", "message"),
    [
        (torch.zeros(1, 10, dtype=torch.long), None, "float tensor"),
        (torch.zeros(10), None, "shape"),
        (torch.zeros(1, 0), None, "empty"),
        (torch.zeros(0, 5), None, "empty"),
        (torch.zeros(2, 10), torch.tensor([10, 0]), "empty"),
        (torch.tensor([[0.0, float("nan")]]), None, "not finite"),
        (torch.zeros(2, 10), torch.tensor([10]), "lengths"),
        (torch.zeros(2, 10), torch.tensor([10, 11]), "lengths"),
    ],
)
def test_bad_waveforms_are_refused(codec, waveform, lengths, message):
    with pytest.raises(ValueError, match=message):
        codec.encode(waveform, lengths)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(1, 3), "integers"),
        (torch.zeros(1, 3, dtype=torch.bool), "integers"),
        (torch.zeros(3, dtype=torch.long), "shape"),
        (torch.tensor([[0, 4375]]), "between 0 and 4374"),
        (torch.tensor([[0, -1, 3]]), "between 0 and 4374"),
        (torch.tensor([[-2, 0, 3]]), "between 0 and 4374"),
    ],
)
def test_bad_codes_are_refused(codec, codes, message):
    with pytest.raises(ValueError, match=message):
        codec.decode(codes)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(3), "integers"),
        (torch.zeros(1, 3, dtype=torch.long), "shape"),
        (torch.tensor([-1]), "between 0 and 4374"),
    ],
)
def test_bad_codes_are_refused_by_a_stream(codec, codes, message):
    with pytest.raises(ValueError, match=message):
        codec.decode_stream().push(codes)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"fsq_levels": [8, 5]}, "odd"),
        ({"fsq_levels": []}, "odd"),
        ({"kernel_size": 4}, "kernel_size"),
        ({"n_fft": 200}, "n_fft"),
        ({"n_fft": 801}, "n_fft"),
    ],
)
def test_bad_configs_are_refused(overrides, message):
    with pytest.raises(Exception, match=message):
        small_config(**overrides)
