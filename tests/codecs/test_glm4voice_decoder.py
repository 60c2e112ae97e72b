"""The GLM-4-Voice decoder against tensors of the original: flow, vocoder, noise, voices."""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForAudioTokenization

from published_glm4voice import golden_case, golden_codec
from ttt_hf.codecs import (
    Glm4VoiceCodec,
    Glm4VoiceCodecConfig,
    Glm4VoiceDecoder,
    Glm4VoiceDecoderConfig,
    Glm4VoiceVoice,
    load_codec,
    output_sampling_rate,
)
from ttt_hf.codecs.features_glm4voice import mel_spectrogram


@pytest.fixture(scope="module")
def codec():
    return golden_codec()


@pytest.fixture(autouse=True)
def _no_gradient():
    with torch.no_grad():
        yield


def difference(found, expected):
    assert found.shape == expected.shape
    return (found - expected).abs().max()


def random_codes(*shape):
    return torch.randint(0, 64, shape, generator=torch.Generator().manual_seed(1))


# -- the original ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["n1", "n11_odd", "n6_p5_nomel", "n8_p7_m48_spk"])
def test_flow_is_that_of_the_original(codec, case):
    flow, golden = codec.decoder.flow, golden_case("flow/cases.safetensors", case)
    codes = torch.cat([golden["prompt_token"], golden["token"]], dim=1)
    known = golden["prompt_mel"].transpose(1, 2)
    assert codec.config.decoder_config.num_frames(codes.shape[1]) == golden["z"].shape[2]
    assert difference(flow.encoder(flow.input_embedding(codes)), golden["encoder_out"]) <= 1e-5
    assert difference(flow.mean(codes), golden["mu"]) <= 1e-5
    mel = flow(codes, golden["z"], known, golden["embedding"])
    assert difference(mel[..., known.shape[2] :], golden["mel"]) <= 1e-5


@pytest.mark.parametrize("case", ["est_L7_B1", "est_L8_B1", "est_L21_B2"])
def test_estimator_is_that_of_the_original(codec, case):
    golden = golden_case("flow/cases.safetensors", case)
    inputs = [golden[name] for name in ("x", "mu", "spk", "cond")]
    time = golden["t"].expand(len(golden["x"]))
    assert difference(codec.decoder.flow.estimator(*inputs, time), golden["out"]) <= 1e-5


@pytest.mark.parametrize("case", ["plain12", "cache12", "full_source9", "loud5", "plain30"])
def test_vocoder_is_that_of_the_original(codec, case):
    vocoder, golden = codec.decoder.vocoder, golden_case("hift/cases.safetensors", case)
    # The original's own rounding is 3e-5 Hz of 58 Hz here, measured against float64.
    assert difference(vocoder.f0_predictor(golden["mel"]), golden["f0"]) <= 1e-5 * golden["f0"].max()
    assert difference(vocoder(golden["mel"], golden["source"]), golden["wav"]) <= 1e-5


def test_source_is_that_of_the_original(codec):
    vocoder, golden = codec.decoder.vocoder, golden_case("hift/cases.safetensors", "plain12")
    cycles = vocoder.cycles(golden["f0"], torch.zeros(1, 1, dtype=torch.float64))
    source = vocoder.source(golden["f0"], cycles, golden["phase_offset"], golden["noise"])
    assert difference(source, golden["source"]) <= 1e-5


def test_all_of_the_vocoder_at_once_is_close_to_the_original(codec):
    vocoder, golden = codec.decoder.vocoder, golden_case("hift/cases.safetensors", "plain12")
    pitch = vocoder.f0_predictor(golden["mel"])
    cycles = vocoder.cycles(pitch, torch.zeros(1, 1, dtype=torch.float64))
    source = vocoder.source(pitch, cycles, golden["phase_offset"], golden["noise"])
    assert difference(vocoder(golden["mel"], source), golden["wav"]) <= 1e-3


