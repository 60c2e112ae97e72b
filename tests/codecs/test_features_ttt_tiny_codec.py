"""Signal processing of the tiny codec against plain formulas."""

import math

import pytest
import torch

from ttt_hf.codecs.features_ttt_tiny_codec import log_mel, mel_filters, normalise_level, overlap_add


def tone(frequency, samples=16000, amplitude=1.0):
    return amplitude * torch.sin(2 * math.pi * frequency * torch.arange(samples) / 16000)


def test_mel_filters_average():
    filters = mel_filters(16000, 800, 80)
    assert filters.shape == (401, 80)
    assert (filters >= 0).all()
    assert torch.allclose(filters.sum(0), torch.ones(80))
    assert filters.argmax(0).diff().min() >= 1


@pytest.mark.parametrize("frequency", [220.0, 1000.0, 5000.0])
def test_a_tone_shows_in_its_band(frequency):
    mel = log_mel(tone(frequency)[None], 16000, 800, 320, 80, 1e-5)
    assert mel.shape == (1, 50, 80)
    expected = 2595 * math.log10(1 + frequency / 700) / (2595 * math.log10(1 + 8000 / 700)) * 81 - 1
    assert abs(int(mel[0, 25].argmax()) - expected) <= 1


def test_silence_is_at_the_floor():
    mel = log_mel(torch.zeros(1, 640), 16000, 800, 320, 80, 1e-5)
    assert torch.allclose(mel, torch.full((1, 2, 80), math.log(1e-5)))


def test_level_ignores_silence_around():
    sound = tone(300, 3200, 0.02)
    padded = torch.cat([torch.zeros(6400), sound, torch.zeros(3200)])
    alone = normalise_level(sound, 0.1, 1e-3, 320)
    assert abs(alone.square().mean().sqrt() - 0.1) < 1e-3
    assert torch.allclose(normalise_level(padded, 0.1, 1e-3, 320)[6400:9600], alone, atol=1e-4)


def test_level_of_silence_stays():
    assert torch.equal(normalise_level(torch.zeros(7), 0.1, 1e-3, 320), torch.zeros(7))
    assert normalise_level(torch.full((640,), 1e-5), 0.1, 1e-3, 320).max() <= 1.1e-3


def test_overlap_add_inverts_the_transform():
    signal = torch.randn(2, 3200, generator=torch.Generator().manual_seed(0))
    frames = torch.nn.functional.pad(signal, (240, 240)).unfold(-1, 800, 320)
    spectrum = torch.fft.rfft(frames * torch.hann_window(800))
    assert torch.allclose(overlap_add(spectrum, 800, 320), signal, atol=1e-4)
