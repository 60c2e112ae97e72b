"""Configurations of the GLM-4-Voice codec: tokenizer (waveform to codes), decoder (codes to waveform) and codec."""

from fractions import Fraction
from math import prod
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class Glm4VoiceTokenizerConfig(PreTrainedConfig):
    """Settings of [`Glm4VoiceTokenizer`], the first layers of a Whisper encoder followed by a quantiser.

    Args:
        sampling_rate: Rate in Hz of the waveform.
        hop_length: Samples between two mel frames.
        n_fft: Samples in the window of a mel frame.
        num_mel_bins: Mel bands.
        chunk_length: Longest input in seconds; longer waveforms are encoded in chunks.
        d_model: Channels.
        encoder_layers: Transformer layers before the quantiser.
        encoder_attention_heads: Attention heads per layer.
        encoder_ffn_dim: Inner channels of the feed-forward layers.
        activation_function: Activation of the feed-forward layers.
        dropout: Dropout probability of the outputs of attention and feed-forward layers.
        attention_dropout: Dropout probability of attention weights.
        activation_dropout: Dropout probability inside feed-forward layers.
        max_source_positions: Number of positions after the convolutions.
        block_size: Frames per block of the block-causal attention.
        pooling_kernel_size: Frames that are averaged to one.
        pooling_position: Number of layers before the average pooling.
        codebook_size: Number of codes.
        initializer_range: Standard deviation of random initial weights.
    """

    model_type = "glm4voice_tokenizer"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
    }

    sampling_rate: int = 16000
    hop_length: int = 160
    n_fft: int = 400
    num_mel_bins: int = 128
    chunk_length: int = 30
    d_model: int = 1280
    encoder_layers: int = 16
    encoder_attention_heads: int = 20
    encoder_ffn_dim: int = 5120
    activation_function: str = "gelu"
    dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    activation_dropout: float | int = 0.0
    max_source_positions: int = 1500
    block_size: int = 200
    pooling_kernel_size: int = 4
    pooling_position: int = 16
    codebook_size: int = 16384
    initializer_range: float = 0.02

    def validate_architecture(self) -> None:
        """Checks what the arithmetic needs; part of the strict validation of transformers."""
        if not 1 <= self.pooling_position <= self.encoder_layers:
            raise ValueError(
                f"pooling_position must lie between 1 and encoder_layers ({self.encoder_layers}), not "
                f"{self.pooling_position}."
            )
        # Pooling must not average frames of different blocks.
        if self.block_size % self.pooling_kernel_size:
            raise ValueError(
                f"block_size ({self.block_size}) must be a multiple of pooling_kernel_size "
                f"({self.pooling_kernel_size})."
            )

    @property
    def samples_per_code(self) -> int:
        """Samples of waveform per code; the second convolution halves the frame rate."""
        return 2 * self.hop_length * self.pooling_kernel_size