def test_phase_is_exact_after_a_minute(codec):
    """A float32 sum, as in the original, would be off by whole turns of the highest harmonic."""
    frames = 60 * 22050 // 256
    cycles = codec.decoder.vocoder.cycles(torch.full((1, frames), 220.5), torch.zeros(1, 1, dtype=torch.float64))
    assert abs(float(cycles[0, -1]) - frames * 256 * float(torch.tensor(220.5 / 22050))) < 1e-4


@pytest.mark.parametrize("codes", [1, 64, 3392, 3776])
def test_number_of_frames_is_exact(codes):
    """In float32, as in the original, the last two are a frame short."""
    assert Glm4VoiceDecoderConfig().num_frames(codes) == codes * 22050 * 2 // (25 * 256)


# -- decoding --------------------------------------------------------------------------------------------------------


def test_config_tells_the_rates_apart(codec):
    config = codec.config
    assert (config.sampling_rate, config.output_sampling_rate, config.frame_rate) == (16000, 22050, 12.5)
    assert (output_sampling_rate(config), config.codebook_size) == (22050, 64)
    assert Glm4VoiceCodecConfig().codebook_size == 16384


def test_a_row_sounds_the_same_alone_and_in_a_ragged_batch(codec):
    codes = random_codes(3, 12)
    codes[1, 7:] = -1
    codes[2, 1:] = -1
    batch = codec.decode(codes)
    assert batch.shape == (3, 82 * 256)
    assert batch.dtype == torch.float32
    assert 0.05 < batch.abs().max() <= 1
    for row, length in enumerate((12, 7, 1)):
        alone = codec.decode(codes[row : row + 1, :length])[0]
        assert torch.equal(batch[row, : len(alone)], alone)
        assert (batch[row, len(alone) :] == 0).all()
    assert torch.equal(codec.decode(codes.clamp(min=0), torch.tensor([12, 7, 1])), batch)


def test_noise_is_the_codecs_own(codec):
    codes = random_codes(1, 3)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = codec.decode(codes)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert torch.equal(codec.decode(codes), first)


def test_a_voice_changes_the_sound_and_is_not_heard_itself(codec):
    golden = golden_case("flow/cases.safetensors", "n8_p7_m48_spk")
    voice = Glm4VoiceVoice(golden["prompt_token"][0], golden["prompt_mel"][0], golden["embedding"][0])
    codes = golden["token"]
    plain, spoken = codec.decode(codes), codec.decode(codes, voice=voice)
    assert spoken.shape == (1, golden["mel"].shape[2] * 256) == (1, 55 * 256)
    assert plain.shape == spoken.shape
    assert difference(plain, spoken) > 0.01
    other = copy.copy(codec)
    other.voice = voice
    assert torch.equal(other.decode(codes), spoken)
    assert torch.equal(other.decode_stream().push(codes[0]), codec.decode_stream(voice).push(codes[0]))


def test_decoding_with_a_voice_is_the_flow_behind_it(codec):
    golden = golden_case("flow/cases.safetensors", "n8_p7_m48_spk")
    voice = Glm4VoiceVoice(golden["prompt_token"][0], golden["prompt_mel"][0], golden["embedding"][0])
    stream = codec.decode_stream(voice)
    stream.take(golden["token"][0])
    stream._mel_noise = golden["z"][0].T  # the noise of the original in the place of the stream's own
    stream.finish()
    assert difference(stream._mel[:, 48:], golden["mel"][0]) <= 1e-5


def test_a_recording_makes_a_voice(codec):
    seconds = torch.arange(22050) / 22050
    waveform = 0.3 * torch.sin(2 * torch.pi * 1000 * seconds)
    voice = codec.make_voice(waveform[:16000], waveform)
    assert voice.codes.shape == (13,)
    assert voice.mel.shape == (86, 80)
    assert abs(int(voice.mel[40].argmax()) - 26) <= 1  # the band of 1000 Hz
    assert codec.decode(random_codes(1, 10), voice=voice).shape[1] > 60 * 256


def test_mel_spectrogram_of_silence_and_of_a_sample():
    assert torch.allclose(mel_spectrogram(torch.zeros(1024), 22050, 256, 80), torch.tensor(1e-5).log())
    assert mel_spectrogram(torch.ones(1), 22050, 256, 80).shape == (1, 80)


