"""Mimi's semantic codebook as a codec of TtT: 12.5 codes per second from a codebook of 2,048, at 24 kHz.

The acoustic codebooks are left out: the codes carry the content of speech, but little of voice and detail, and decoded
audio sounds accordingly.

Source: Défossez et al., "Moshi: a speech-text foundation model for real-time dialogue", 2024.
"""

from __future__ import annotations

from torch import Tensor
from transformers import MimiConfig, MimiModel

from .rowwise import RowwiseCodec


class MimiCodecConfig(MimiConfig):
    """`MimiConfig` with the properties that TtT needs of a codec."""

    @property
    def samples_per_code(self) -> int:
        """Samples of waveform per code."""
        return round(self.sampling_rate / self.frame_rate)


class MimiCodec(RowwiseCodec, MimiModel):
    """Mimi with only its semantic codebook: 24 kHz in and out, a code per 1920 samples, rounded up.

    Args:
        config: Settings, as in transformers, with `num_semantic_quantizers=1`; weights are random until
            `from_pretrained` sets them.

    Raises:
        ValueError: If there are several semantic codebooks.
    """

    config_class = MimiCodecConfig
    config: MimiCodecConfig

    def __init__(self, config: MimiCodecConfig) -> None:
        if config.num_semantic_quantizers != 1:
            raise ValueError(
                f"This Mimi has {config.num_semantic_quantizers} semantic codebooks, and TtT speaks one: take a Mimi "
                "with num_semantic_quantizers=1."
            )
        super().__init__(config)

    @property
    def look_behind(self) -> int:
        """Past codes that the samples of a code depend on: the windows of all layers plus the convolutions."""
        config = self.config
        frames = config.num_hidden_layers * config.sliding_window
        # An upper bound: each upsampling sees one step back, each residual block (and the first and last convolution)
        # as far as its kernel and dilation reach, and every step is counted as a full frame.
        units = len(config.upsampling_ratios) * config.num_residual_layers
        dilation = config.dilation_growth_rate ** (config.num_residual_layers - 1)
        reach = (config.residual_kernel_size - 1) * dilation + 1
        frames += (config.kernel_size - 1) + (config.last_kernel_size - 1) + units * reach
        # Frames of the Transformer and the convolutions per code; transformers 5.20 has no `config.latent_stride`.
        stride = int(config.encodec_frame_rate / config.frame_rate)
        return -(-frames // stride) + 1

    @property
    def look_ahead(self) -> int:
        """Future codes that the samples of a code depend on: none, as the decoder is causal."""
        return 0

    def _encode_row(self, waveform: Tensor) -> Tensor:
        # (1, 1, samples). By the class's name, since `self.encode` is that of `RowwiseCodec`.
        values = waveform[None, None].to(self.dtype)
        return MimiModel.encode(self, values, num_quantizers=1).audio_codes[0, 0].long()

    def _decode_row(self, codes: Tensor) -> Tensor:
        # Codes of shape (1 row, 1 codebook, codes).
        samples = MimiModel.decode(self, codes[None, None]).audio_values[0, 0]
        return samples[: len(codes) * self.config.samples_per_code]


__all__ = ["MimiCodec", "MimiCodecConfig"]
