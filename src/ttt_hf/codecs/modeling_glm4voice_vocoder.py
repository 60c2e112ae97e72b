"""Vocoder of the GLM-4-Voice decoder: mel spectrogram to waveform, with a harmonic source and an inverse STFT.

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
# Slope of the last leaky ReLU, and largest magnitude of a frequency bin: constants of the published model.
LAST_SLOPE = 0.01
MAX_MAGNITUDE = 100.0


class Glm4VoiceSnake(nn.Module):
    """x + sin(alpha x)^2 / alpha (Ziyin et al., "Neural networks fail to learn periodic functions", 2020)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(size))

    def forward(self, hidden: Tensor) -> Tensor:
        """Activates float `(batch, size, frames)`, keeping the shape."""
        alpha = self.alpha[:, None]
        # The small number prevents a division by zero where alpha is 0.
        return hidden + (alpha * hidden).sin().square() / (alpha + 1e-9)


class Glm4VoiceDilatedBlock(nn.Module):
    """Residual pairs of convolutions, of which the first is dilated."""

    def __init__(self, size: int, kernel_size: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            nn.Conv1d(size, size, kernel_size, dilation=dilation, padding=dilation * (kernel_size - 1) // 2)
            for dilation in dilations
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(size, size, kernel_size, padding=kernel_size // 2) for _ in dilations)
        self.activations1 = nn.ModuleList(Glm4VoiceSnake(size) for _ in dilations)
        self.activations2 = nn.ModuleList(Glm4VoiceSnake(size) for _ in dilations)

    def forward(self, hidden: Tensor) -> Tensor:
        """Transforms float `(batch, size, frames)`, keeping the shape."""
        for first, second, conv1, conv2 in zip(self.activations1, self.activations2, self.convs1, self.convs2):
            hidden = hidden + conv2(second(conv1(first(hidden))))
        return hidden


class Glm4VoicePitch(nn.Module):
    """Predicts the fundamental frequency."""

    def __init__(self, config: Glm4VoiceDecoderConfig) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for layer in range(PITCH_LAYERS):
            size = config.pitch_channels if layer else config.num_mel_bins
            modules += [nn.Conv1d(size, config.pitch_channels, 3, padding=1), nn.ELU()]
        self.condnet = nn.Sequential(*modules)
        self.classifier = nn.Linear(config.pitch_channels, 1)

    def forward(self, mel: Tensor) -> Tensor:
        """Predicts the pitch in Hz, `(batch, frames)`, of a mel spectrogram `(batch, bins, frames)`."""
        return self.classifier(self.condnet(mel).transpose(1, 2))[..., 0].abs()


class Glm4VoiceVocoder(nn.Module):
    """Decodes mel spectrograms to waveforms, in float32. Phases and noise are inputs: it draws no random numbers."""

    def __init__(self, config: Glm4VoiceDecoderConfig) -> None:
        super().__init__()
        self.config = config
        # Channels of a spectrum: real and imaginary part, or magnitude and phase, of n_fft // 2 + 1 bins.
        spectrum, size, rates = config.n_fft + 2, config.vocoder_channels, config.upsample_rates
        self.f0_predictor = Glm4VoicePitch(config)
        self.source_linear = nn.Linear(config.num_harmonics + 1, 1)
        self.conv_pre = nn.Conv1d(config.num_mel_bins, size, 7, padding=3)
        self.ups, self.source_downs, self.source_resblocks, self.resblocks = (nn.ModuleList() for _ in range(4))
        for stage, (rate, kernel_size) in enumerate(zip(rates, config.upsample_kernel_sizes)):
            padding = (kernel_size - rate) // 2
            self.ups.append(nn.ConvTranspose1d(size, size // 2, kernel_size, rate, padding))
            size //= 2
            # Frames of the source's spectrum per frame of this stage.
            step = math.prod(rates[stage + 1 :])
            # Brings the source's spectrum to the resolution of this stage.
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
        """Number of periods of the fundamental since the start, at each sample.

        Args:
            pitch: Float32 of shape `(batch, frames)` in Hz.
            start: Periods before the first sample, float64 of shape `(batch, 1)`.

        Returns:
            Float64 of shape `(batch, samples)`.
        """
        # In float64, as a long sum in float32 would lose the phase.
        samples = self.config.samples_per_frame
        return start + (pitch / self.config.sampling_rate).double().repeat_interleave(samples, dim=1).cumsum(1)

    def source(self, pitch: Tensor, cycles: Tensor, phases: Tensor, noise: Tensor) -> Tensor:
        """Excitation signal: harmonics of the pitch in voiced frames, noise elsewhere.

        Args:
            pitch: Float32 of shape `(batch, frames)` in Hz.
            cycles: Result of `cycles`, float64 of shape `(batch, samples)`.
            phases: Start of each harmonic in radians, the fundamental first; float32 of shape `(batch, harmonics, 1)`.
            noise: Standard normal, float32 of shape `(batch, harmonics, samples)`.

        Returns:
            Float32 of shape `(batch, 1, samples)`.
        """
        config = self.config
        # The fundamental and its harmonics.
        harmonics = torch.arange(1, config.num_harmonics + 2, device=pitch.device)
        # Only the fraction of a period matters, and float32 is enough for it.
        turns = (cycles[:, None] * harmonics[:, None]).frac().float()
        # (batch, harmonics, samples)
        waves = config.source_amplitude * torch.sin(2 * torch.pi * turns + phases)
        voiced = (pitch > config.voiced_threshold).repeat_interleave(config.samples_per_frame, dim=1)[:, None]
        level = torch.where(voiced, config.source_noise, config.source_amplitude / 3)
        mixed = waves * voiced + level * noise
        return torch.tanh(self.source_linear(mixed.transpose(1, 2))).transpose(1, 2)

    def forward(self, mel: Tensor, source: Tensor) -> Tensor:
        """Filters the source by the mel spectrogram.

        Args:
            mel: Float32 of shape `(batch, bins, frames)`.
            source: Float32 of shape `(batch, 1, samples)`.

        Returns:
            Float32 of shape `(batch, samples)`, clamped to `config.audio_limit`.
        """
        config = self.config
        window = torch.hann_window(config.n_fft, device=mel.device)
        # (batch, n_fft // 2 + 1, samples / hop_length + 1)
        transform = torch.stft(
            source[:, 0], config.n_fft, config.hop_length, window=window, pad_mode="reflect", return_complex=True
        )
        spectrum = torch.cat([transform.real, transform.imag], dim=1)
        # Each stage upsamples, adds the source's spectrum at its resolution, and averages parallel residual blocks.
        parallel = len(config.resblock_kernel_sizes)
        hidden = self.conv_pre(mel)
        for stage, upsample in enumerate(self.ups):
            hidden = upsample(F.leaky_relu(hidden, config.leaky_slope))
            if stage == len(self.ups) - 1:
                hidden = F.pad(hidden, (1, 0), mode="reflect")  # the STFT has one frame more
            hidden = hidden + self.source_resblocks[stage](self.source_downs[stage](spectrum))
            blocks = self.resblocks[stage * parallel : (stage + 1) * parallel]
            hidden = sum(block(hidden) for block in blocks) / parallel
        # Log-magnitude and phase of each bin; a sine bounds the phase, as in the published code.
        magnitude, phase = self.conv_post(F.leaky_relu(hidden, LAST_SLOPE)).chunk(2, dim=1)
        polar = torch.polar(magnitude.exp().clamp(max=MAX_MAGNITUDE), phase.sin())
        waveform = torch.istft(polar, config.n_fft, config.hop_length, window=window)
        return waveform.clamp(-config.audio_limit, config.audio_limit)
