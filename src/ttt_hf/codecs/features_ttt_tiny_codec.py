"""Signal processing of the tiny codec: level, log-mel spectrogram, overlap-add. Pure functions without weights."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


@lru_cache(maxsize=8)
def mel_filters(sampling_rate: int, n_fft: int, num_mel_bins: int) -> Tensor:
    """Triangular filters, equally spaced on the mel scale m = 2595 log10(1 + f / 700) from 0 Hz to half the rate.

    Args:
        sampling_rate: Rate in Hz.
        n_fft: Samples in the window.
        num_mel_bins: Number of filters.

    Returns:
        Float of shape `(n_fft // 2 + 1, num_mel_bins)`; the weights of each filter sum to one, so that it averages
        magnitudes.
    """
    highest = 2595.0 * torch.log10(torch.tensor(1.0 + sampling_rate / 2 / 700.0, dtype=torch.float64))
    mels = torch.linspace(0.0, float(highest), num_mel_bins + 2, dtype=torch.float64)
    corners = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    frequencies = torch.linspace(0.0, sampling_rate / 2, n_fft // 2 + 1, dtype=torch.float64)[:, None]
    # The narrowest filters are widened to one bin of the spectrum, so that none is empty.
    bin_width = sampling_rate / n_fft
    rising = (corners[1:-1] - corners[:-2]).clamp(min=bin_width)
    falling = (corners[2:] - corners[1:-1]).clamp(min=bin_width)
    # Each filter rises to 1 at its centre and falls again: (n_fft // 2 + 1, num_mel_bins).
    weights = torch.minimum(
        1 - (corners[1:-1] - frequencies) / rising, 1 - (frequencies - corners[1:-1]) / falling
    ).clamp(min=0.0)
    return (weights / weights.sum(0, keepdim=True)).float()


def normalise_level(waveform: Tensor, reference_level: float, minimum_level: float, frame_length: int) -> Tensor:
    """Scales one waveform so that its active part has the reference level.

    The active part are the frames within 20 dB of the loudest one, so leading and trailing silence have no effect.

    Args:
        waveform: Float of shape `(samples,)`.
        reference_level: Root mean square of the result's active part.
        minimum_level: Lower bound on the measured level.
        frame_length: Samples per frame.

    Returns:
        Float of shape `(samples,)`.
    """
    padded = F.pad(waveform, (0, -waveform.shape[-1] % frame_length))
    power = padded.reshape(-1, frame_length).square().mean(-1)
    # A hundredth of the power is 20 dB less.
    level = power[power >= 0.01 * power.max()].mean().sqrt()
    return waveform * (reference_level / level.clamp(min=minimum_level))


def log_mel(
    waveform: Tensor, sampling_rate: int, n_fft: int, hop_length: int, num_mel_bins: int, floor: float
) -> Tensor:
    """Log-mel magnitudes of frames whose centres lie in the middle of each hop.

    Args:
        waveform: Float of shape `(batch, samples)`, samples a multiple of `hop_length`.
        sampling_rate: Rate in Hz.
        n_fft: Samples in the Hann window.
        hop_length: Samples between frames.
        num_mel_bins: Mel bands.
        floor: Smallest magnitude; a full-scale sine has magnitude one.

    Returns:
        Float of shape `(batch, samples / hop_length, num_mel_bins)`, natural logarithm.
    """
    # With this margin a frame's window is centred on its hop, and there are exactly samples / hop_length frames.
    margin = (n_fft - hop_length) // 2
    window = torch.hann_window(n_fft, device=waveform.device, dtype=waveform.dtype)
    frames = F.pad(waveform, (margin, margin)).unfold(-1, n_fft, hop_length)
    # A sine of amplitude one has a peak of half the window's sum, hence the factor of two.
    magnitude = torch.fft.rfft(frames * (window * (2.0 / window.sum()))).abs()
    filters = mel_filters(sampling_rate, n_fft, num_mel_bins).to(waveform)
    return (magnitude @ filters).clamp(min=floor).log()


def overlap_add(spectrum: Tensor, n_fft: int, hop_length: int) -> Tensor:
    """Inverse short-time Fourier transform with a Hann window, for frames centred in the middle of each hop.

    Args:
        spectrum: Complex of shape `(batch, frames, n_fft // 2 + 1)`.
        n_fft: Samples in the window.
        hop_length: Samples between frames.

    Returns:
        Float of shape `(batch, frames * hop_length)`.
    """
    window = torch.hann_window(n_fft, device=spectrum.device, dtype=spectrum.real.dtype)
    # (batch, frames, n_fft)
    frames = torch.fft.irfft(spectrum, n=n_fft) * window
    length = frames.shape[1] * hop_length
    margin = (n_fft - hop_length) // 2

    def fold(values: Tensor) -> Tensor:
        # `fold` sums overlapping columns: (batch, n_fft, frames) to (batch, 1, 1, size).
        size = (1, length + 2 * margin)
        folded = F.fold(values.transpose(1, 2), size, kernel_size=(1, n_fft), stride=(1, hop_length))
        return folded.flatten(1)[:, margin : margin + length]

    # Overlapping squared windows do not sum to one at the edges, so the sum is divided out. Its lower
    # bound is for windows that hardly overlap, whose ends are almost zero.
    envelope = fold(window.square().expand(1, frames.shape[1], n_fft))
    return fold(frames) / envelope.clamp(min=1e-3)
