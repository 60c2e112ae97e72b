"""Configuration of the tiny codec: mel spectrogram, quantiser levels and the sizes of encoder, decoder and vocoder."""

import math
from math import prod

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


POSITIVE = (
    "sampling_rate", "hop_length", "n_fft", "num_mel_bins", "mel_floor", "mel_std", "reference_level", "minimum_level",
    "frames_per_code", "encoder_frame_size", "encoder_code_size", "decoder_frame_size", "decoder_code_size",
    "vocoder_size", "expansion",
)  # fmt: skip
MAX_SIZE = 2**16


@strict
class TtTTinyCodecConfig(PreTrainedConfig):
    """Settings of [`TtTTinyCodec`].

    The encoder processes log-mel frames and joins `frames_per_code` of them to one code. Codes are the points of a
    finite scalar quantiser (Mentzer et al., "Finite Scalar Quantization: VQ-VAE made simple", 2023) whose levels are
    all odd, so that zero is a level and no offset is needed.

    Args:
        sampling_rate: Rate in Hz of input and output waveforms.
        hop_length: Samples between two mel frames.
        n_fft: Samples in the analysis and synthesis window.
        num_mel_bins: Mel bands.
        mel_floor: Smallest mel magnitude; a full-scale sine has magnitude one.
        mel_mean: Mean for the normalisation of log-mel values.
        mel_std: Standard deviation for the normalisation of log-mel values.
        reference_level: Root mean square to which the active part of a waveform is scaled before it is encoded.
        minimum_level: Lower bound on the measured level, so that silence is not amplified.
        frames_per_code: Mel frames per code.
        fsq_levels: Levels of each quantiser dimension; their product is the codebook size.
        kernel_size: Width of all depthwise convolutions, in frames.
        encoder_frame_size: Channels of the encoder at the mel frame rate.
        encoder_code_size: Channels of the encoder at the code frame rate.
        encoder_frame_layers: Blocks of the encoder at the mel frame rate.
        encoder_code_layers: Blocks of the encoder at the code frame rate.
        decoder_frame_size: Channels of the mel decoder at the mel frame rate.
        decoder_code_size: Channels of the mel decoder at the code frame rate.
        decoder_frame_layers: Blocks of the mel decoder at the mel frame rate.
        decoder_code_layers: Blocks of the mel decoder at the code frame rate.
        vocoder_size: Channels of the vocoder.
        vocoder_layers: Blocks of the vocoder.
        expansion: Inner channels of a block divided by its channels.
        decoder_frame_look_ahead: Blocks of the mel decoder that see one future mel frame; the others see none.
        decoder_code_look_ahead: Blocks of the mel decoder that see one future code.
        vocoder_look_ahead: Blocks of the vocoder that see one future mel frame.
        trim_silence: Whether recordings are cut around their speech before they are encoded to be heard, as the clips
            of its training were; see `ttt_hf.processing.listening`. Every codec's configuration may have this key.
    """

    model_type = "ttt_tiny_codec"

    sampling_rate: int = 16000
    hop_length: int = 320
    n_fft: int = 800
    num_mel_bins: int = 80
    mel_floor: float = 1e-4
    mel_mean: float = -8.0
    mel_std: float = 2.2
    reference_level: float = 0.1
    minimum_level: float = 0.001
    frames_per_code: int = 4
    fsq_levels: list[int] | tuple[int, ...] = (7, 5, 5, 5, 5)
    kernel_size: int = 7
    encoder_frame_size: int = 160
    encoder_code_size: int = 288
    encoder_frame_layers: int = 2
    encoder_code_layers: int = 2
    decoder_frame_size: int = 192
    decoder_code_size: int = 288
    decoder_frame_layers: int = 2
    decoder_code_layers: int = 5
    vocoder_size: int = 256
    vocoder_layers: int = 6
    expansion: int = 2
    decoder_frame_look_ahead: int = 2
    decoder_code_look_ahead: int = 2
    vocoder_look_ahead: int = 4
    trim_silence: bool = False

    def validate_architecture(self) -> None:
        """Checks the sizes; called by the strict validation of transformers."""
        if not self.fsq_levels or any(level < 3 or level % 2 == 0 for level in self.fsq_levels):
            raise ValueError(f"fsq_levels must be odd numbers of at least 3, not {list(self.fsq_levels)}.")
        for name in POSITIVE:
            if not 0 < getattr(self, name) < math.inf:  # NaN is not between them either
                raise ValueError(f"{name} must be a positive number, not {getattr(self, name)}.")
        if not math.isfinite(self.mel_mean):
            raise ValueError(f"mel_mean must be a number, not {self.mel_mean}.")
        # The window and the filters are computed, so that no weights limit their size.
        for name in ("n_fft", "num_mel_bins"):
            if getattr(self, name) > MAX_SIZE:
                raise ValueError(f"{name} must be at most {MAX_SIZE}, not {getattr(self, name)}.")
        # Odd, so that the encoder's convolutions can be centred.
        if self.kernel_size < 3 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be an odd number of at least 3, not {self.kernel_size}.")
        # A window extends beyond its hop by the same number of samples on both sides.
        if self.n_fft < self.hop_length or (self.n_fft - self.hop_length) % 2:
            raise ValueError(
                f"n_fft ({self.n_fft}) must be at least hop_length ({self.hop_length}) and differ from it by an even "
                "number."
            )

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return prod(self.fsq_levels)

    @property
    def output_sampling_rate(self) -> int:
        """Rate in Hz of output waveforms, the same as that of the input."""
        return self.sampling_rate

    @property
    def samples_per_code(self) -> int:
        """Samples of waveform per code."""
        return self.hop_length * self.frames_per_code

    @property
    def frame_rate(self) -> float:
        """Codes per second."""
        return self.sampling_rate / self.samples_per_code
