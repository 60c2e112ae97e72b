"""Losses of the tiny codec: distances of spectrograms and waveforms, spread of the quantizer's inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from ttt_hf.codecs import TtTTinyCodec


def mel_distance(mel: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """L1 distance of log-mel frames and of their slopes over time and frequency.

    Args:
        mel: Decoded frames, shape `(batch, frames, bins)`.
        target: Frames of the recording, same shape.
        weight: Weight of each frame, zero outside of clips, shape `(batch, frames, 1)`.

    Returns:
        Scalar.
    """
    # A weighted mean, so that a batch with much padding does not have a smaller loss.
    error = (mel - target) * weight
    count = weight.sum() * mel.shape[-1]
    slopes = error.diff(dim=1).abs().sum() + error.diff(dim=2).abs().sum()
    return (error.abs().sum() + 0.5 * slopes) / count


def spread_distance(values: Tensor) -> Tensor:
    """Distance of the quantizer's inputs from mean 0, even spread and independent dimensions.

    Without it, dimensions saturate early in training, where they have no gradient.

    Args:
        values: Inputs in [-1, 1], shape `(count, dimensions)`.

    Returns:
        Scalar.
    """
    mean = values.mean(0)
    centred = values - mean
    # (dimensions, dimensions)
    covariance = centred.T @ centred / len(values)
    # The variance of five evenly used levels -1, -0.5, ..., 1 is 0.5, of seven levels 0.44.
    wanted = 0.45 * torch.eye(len(mean), device=values.device)
    return mean.square().sum() + (covariance - wanted).square().sum()


def waveform_distance(waveform: Tensor, target: Tensor, codec: TtTTinyCodec) -> tuple[Tensor, dict[str, Tensor]]:
    """Multi-resolution spectral loss plus mel loss between waveforms.

    Args:
        waveform: Decoded samples, shape `(batch, samples)`.
        target: The recordings, same shape.
        codec: Computes mel spectrograms.

    Returns:
        The loss, and its parts for the log.
    """
    spectral = waveform.new_zeros(())
    # At 16 kHz windows of 64, 32 and 16 ms: long ones resolve pitch, short ones the onset of consonants.
    for n_fft, hop in ((1024, 240), (512, 120), (256, 60)):
        window = torch.hann_window(n_fft, device=waveform.device)
        both = torch.stft(torch.cat([waveform, target]), n_fft, hop, window=window, return_complex=True)
        # Magnitudes, (batch, bins, frames) each. Clamped, because the gradient of a square root is infinite at zero.
        predicted, expected = torch.view_as_real(both).square().sum(-1).clamp(min=1e-6).sqrt().chunk(2)
        # The relative error follows the loud parts, the logarithmic one quiet parts as well, down to its offset.
        convergence = (predicted - expected).abs().mean() / expected.mean()
        logarithmic = ((predicted + 1e-2).log() - (expected + 1e-2).log()).abs().mean()
        spectral = spectral + convergence + logarithmic
    mel = (codec.mel(waveform) - codec.mel(target)).abs().mean()
    return spectral + 3.0 * mel, {"spectral": spectral.detach(), "mel": mel.detach()}