# -- loading and precision -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "load", [load_codec, Glm4VoiceCodec.from_pretrained, AutoModelForAudioTokenization.from_pretrained]
)
def test_save_and_load(codec, tmp_path, load):
    codec.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert isinstance(loaded, Glm4VoiceCodec)
    assert not loaded.training
    assert isinstance(AutoConfig.from_pretrained(tmp_path), Glm4VoiceCodecConfig)
    codes = random_codes(1, 2)
    assert torch.equal(loaded.decode(codes), codec.decode(codes))


def test_decoder_saves_and_loads_by_itself(codec, tmp_path):
    codec.decoder.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(loaded, Glm4VoiceDecoder)
    codes = random_codes(2)
    assert torch.equal(loaded(codes), codec.decoder(codes))


def test_half_precision_leaves_the_vocoder_alone(codec, tmp_path):
    codec.save_pretrained(tmp_path)
    half = load_codec(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.decoder.vocoder.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in half.decoder.flow.parameters()} == {torch.bfloat16}
    waveform = half.decode(random_codes(1, 3))
    assert waveform.dtype == torch.float32
    assert waveform.isfinite().all() and waveform.abs().max() > 0.01
    noise = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    assert (half.encode(noise) == codec.encode(noise)).float().mean() > 0.5


@pytest.mark.slow
def test_compiles_without_breaks(codec):
    golden = golden_case("flow/cases.safetensors", "est_L8_B1")
    inputs = [golden[name] for name in ("x", "mu", "spk", "cond", "t")]
    compiled = torch.compile(codec.decoder.flow.estimator, backend="eager", fullgraph=True)
    assert difference(compiled(*inputs), golden["out"]) <= 1e-5
    golden = golden_case("encoder/wave128.cases.safetensors", "n1281")
    compiled = torch.compile(codec.tokenizer, backend="eager", fullgraph=True)
    output = compiled(golden["input_features"], golden["attention_mask"])
    assert torch.equal(output.audio_codes[0], golden["tokens.0"])
    golden = golden_case("hift/cases.safetensors", "loud5")
    compiled = torch.compile(codec.decoder.vocoder, backend="eager", fullgraph=True)
    assert difference(compiled(golden["mel"], golden["source"]), golden["wav"]) <= 1e-5


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(1, 0, dtype=torch.long), "no codes to decode"),
        (torch.zeros(1, 3), "integers"),
        (torch.zeros(3, dtype=torch.long), "shape"),
        (torch.tensor([[0, 64]]), "between 0 and 63.*another codec"),
        (torch.tensor([[0, -1, 3]]), "between 0 and 63"),
    ],
)
def test_bad_codes_are_refused(codec, codes, message):
    with pytest.raises(ValueError, match=message):
        codec.decode(codes)


def test_codes_of_the_full_size_end_at_16384():
    with torch.device("meta"):
        codec = Glm4VoiceCodec(Glm4VoiceCodecConfig())
    with pytest.raises(ValueError, match="between 0 and 16383, but these lie between 5 and 16384"):
        codec.decode(torch.tensor([[5, 16384]]))


@pytest.mark.parametrize(
    ("voice", "message"),
    [
        (Glm4VoiceVoice(codes=torch.tensor([64])), "between 0 and 63"),
        (Glm4VoiceVoice(codes=torch.zeros(1, 1, dtype=torch.long)), "codes of a voice"),
        (Glm4VoiceVoice(mel=torch.zeros(80, 3)), "shape"),
        (Glm4VoiceVoice(codes=torch.tensor([1]), mel=torch.zeros(7, 80)), "1 codes are 6 frames, not 7"),
        (Glm4VoiceVoice(speaker=torch.zeros(191)), r"\(192,\)"),
    ],
)
def test_bad_voices_are_refused(codec, voice, message):
    with pytest.raises(ValueError, match=message):
        codec.decode(torch.tensor([[1]]), voice=voice)


def test_parts_of_different_codecs_are_refused():
    with pytest.raises(Exception, match="16384 codes and the decoder 64"):
        Glm4VoiceCodecConfig(decoder_config={"codebook_size": 64})
