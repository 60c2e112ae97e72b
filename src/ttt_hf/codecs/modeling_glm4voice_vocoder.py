"""The vocoder of the GLM-4-Voice decoder: mel spectrogram to waveform, by a harmonic source and an inverse transform.

Source: Li et al., "HiFTNet: A Fast High-Quality Neural Vocoder with Harmonic-plus-Noise Filter and Inverse Short Time
Fourier Transform", 2023.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_glm4voice import Glm4VoiceDecoderConfig


PITCH_LAYERS = 5
# Slope of the last rectifier, and largest magnitude of a frequency bin: fixed in the published model.
LAST_SLOPE = 0.01
MAX_MAGNITUDE = 100.0


class Glm4VoiceSnake(nn.Module):
    """x + sin(alpha x)^2 / alpha (Ziyin et al., "Neural networks fail to learn periodic functions", 2020)."""

    def __init__(self, size: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(size))

    def forward(self, hidden: Tensor) -> Tensor:
        """float (batch, size, frames) -> the same shape."""
        alpha = self.alpha[:, None]
        return hidden + (alpha * hidden).sin().square() / (alpha + 1e-9)


class Glm4VoiceDilatedBlock(nn.Module):
    """Residual pairs of convolutions, the first of each pair dilated."""

    def __init__(self, size: int, kernel_size: int, dilations: Sequence[int]):
        super().__init__()
        self.convs1 = nn.ModuleList(
            nn.Conv1d(size, size, kernel_size, dilation=dilation, padding=dilation * (kernel_size - 1) // 2)
            for dilation in dilations
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(size, size, kernel_size, padding=kernel_size // 2) for _ in dilations)
        self.activations1 = nn.ModuleList(Glm4VoiceSnake(size) for _ in dilations)
        self.activations2 = nn.ModuleList(Glm4VoiceSnake(size) for _ in dilations)

    def forward(self, hidden: Tensor) -> Tensor:
        """float (batch, size, frames) -> the same shape."""
        for first, second, conv1, conv2 in zip(self.activations1, self.activations2, self.convs1, self.convs2):
            hidden = hidden + conv2(second(conv1(first(hidden))))
        return hidden


class Glm4VoicePitch(nn.Module):
    """Predicts the fundamental frequency."""

    def __init__(self, config: Glm4VoiceDecoderConfig):
        super().__init__()
        modules: list[nn.Module] = []
        for layer in range(PITCH_LAYERS):
            size = config.pitch_channels if layer else config.num_mel_bins
            modules += [nn.Conv1d(size, config.pitch_channels, 3, padding=1), nn.ELU()]
        self.condnet = nn.Sequential(*modules)
        self.classifier = nn.Linear(config.pitch_channels, 1)

    def forward(self, mel: Tensor) -> Tensor:
        """float (batch, bins, frames) -> float (batch, frames), in Hz."""
        return self.classifier(self.condnet(mel).transpose(1, 2))[..., 0].abs()


class Glm4VoiceVocoder(nn.Module):
    """Mel spectrogram -> waveform, in float32. It draws no random numbers: phases and noise are given.

    Args:
        config: settings of the decoder.
    """

    def __init__(self, config: Glm4VoiceDecoderConfig):
        super().__init__()
        self.config = config
        spectrum, size, rates = config.n_fft + 2, config.vocoder_channels, config.upsample_rates
        self.f0_predictor = Glm4VoicePitch(config)
        self.source_linear = nn.Linear(config.num_harmonics + 1, 1)
        self.conv_pre = nn.Conv1d(config.num_mel_bins, size, 7, padding=3)
        self.ups, self.source_downs, self.source_resblocks, self.resblocks = (nn.ModuleList() for _ in range(4))
        for stage, (rate, kernel_size) in enumerate(zip(rates, config.upsample_kernel_sizes)):
            padding = (kernel_size - rate) // 2
            self.ups.append(nn.ConvTranspose1d(size, size // 2, kernel_size, rate, padding))
            size //= 2
            # Frames of the source's spectrum in one frame of this stage.
            step = math.prod(rates[stage + 1 :])
            self.source_downs.append(
                nn.Conv1d(spectrum, size, 1) if step == 1 else nn.Conv1d(spectrum, size, 2 * step, step, step // 2)
            )
            self.source_resblocks.append(
                Glm4VoiceDilatedBlock(
                    size, config.source_resblock_kernel_sizes[stage], config.source_resblock_dilations[stage]
                )
            )
            for width, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilations):
                self.resblocks.append(Glm4VoiceDilatedBlock(size, width, dilations))
        self.conv_post = nn.Conv1d(size, spectrum, 7, padding=3)

    def cycles(self, pitch: Tensor, start: Tensor) -> Tensor:
        """Periods of the fundamental since the beginning, at each sample.

        Args:
            pitch: float32 (batch, frames) in Hz.
            start: float64 (batch, 1), periods before the first sample.

        Returns:
            float64 (batch, samples); in float32 a long sum would lose the phase.
        """
        samples = self.config.samples_per_frame
        return start + (pitch / self.config.sampling_rate).double().repeat_interleave(samples, dim=1).cumsum(1)

    def source(self, pitch: Tensor, cycles: Tensor, phases: Tensor, noise: Tensor) -> Tensor:
        """The sound of the vocal folds: harmonics where there is voice, noise elsewhere.

        Args:
            pitch: float32 (batch, frames) in Hz.
            cycles: float64 (batch, samples), as of `cycles`.
            phases: float32 (batch, harmonics, 1) in radians, where each harmonic begins; the first is the fundamental.
            noise: float32 (batch, harmonics, samples), standard normal.

        Returns:
            float32 (batch, 1, samples).
        """
        config = self.config
        harmonics = torch.arange(1, config.num_harmonics + 2, device=pitch.device)
        turns = (cycles[:, None] * harmonics[:, None]).frac().float()
        waves = config.source_amplitude * torch.sin(2 * torch.pi * turns + phases)
        voiced = (pitch > config.voiced_threshold).repeat_interleave(config.samples_per_frame, dim=1)[:, None]
        level = torch.where(voiced, config.source_noise, config.source_amplitude / 3)
        mixed = waves * voiced + level * noise
        return torch.tanh(self.source_linear(mixed.transpose(1, 2))).transpose(1, 2)

    def forward(self, mel: Tensor, source: Tensor) -> Tensor:
        """Filters the source.

        Args:
            mel: float32 (batch, bins, frames).
            source: float32 (batch, 1, samples).

        Returns:
            float32 (batch, samples), within the audio limit.
        """
        config = self.config
        window = torch.hann_window(config.n_fft, device=mel.device)
        transform = torch.stft(
            source[:, 0], config.n_fft, config.hop_length, window=window, pad_mode="reflect", return_complex=True
        )
        spectrum = torch.cat([transform.real, transform.imag], dim=1)
        parallel = len(config.resblock_kernel_sizes)
        hidden = self.conv_pre(mel)
        for stage, upsample in enumerate(self.ups):
            hidden = upsample(F.leaky_relu(hidden, config.leaky_slope))
            if stage == len(self.ups) - 1:
                hidden = F.pad(hidden, (1, 0), mode="reflect")  # the transform has one frame more
            hidden = hidden + self.source_resblocks[stage](self.source_downs[stage](spectrum))
            blocks = self.resblocks[stage * parallel : (stage + 1) * parallel]
            hidden = sum(block(hidden) for block in blocks) / parallel
        magnitude, phase = self.conv_post(F.leaky_relu(hidden, LAST_SLOPE)).chunk(2, dim=1)
        polar = torch.polar(magnitude.exp().clamp(max=MAX_MAGNITUDE), phase.sin())
        waveform = torch.istft(polar, config.n_fft, config.hop_length, window=window)
        return waveform.clamp(-config.audio_limit, config.audio_limit)
