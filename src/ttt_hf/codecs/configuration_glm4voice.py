"""Configurations of the GLM-4-Voice codec: tokenizer (waveform to codes), decoder (codes to waveform), and both."""

from fractions import Fraction
from math import prod
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class Glm4VoiceTokenizerConfig(PreTrainedConfig):
    """Settings of [`Glm4VoiceTokenizer`], the first layers of a Whisper encoder with a quantiser behind them.

    Args:
        sampling_rate: samples a second of the waveform.
        hop_length: samples between two mel frames.
        n_fft: samples in the window of a mel frame.
        num_mel_bins: mel bands.
        chunk_length: seconds that are encoded together; longer waveforms are cut.
        d_model: channels.
        encoder_layers: Transformer layers in front of the quantiser.
        encoder_attention_heads: attention heads of a layer.
        encoder_ffn_dim: inner channels of a layer.
        activation_function: between the inner linear layers.
        dropout: share of the outputs of a branch that training drops.
        attention_dropout: share of the attention weights that training drops.
        activation_dropout: share of the inner channels that training drops.
        max_source_positions: frames behind the convolutions that have a position.
        block_size: frames that see each other; what is behind them is not seen.
        pooling_kernel_size: frames that are averaged into one.
        pooling_position: layers in front of the averaging.
        codebook_size: number of different codes.
        initializer_range: standard deviation of random weights.
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
        if self.block_size % self.pooling_kernel_size:
            raise ValueError(
                f"block_size ({self.block_size}) must be a multiple of pooling_kernel_size "
                f"({self.pooling_kernel_size})."
            )

    @property
    def samples_per_code(self) -> int:
        """Samples of waveform that one code stands for; the second convolution halves the frames."""
        return 2 * self.hop_length * self.pooling_kernel_size


@strict
class Glm4VoiceDecoderConfig(PreTrainedConfig):
    """Settings of [`Glm4VoiceDecoder`]: block conformer, flow-matching U-Net and HiFT vocoder.

    Args:
        codebook_size: number of different codes.
        frame_rate: codes a second.
        num_mel_bins: mel bands, 80 of 0 to 8000 Hz in the published weights.
        speaker_size: length of a speaker vector.
        hidden_size: channels of the conformer.
        num_hidden_layers: its layers.
        num_attention_heads: attention heads of a layer.
        intermediate_size: inner channels of a layer.
        block_size: codes that see each other in the conformer; what is behind them is not seen.
        regulator_layers: convolutions that smooth the conformer's output at the mel frame rate.
        unet_channels: channels of the U-Net.
        unet_levels: resolutions of the U-Net; each has half the frames of the one before.
        unet_mid_blocks: blocks at the lowest resolution.
        unet_layers: Transformer layers in a block.
        unet_heads: attention heads of such a layer.
        unet_head_size: channels of a head.
        num_steps: Euler steps from noise to mel.
        guidance: weight of classifier-free guidance.
        seed: of the fixed noise.
        sampling_rate: samples a second of the waveform.
        vocoder_channels: channels at the first resolution of the vocoder; each upsampling halves them.
        upsample_rates: by which the vocoder multiplies the number of frames.
        upsample_kernel_sizes: widths of the upsampling convolutions.
        n_fft: samples in the window of the vocoder's last transform.
        hop_length: samples between two such windows.
        resblock_kernel_sizes: widths of the parallel residual blocks of a resolution.
        resblock_dilations: dilations within each of them.
        source_resblock_kernel_sizes: width of the source's residual block at each resolution.
        source_resblock_dilations: dilations within it.
        pitch_channels: channels of the pitch predictor.
        num_harmonics: harmonics of the pitch in the source, the fundamental not counted.
        source_amplitude: of each harmonic.
        source_noise: standard deviation of the noise in voiced frames.
        voiced_threshold: pitch in Hz up to which a frame counts as unvoiced.
        leaky_slope: slope of the vocoder's leaky rectifiers.
        audio_limit: samples are clamped to it.
        initializer_range: standard deviation of random weights.
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
        if self.hidden_size % self.num_attention_heads or self.hidden_size % 2:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be even and a multiple of num_attention_heads "
                f"({self.num_attention_heads})."
            )

    @property
    def samples_per_frame(self) -> int:
        """Samples of waveform that one mel frame stands for."""
        return prod(self.upsample_rates) * self.hop_length

    @property
    def frames_per_code(self) -> Fraction:
        """Mel frames that one code stands for, exactly: 441 / 64 in the published weights."""
        return Fraction(self.sampling_rate) / (Fraction(self.frame_rate) * self.samples_per_frame)

    def num_frames(self, codes: int) -> int:
        """Mel frames of so many codes."""
        return int(codes * self.frames_per_code)


@strict
class Glm4VoiceCodecConfig(PreTrainedConfig):
    """Settings of [`Glm4VoiceCodec`]. It hears at one sampling rate and speaks at another.

    Args:
        tokenizer_config: settings of the tokenizer.
        decoder_config: settings of the decoder.
    """

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
            if value is None or isinstance(value, dict):
                setattr(self, name, config_class(**(value or {})))
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Checks that both parts speak of the same codes; part of the strict validation of transformers."""
        sizes = [config.codebook_size for config in (self.tokenizer_config, self.decoder_config)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"The tokenizer has {sizes[0]} codes and the decoder {sizes[1]}: they are parts of different codecs."
            )

    @property
    def sampling_rate(self) -> int:
        """Samples a second of the waveform that goes in."""
        return self.tokenizer_config.sampling_rate

    @property
    def output_sampling_rate(self) -> int:
        """Samples a second of the waveform that comes out."""
        return self.decoder_config.sampling_rate

    @property
    def codebook_size(self) -> int:
        """Number of different codes."""
        return self.tokenizer_config.codebook_size

    @property
    def frame_rate(self) -> float:
        """Codes a second."""
        return self.decoder_config.frame_rate
