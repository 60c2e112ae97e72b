"""Mimi's semantic codebook as a codec of TtT: 12.5 codes a second out of 2,048, at 24 kHz.

The other codebooks, which carry the voice and the fine structure, are left out: codes hold what is said, and what is
decoded from them sounds accordingly.

Source: Défossez et al., "Moshi: a speech-text foundation model for real-time dialogue", 2024.
"""

from __future__ import annotations

from torch import Tensor
from transformers import MimiConfig, MimiModel

from .rowwise import RowwiseCodec


class MimiCodecConfig(MimiConfig):
    """`MimiConfig` with what TtT asks of a codec; all of it follows from its own fields."""

    @property
    def samples_per_code(self) -> int:
        """Samples of waveform that one code stands for."""
        return round(self.sampling_rate / self.frame_rate)


class MimiCodec(RowwiseCodec, MimiModel):
    """Mimi with its semantic codebook alone: 24 kHz in and out, a code for each 1920 samples, rounded up.

    Args:
        config: settings, as in transformers, with `num_semantic_quantizers=1`; weights are random until
            `from_pretrained` sets them.

    Raises:
        ValueError: if there are several semantic codebooks.
    """

    config_class = MimiCodecConfig
    config: MimiCodecConfig

    def __init__(self, config: MimiCodecConfig):
        if config.num_semantic_quantizers != 1:
            raise ValueError(
                f"This Mimi has {config.num_semantic_quantizers} semantic codebooks, and TtT speaks one: take a Mimi "
                "with num_semantic_quantizers=1."
            )
        super().__init__(config)

    @property
    def look_behind(self) -> int:
        """Past codes on which the samples of a code depend: the window of each layer, and the convolutions."""
        config = self.config
        frames = config.num_hidden_layers * config.sliding_window
        # Before each upsampling by r its transposed convolution sees one step back, a residual block (and the first
        # and the last convolution) as much as its kernel and dilation say; every step counted as a whole frame.
        units = len(config.upsampling_ratios) * config.num_residual_layers
        dilation = config.dilation_growth_rate ** (config.num_residual_layers - 1)
        reach = (config.residual_kernel_size - 1) * dilation + 1
        frames += (config.kernel_size - 1) + (config.last_kernel_size - 1) + units * reach
        return -(-frames // config.latent_stride) + 1

    @property
    def look_ahead(self) -> int:
        """Future codes on which the samples of a code depend: none, the decoder is causal."""
        return 0

    def _encode_row(self, waveform: Tensor) -> Tensor:
        values = waveform[None, None].to(self.dtype)
        return MimiModel.encode(self, values, num_quantizers=1).audio_codes[0, 0].long()

    def _decode_row(self, codes: Tensor) -> Tensor:
        samples = MimiModel.decode(self, codes[None, None]).audio_values[0, 0]
        return samples[: len(codes) * self.config.samples_per_code]


__all__ = ["MimiCodec", "MimiCodecConfig"]
