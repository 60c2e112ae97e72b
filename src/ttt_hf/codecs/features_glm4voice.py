"""Mel spectrogram of recordings, as the GLM-4-Voice decoder predicts it; used for voice prompts."""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.audio_utils import mel_filter_bank


N_FFT = 1024
MAX_FREQUENCY = 8000.0
MEL_FLOOR = 1e-5


def mel_spectrogram(waveform: Tensor, sampling_rate: int, hop_length: int, num_mel_bins: int) -> Tensor:
    """Logarithm of mel magnitudes (Kong et al., "HiFi-GAN", 2020).

    Args:
        waveform: Float of shape `(samples,)`.
        sampling_rate: Rate in Hz.
        hop_length: Samples between two frames.
        num_mel_bins: Mel bands between 0 and 8000 Hz.

    Returns:
        Float of shape `(samples // hop_length, num_mel_bins)`, at least one frame.
    """
    # Less than a hop still gives one frame.
    padded = F.pad(waveform, (0, max(0, hop_length - len(waveform))))
    # A frame's window is centred on its hop. Reflection padding needs more samples than it adds.
    margin = (N_FFT - hop_length) // 2
    mode = "reflect" if len(padded) > margin else "constant"
    padded = F.pad(padded[None], (margin, margin), mode=mode)
    window = torch.hann_window(N_FFT, device=waveform.device)
    # (n_fft // 2 + 1, frames)
    spectrum = torch.stft(padded, N_FFT, hop_length, window=window, center=False, return_complex=True)[0].abs()
    filters = mel_filter_bank(
        N_FFT // 2 + 1, num_mel_bins, 0.0, MAX_FREQUENCY, sampling_rate, norm="slaney", mel_scale="slaney"
    )
    bands = spectrum.T @ torch.from_numpy(filters).to(spectrum)
    return bands.clamp(min=MEL_FLOOR).log()
