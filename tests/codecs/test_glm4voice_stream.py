"""Streaming decode of the GLM-4-Voice codec: lengths, equality with decoding at once, the original's defects."""

import copy

import pytest
import torch

from published_glm4voice import golden_codec, golden_json
from ttt_hf.codecs.modeling_glm4voice_decoder import _blend


HOP = 256
STREAMS = golden_json("streaming/streaming.json")


@pytest.fixture(scope="module")
def codec():
    return golden_codec()


@pytest.fixture(scope="module")
def hasty(codec):
    """The codec with a single step of the flow: lengths are the same."""
    hasty = copy.deepcopy(codec)
    hasty.decoder.config.num_steps = 1
    return hasty


def random_codes(count):
    return torch.randint(0, 64, (count,), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", STREAMS["streams"])
def test_lengths_are_those_of_the_original_without_its_defects(hasty, name):
    golden = STREAMS["streams"][name]
    stream, lengths = hasty.decode_stream(), []
    pieces = random_codes(sum(golden["blocks"])).split(golden["blocks"])
    for number, piece in enumerate(pieces, start=1):
        lengths.append(len(stream.push(piece)))
        if number == len(pieces) and golden["finalized"]:
            lengths[-1] += len(stream.finish())
    assert lengths == golden["defect_free_samples_per_chunk"]
    if golden["finalized"]:
        assert sum(lengths) == golden["total_samples_for_all_tokens"]


@pytest.mark.parametrize("count", [1, 10, 25, 110])
def test_lengths_at_once(hasty, count):
    assert hasty.decode(random_codes(count)[None]).shape == (1, STREAMS["offline_samples"][str(count)])


def test_first_audio_after_ten_codes(hasty):
    stream = hasty.decode_stream()
    lengths = [len(stream.push(code)) for code in random_codes(21).split(1)]
    assert [index for index, length in enumerate(lengths, start=1) if length] == [10, 20]
    assert sum(lengths) + len(stream.finish()) == hasty.decoder.config.num_frames(21) * HOP


def test_one_piece_equals_decoding_at_once(codec):
    codes = random_codes(12)
    stream = codec.decode_stream()
    streamed, whole = torch.cat([stream.push(codes), stream.finish()]), codec.decode(codes[None])[0]
    assert whole.std() > 0.05
    assert (streamed - whole).abs().max() <= 1e-4


def test_pieces_differ_from_one_waveform_at_the_overlaps_only(codec):
    """The waveform of all frames at once, made from the spectrogram that the stream predicted."""
    blocks = [10, 10, 10, 7]
    stream = codec.decode_stream()
    pieces = [stream.push(part) for part in random_codes(sum(blocks)).split(blocks)]
    pieces = [*pieces[:-1], stream.finish()]
    streamed = torch.cat(pieces)
    reference = codec.decode_stream()
    reference._mel = stream._mel
    with torch.no_grad():
        whole = reference._vocode(stream._mel.shape[1])
    frames = (streamed - whole).abs().unflatten(0, (-1, HOP)).amax(1)
    ends = torch.tensor([len(piece) for piece in pieces]).cumsum(0)[:-1] // HOP
    # Before a seam lie frames that saw what was blended later; at it, one frame is blended itself.
    near = ((torch.arange(len(frames))[:, None] >= ends - 8) & (torch.arange(len(frames))[:, None] <= ends)).any(1)
    assert frames[~near].max() <= 3e-4  # a sum of phases: rounding alone may make 2e-4
    assert whole.std() > 0.05
    assert frames[near].max() <= 0.01


def test_phase_goes_on_across_pieces(codec):
    """A stream that forgot its phase would differ from one waveform everywhere behind the first seam."""
    codes = random_codes(20)
    stream = codec.decode_stream()
    first = stream.push(codes[:10])
    cycles = float(stream._cycles)
    with torch.no_grad():
        pitch = codec.decoder.vocoder.f0_predictor(stream._mel[None])[0, : len(first) // HOP]
    assert abs(cycles - float((pitch * HOP / 22050).sum())) < 1e-3
    stream.push(codes[10:])
    assert float(stream._cycles) > cycles


def test_frames_have_the_same_noise_however_codes_are_cut(hasty):
    codes = random_codes(40)
    noises = []
    for sizes in ([40], [10, 30], [13, 14, 13]):
        stream = hasty.decode_stream()
        for part in codes.split(sizes):
            stream.push(part)
        noises.append(stream._mel_noise)
    assert torch.equal(noises[0], noises[1])
    assert torch.equal(noises[0], noises[2])


def test_spectrogram_given_out_stays(codec):
    codes = random_codes(20)
    stream = codec.decode_stream()
    stream.push(codes[:10])
    certain, before = stream._known, stream._mel
    stream.push(codes[10:])
    assert torch.equal(stream._mel[:, :certain], before[:, :certain])
    assert not torch.equal(stream._mel[:, certain : before.shape[1]], before[:, certain:])


def test_blending_equal_values_changes_nothing():
    values = torch.full((2, 34), -5.0)
    assert torch.equal(_blend(values, values, unchanged=5), values)
    weights = _blend(torch.zeros(34), torch.ones(34), unchanged=5)
    assert (weights[:5] < 1e-2).all() and (weights.diff() >= 0).all() and weights[-1] > 0.99


def test_old_codes_are_dropped_and_lengths_stay(hasty):
    codes = random_codes(350)
    stream = hasty.decode_stream()
    samples = sum(len(stream.push(part)) for part in codes.split([300, 25, 25]))
    assert len(stream._codes) == 350 - 64
    samples += len(stream.finish())
    assert samples == hasty.decoder.config.num_frames(350) * HOP


def test_stream_leaves_the_random_state_alone(hasty):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    stream = hasty.decode_stream()
    stream.push(random_codes(10))
    stream.finish()
    assert torch.equal(torch.get_rng_state(), state)


def test_stream_of_nothing_is_empty(codec):
    stream = codec.decode_stream()
    assert stream.push(torch.zeros(0, dtype=torch.long)).shape == (0,)
    assert stream.finish().shape == (0,)


def test_a_finished_stream_refuses_more(codec):
    stream = codec.decode_stream()
    stream.finish()
    with pytest.raises(RuntimeError, match="open a new one"):
        stream.push(torch.zeros(1, dtype=torch.long))
    with pytest.raises(RuntimeError, match="open a new one"):
        stream.finish()


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(3), "integers"),
        (torch.zeros(1, 3, dtype=torch.long), "shape"),
        (torch.tensor([64]), "between 0 and 63"),
    ],
)
def test_bad_codes_are_refused_by_a_stream(codec, codes, message):
    with pytest.raises(ValueError, match=message):
        codec.decode_stream().push(codes)
