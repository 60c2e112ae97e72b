"""X-Codec2 and NeuCodec of transformers as codecs of TtT: 50 codes per second from one codebook of 65,536.

Both combine a semantic encoder (Wav2Vec2-BERT on Kaldi's filter banks) with an acoustic encoder (convolutions on the
waveform). NeuCodec takes 16 kHz and decodes to 24 kHz.

Sources: Ye et al., "Llasa: Scaling Train-Time and Inference-Time Compute for Llama-based Speech Synthesis", 2025;
Julian et al., "FSQ Enables Redundancy Encoding in Neural Audio Codecs", 2025.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from transformers import NeuCodecConfig, NeuCodecModel, SeamlessM4TFeatureExtractor, Xcodec2Config, Xcodec2Model

from .rowwise import RowwiseCodec


# The decoders' attention sees all codes; streams approximate it by two seconds of past and half a second of future.
STREAM_LOOK_BEHIND = 100
STREAM_LOOK_AHEAD = 25


class Xcodec2CodecConfig(Xcodec2Config):
    """`Xcodec2Config` with the properties that TtT needs of a codec."""

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return prod(self.quantization_levels)

    @property
    def samples_per_code(self) -> int:
        """Samples of decoded waveform per code."""
        return self.hop_length

    @property
    def frame_rate(self) -> float:
        """Codes per second."""
        return self.sampling_rate / self.hop_length


class NeuCodecCodecConfig(NeuCodecConfig):
    """`NeuCodecConfig` with the properties that TtT needs of a codec."""

    @property
    def sampling_rate(self) -> int:
        """Rate in Hz of the encoder's input; that of the decoder's output is `output_sampling_rate`."""
        return self.input_sampling_rate

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return prod(self.quantization_levels)

    @property
    def samples_per_code(self) -> int:
        """Samples of decoded waveform per code."""
        return self.hop_length

    @property
    def frame_rate(self) -> float:
        """Codes per second."""
        return self.input_sampling_rate / self.encoder_hop_length


@lru_cache(maxsize=1)
def _filter_banks() -> SeamlessM4TFeatureExtractor:
    """Kaldi's filter banks, each normalised over time, two frames stacked; cached, as it is slow to create."""
    return SeamlessM4TFeatureExtractor()


class _SemanticAcousticCodec(RowwiseCodec):
    """Encoding and decoding of rows by either model, as both take the same inputs."""

    # Zeros on each side of the waveform, in samples, before the filter banks are computed.
    _feature_margin: int

    @property
    def look_behind(self) -> int:
        """Number of past codes that a stream keeps; the decoder itself sees all."""
        return STREAM_LOOK_BEHIND

    @property
    def look_ahead(self) -> int:
        """Number of future codes that a stream waits for; the decoder itself sees all."""
        return STREAM_LOOK_AHEAD

    def _encoder_inputs(self, waveform: Tensor, hop_length: int) -> dict[str, Tensor]:
        """Padded waveform `(1, 1, samples)` and normalised filter banks `(1, frames, 160)` of one row."""
        # Padded to full codes, by a full hop where none is missing, as in the models' own feature extractors. Those
        # need torchaudio; the extractor of SeamlessM4T computes the same filter banks without it.
        padded = F.pad(waveform, (0, hop_length - waveform.shape[-1] % hop_length))
        margin = self._feature_margin
        samples = F.pad(padded, (margin, margin)).cpu().numpy()
        extractor = _filter_banks()
        features: Any = extractor([samples], sampling_rate=extractor.sampling_rate, return_tensors="pt")
        return {
            "input_values": padded[None, None].to(self.dtype),
            "input_features": features["input_features"].to(device=self.device, dtype=self.dtype),
        }


class Xcodec2Codec(_SemanticAcousticCodec, Xcodec2Model):
    """X-Codec2: 16 kHz in and out, `samples // 320 + 1` codes.

    Args:
        config: Settings, as in transformers; weights are random until `from_pretrained` sets them.
    """

    config_class = Xcodec2CodecConfig
    config: Xcodec2CodecConfig
    _feature_margin = 160

    def _encode_row(self, waveform: Tensor) -> Tensor:
        inputs = self._encoder_inputs(waveform, self.config.hop_length)
        # By the class's name, since `self.encode` is that of `RowwiseCodec`.
        return Xcodec2Model.encode(self, **inputs).audio_codes[0, 0].long()

    def _decode_row(self, codes: Tensor) -> Tensor:
        # Codes of shape (1 row, 1 codebook, codes).
        return Xcodec2Model.decode(self, audio_codes=codes[None, None]).audio_values[0, 0]


class NeuCodecCodec(_SemanticAcousticCodec, NeuCodecModel):
    """NeuCodec: 16 kHz in, 24 kHz out, `max(1, samples // 320)` codes.

    Args:
        config: Settings, as in transformers; weights are random until `from_pretrained` sets them.
    """

    config_class = NeuCodecCodecConfig
    config: NeuCodecCodecConfig
    _feature_margin = 0

    def _encode_row(self, waveform: Tensor) -> Tensor:
        hop_length = self.config.encoder_hop_length
        # Its filter banks end one code early, so that less than a hop would give no code at all.
        waveform = F.pad(waveform, (0, max(0, hop_length - waveform.shape[-1])))
        inputs = self._encoder_inputs(waveform, hop_length)
        return NeuCodecModel.encode(self, **inputs).audio_codes[0, 0].long()

    def _decode_row(self, codes: Tensor) -> Tensor:
        return NeuCodecModel.decode(self, audio_codes=codes[None, None]).audio_values[0, 0]


__all__ = ["NeuCodecCodec", "NeuCodecCodecConfig", "Xcodec2Codec", "Xcodec2CodecConfig"]