@strict
class Glm4VoiceDecoderConfig(PreTrainedConfig):
    """Settings of [`Glm4VoiceDecoder`]: block conformer, flow-matching U-Net and HiFT vocoder.

    Args:
        codebook_size: Number of codes.
        frame_rate: Codes per second.
        num_mel_bins: Mel bands, from 0 to 8000 Hz in the published weights.
        speaker_size: Size of a speaker embedding.
        hidden_size: Channels of the conformer.
        num_hidden_layers: Layers of the conformer.
        num_attention_heads: Attention heads per conformer layer.
        intermediate_size: Inner channels of the conformer's feed-forward layers.
        block_size: Codes per block of the conformer's block-causal attention.
        regulator_layers: Convolutions that smooth the conformer's output at the mel frame rate.
        unet_channels: Channels of the U-Net.
        unet_levels: Resolutions of the U-Net; each has half the frames of the one before.
        unet_mid_blocks: Blocks at the lowest resolution.
        unet_layers: Transformer layers per block.
        unet_heads: Attention heads per Transformer layer.
        unet_head_size: Channels per head.
        num_steps: Euler steps from noise to mel.
        guidance: Weight of classifier-free guidance.
        seed: Seed of the fixed noise.
        sampling_rate: Rate in Hz of the waveform.
        vocoder_channels: Channels before the first stage of the vocoder; each stage halves them.
        upsample_rates: Upsampling factor of each stage of the vocoder.
        upsample_kernel_sizes: Kernel sizes of the upsampling convolutions.
        n_fft: Samples in the window of the vocoder's inverse Fourier transform.
        hop_length: Samples between two such windows.
        resblock_kernel_sizes: Kernel sizes of the parallel residual blocks of a stage.
        resblock_dilations: Dilations in each of these blocks.
        source_resblock_kernel_sizes: Kernel size of the source's residual block at each stage.
        source_resblock_dilations: Dilations in each of these blocks.
        pitch_channels: Channels of the pitch predictor.
        num_harmonics: Harmonics of the pitch in the source, without the fundamental.
        source_amplitude: Amplitude of each harmonic.
        source_noise: Standard deviation of the noise in voiced frames.
        voiced_threshold: Pitch in Hz up to which a frame counts as unvoiced.
        leaky_slope: Negative slope of the vocoder's leaky ReLUs.
        audio_limit: Largest absolute value of samples, which are clamped to it.
        initializer_range: Standard deviation of random initial weights.
    """

    model_type = "glm4voice_decoder"

    codebook_size: int = 16384
    frame_rate: float = 12.5
    num_mel_bins: int = 80
    speaker_size: int = 192
    hidden_size: int = 512
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    block_size: int = 10
    regulator_layers: int = 4
    unet_channels: int = 256
    unet_levels: int = 2
    unet_mid_blocks: int = 12
    unet_layers: int = 4
    unet_heads: int = 8
    unet_head_size: int = 64
    num_steps: int = 10
    guidance: float = 0.7
    seed: int = 42
    sampling_rate: int = 22050
    vocoder_channels: int = 512
    upsample_rates: list[int] | tuple[int, ...] = (8, 8)
    upsample_kernel_sizes: list[int] | tuple[int, ...] = (16, 16)
    n_fft: int = 16
    hop_length: int = 4
    resblock_kernel_sizes: list[int] | tuple[int, ...] = (3, 7, 11)
    resblock_dilations: list[list[int]] | tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    source_resblock_kernel_sizes: list[int] | tuple[int, ...] = (7, 11)
    source_resblock_dilations: list[list[int]] | tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5))
    pitch_channels: int = 512
    num_harmonics: int = 8
    source_amplitude: float = 0.1
    source_noise: float = 0.003
    voiced_threshold: float | int = 10
    leaky_slope: float = 0.1
    audio_limit: float = 0.99
    initializer_range: float = 0.02

    def validate_architecture(self) -> None:
        """Checks what the arithmetic needs; part of the strict validation of transformers."""
        stages = len(self.upsample_rates)
        for name in ("upsample_kernel_sizes", "source_resblock_kernel_sizes", "source_resblock_dilations"):
            if len(getattr(self, name)) != stages:
                raise ValueError(f"{name} must have {stages} entries, one for each of upsample_rates.")
        if len(self.resblock_kernel_sizes) != len(self.resblock_dilations):
            raise ValueError("resblock_dilations must have one entry for each of resblock_kernel_sizes.")
        # Even, since position encodings are pairs of sine and cosine.
        if self.hidden_size % self.num_attention_heads or self.hidden_size % 2:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be even and a multiple of num_attention_heads "
                f"({self.num_attention_heads})."
            )

    @property
    def samples_per_frame(self) -> int:
        """Samples of waveform per mel frame."""
        return prod(self.upsample_rates) * self.hop_length

    @property
    def frames_per_code(self) -> Fraction:
        """Mel frames per code as an exact fraction: 441 / 64 in the published weights."""
        return Fraction(self.sampling_rate) / (Fraction(self.frame_rate) * self.samples_per_frame)

    def num_frames(self, codes: int) -> int:
        """Number of mel frames for a number of codes."""
        # Rounded down, as in the published code.
        return int(codes * self.frames_per_code)


@strict
class Glm4VoiceCodecConfig(PreTrainedConfig):
    """Settings of [`Glm4VoiceCodec`]: those of its tokenizer and its decoder."""

    model_type = "glm4voice"
    sub_configs: ClassVar[dict[str, type[PreTrainedConfig]]] = {
        "tokenizer_config": Glm4VoiceTokenizerConfig,
        "decoder_config": Glm4VoiceDecoderConfig,
    }

    tokenizer_config: dict[str, Any] | PreTrainedConfig | None = None
    decoder_config: dict[str, Any] | PreTrainedConfig | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        for name, config_class in self.sub_configs.items():
            value = getattr(self, name)
            # From a config.json the parts come as dictionaries.
            if value is None or isinstance(value, dict):
                setattr(self, name, config_class(**(value or {})))
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Checks that both parts have the same codes; called by the strict validation of transformers."""
        sizes = [config.codebook_size for config in (self.tokenizer_config, self.decoder_config)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"The tokenizer has {sizes[0]} codes and the decoder {sizes[1]}: they are parts of different codecs."
            )

    @property
    def sampling_rate(self) -> int:
        """Rate in Hz of input waveforms."""
        return self.tokenizer_config.sampling_rate

    @property
    def output_sampling_rate(self) -> int:
        """Rate in Hz of output waveforms."""
        return self.decoder_config.sampling_rate

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return self.tokenizer_config.codebook_size

    @property
    def frame_rate(self) -> float:
        """Codes per second."""
        return self.decoder_config.frame_rate
