"""Losses of the tiny codec, pure functions: distances of spectrograms and waveforms, spread of the quantiser."""

from __future__ import annotations

import torch
from torch import Tensor

from ttt_hf.codecs import TtTTinyCodec


def mel_distance(mel: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """L1 distance of log-mel frames and of their slopes over time and frequency, scalar.

    Args:
        mel: float (batch, frames, bins).
        target: float (batch, frames, bins).
        weight: float (batch, frames, 1), zero where nothing is compared.
    """
    error = (mel - target) * weight
    count = weight.sum() * mel.shape[-1]
    slopes = error.diff(dim=1).abs().sum() + error.diff(dim=2).abs().sum()
    return (error.abs().sum() + 0.5 * slopes) / count


def spread_distance(values: Tensor) -> Tensor:
    """How far quantiser inputs are from being spread evenly and independently over their dimensions, scalar.

    Without it, dimensions saturate early in training, and then have no gradient that would bring them back.

    Args:
        values: float (count, dimensions) in [-1, 1].
    """
    mean = values.mean(0)
    centred = values - mean
    covariance = centred.T @ centred / len(values)
    # Evenly used levels -1, -0.5, ..., 1 have the variance 0.5, seven levels 0.44.
    wanted = 0.45 * torch.eye(len(mean), device=values.device)
    return mean.square().sum() + (covariance - wanted).square().sum()


def waveform_distance(waveform: Tensor, target: Tensor, codec: TtTTinyCodec) -> tuple[Tensor, dict[str, Tensor]]:
    """Multi-resolution spectral loss and mel loss between waveforms float (batch, samples); loss and its parts."""
    spectral = waveform.new_zeros(())
    for n_fft, hop in ((1024, 240), (512, 120), (256, 60)):
        window = torch.hann_window(n_fft, device=waveform.device)
        both = torch.stft(torch.cat([waveform, target]), n_fft, hop, window=window, return_complex=True)
        predicted, expected = torch.view_as_real(both).square().sum(-1).clamp(min=1e-6).sqrt().chunk(2)
        convergence = (predicted - expected).abs().mean() / expected.mean()
        logarithmic = ((predicted + 1e-2).log() - (expected + 1e-2).log()).abs().mean()
        spectral = spectral + convergence + logarithmic
    mel = (codec.mel(waveform) - codec.mel(target)).abs().mean()
    return spectral + 3.0 * mel, {"spectral": spectral.detach(), "mel": mel.detach()}
