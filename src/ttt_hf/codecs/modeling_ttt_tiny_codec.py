"""The tiny codec: log-mel frames, convolutional encoder, finite scalar quantiser, mel decoder and iSTFT vocoder."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_ttt_tiny_codec import TtTTinyCodecConfig
from .features_ttt_tiny_codec import log_mel, normalise_level, overlap_add
from .rowwise import RowwiseCodec


MAX_LOG_MAGNITUDE = 5.0


class TtTTinyCodecBlock(nn.Module):
    """ConvNeXt block over time (Liu et al., "A ConvNet for the 2020s", 2022), channels last.

    Args:
        size: Number of channels.
        config: Gives the kernel size and the expansion.
        look_ahead: Future frames that the depthwise convolution sees.
    """

    def __init__(self, size: int, config: TtTTinyCodecConfig, look_ahead: int) -> None:
        super().__init__()
        self.look_behind = config.kernel_size - 1 - look_ahead
        self.look_ahead = look_ahead
        self.depthwise = nn.Conv1d(size, size, config.kernel_size, groups=size)
        self.norm = nn.LayerNorm(size)
        self.expand = nn.Linear(size, config.expansion * size)
        self.contract = nn.Linear(config.expansion * size, size)
        # A small factor on each branch: a stack of blocks starts close to the identity.
        self.scale = nn.Parameter(torch.full((size,), 0.1))

    def forward(self, hidden: Tensor) -> Tensor:
        """Transforms float `(batch, frames, size)`, keeping the shape."""
        # Padding on the axis of frames: past and future of the convolution.
        padded = F.pad(hidden, (0, 0, self.look_behind, self.look_ahead))
        # As a 2-D convolution on channels-last memory, the depthwise convolution is twice as fast on a CPU.
        convolved = F.conv2d(
            padded.transpose(1, 2).unsqueeze(2),
            self.depthwise.weight.unsqueeze(2),
            self.depthwise.bias,
            groups=hidden.shape[-1],
        )
        # (batch, size, 1, frames) back to channels last
        branch = self.norm(convolved.squeeze(2).transpose(1, 2))
        branch = self.contract(F.gelu(self.expand(branch), approximate="tanh"))
        return hidden + self.scale * branch


def _blocks(size: int, count: int, config: TtTTinyCodecConfig, look_aheads: Sequence[int]) -> nn.ModuleList:
    return nn.ModuleList(TtTTinyCodecBlock(size, config, look_aheads[index]) for index in range(count))


def _look_aheads(count: int, total: int) -> list[int]:
    """Look-ahead of each of `count` blocks of which the first `total` see one future frame."""
    return [1 if index < total else 0 for index in range(count)]


class TtTTinyCodecEncoder(nn.Module):
    """Encodes normalised log-mel frames to unbounded quantiser inputs, one per `frames_per_code` frames."""

    def __init__(self, config: TtTTinyCodecConfig) -> None:
        super().__init__()
        # The encoder always has the full waveform, so its convolutions see both sides equally.
        centred = [config.kernel_size // 2] * max(config.encoder_frame_layers, config.encoder_code_layers)
        self.frames_per_code = config.frames_per_code
        self.embed = nn.Linear(3 * config.num_mel_bins, config.encoder_frame_size)
        self.frame_blocks = _blocks(config.encoder_frame_size, config.encoder_frame_layers, config, centred)
        self.join = nn.Linear(config.frames_per_code * config.encoder_frame_size, config.encoder_code_size)
        self.code_blocks = _blocks(config.encoder_code_size, config.encoder_code_layers, config, centred)
        self.norm = nn.LayerNorm(config.encoder_code_size)
        self.project = nn.Linear(config.encoder_code_size, len(config.fsq_levels))

    def forward(self, mel: Tensor) -> Tensor:
        """Encodes `(batch, frames, mel bins)` to `(batch, frames / frames_per_code, quantiser dimensions)`."""
        hidden = self.embed(_with_neighbours(mel))
        for block in self.frame_blocks:
            hidden = block(hidden)
        # Consecutive frames become the channels of one code.
        hidden = self.join(hidden.unflatten(1, (-1, self.frames_per_code)).flatten(2))
        for block in self.code_blocks:
            hidden = block(hidden)
        return self.project(self.norm(hidden))


class TtTTinyCodecDecoder(nn.Module):
    """Decodes codebook vectors to normalised log-mel frames in the voice whose embedding is stored."""

    def __init__(self, config: TtTTinyCodecConfig) -> None:
        super().__init__()
        self.frames_per_code = config.frames_per_code
        self.project = nn.Linear(len(config.fsq_levels), config.decoder_code_size)
        self.voice = nn.Parameter(torch.zeros(config.decoder_code_size))
        self.code_blocks = _blocks(
            config.decoder_code_size,
            config.decoder_code_layers,
            config,
            _look_aheads(config.decoder_code_layers, config.decoder_code_look_ahead),
        )
        self.split = nn.Linear(config.decoder_code_size, config.frames_per_code * config.decoder_frame_size)
        self.frame_blocks = _blocks(
            config.decoder_frame_size,
            config.decoder_frame_layers,
            config,
            _look_aheads(config.decoder_frame_layers, config.decoder_frame_look_ahead),
        )
        self.norm = nn.LayerNorm(config.decoder_frame_size)
        self.head = nn.Linear(config.decoder_frame_size, config.num_mel_bins)

    def forward(self, vectors: Tensor, voice: Tensor | None = None) -> Tensor:
        """Predicts the mel spectrogram.

        Args:
            vectors: Float of shape `(batch, codes, quantiser dimensions)` in [-1, 1].
            voice: Voice embedding of each row, float of shape `(batch, decoder_code_size)`; the stored one by default.

        Returns:
            Float of shape `(batch, codes * frames_per_code, mel bins)`.
        """
        # Codes carry the content only: the voice is added as an embedding.
        hidden = self.project(vectors) + (self.voice if voice is None else voice[:, None])
        for block in self.code_blocks:
            hidden = block(hidden)
        # Back to the mel frame rate: the channels of one code become consecutive frames.
        hidden = self.split(hidden).unflatten(2, (self.frames_per_code, -1)).flatten(1, 2)
        for block in self.frame_blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden))


class TtTTinyCodecVocoder(nn.Module):
    """Decodes normalised log-mel frames to a waveform, by the magnitude and phase of its short-time Fourier transform.

    After Siuzdak, "Vocos: Closing the gap between time-domain and Fourier-based neural vocoders", 2023.
    """

    def __init__(self, config: TtTTinyCodecConfig) -> None:
        super().__init__()
        self.n_fft = config.n_fft
        self.hop_length = config.hop_length
        self.embed = nn.Linear(3 * config.num_mel_bins, config.vocoder_size)
        self.blocks = _blocks(
            config.vocoder_size,
            config.vocoder_layers,
            config,
            _look_aheads(config.vocoder_layers, config.vocoder_look_ahead),
        )
        self.norm = nn.LayerNorm(config.vocoder_size)
        self.head = nn.Linear(config.vocoder_size, 2 * (config.n_fft // 2 + 1))

    def forward(self, mel: Tensor) -> Tensor:
        """Decodes `(batch, frames, mel bins)` to float `(batch, frames * hop_length)`."""
        hidden = self.embed(_with_neighbours(mel))
        for block in self.blocks:
            hidden = block(hidden)
        # In float32: half precision is too coarse for phases. The clamp bounds the magnitude of untrained outputs.
        log_magnitude, phase = self.head(self.norm(hidden)).float().chunk(2, dim=-1)
        spectrum = torch.polar(log_magnitude.clamp(max=MAX_LOG_MAGNITUDE).exp(), phase)
        return overlap_add(spectrum, self.n_fft, self.hop_length)


def _with_neighbours(frames: Tensor) -> Tensor:
    """Concatenates each frame with its two neighbours: `(batch, frames, n)` to `(batch, frames, 3 n)`."""
    padded = F.pad(frames, (0, 0, 1, 1))
    return torch.cat([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], dim=-1)


class TtTTinyCodec(RowwiseCodec):
    """A small single-codebook speech codec with 12.5 codes per second.

    It encodes any voice and always decodes to the single voice of its training.

    Args:
        config: Settings; weights are random until `from_pretrained` or training sets them.
    """

    config_class = TtTTinyCodecConfig
    config: TtTTinyCodecConfig
    base_model_prefix = "codec"
    main_input_name = "waveform"
    input_modalities = ("audio",)

    def __init__(self, config: TtTTinyCodecConfig) -> None:
        super().__init__(config)
        self.encoder = TtTTinyCodecEncoder(config)
        self.decoder = TtTTinyCodecDecoder(config)
        self.vocoder = TtTTinyCodecVocoder(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Conv1d):
            init.kaiming_uniform_(module.weight, nonlinearity="linear")
            init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, TtTTinyCodecBlock):
            # A parameter of our own, as is the voice below.
            init.constant_(module.scale, 0.1)
        elif isinstance(module, TtTTinyCodecDecoder):
            init.zeros_(module.voice)

    # -- quantiser -----------------------------------------------------------------------------------------------

    def _half_widths(self) -> Tensor:
        return torch.tensor([level // 2 for level in self.config.fsq_levels], device=self.device, dtype=torch.float32)

    def quantise(self, hidden: Tensor) -> Tensor:
        """Rounds encoder outputs to codebook vectors, with a straight-through gradient.

        Args:
            hidden: Float of shape `(batch, frames, dimensions)`, unbounded.

        Returns:
            Float of shape `(batch, frames, dimensions)` in [-1, 1].
        """
        half = self._half_widths()
        # Levels are odd, so rounding tanh * half gives integers from -half to half, zero included.
        bounded = torch.tanh(hidden.float()) * half
        # The value is the rounded one, the gradient that of `bounded`.
        return (bounded + (bounded.round() - bounded).detach()) / half

    def vectors_to_codes(self, vectors: Tensor) -> Tensor:
        """Codes `(...)` of codebook vectors `(..., dimensions)`; the first dimension is the lowest digit."""
        half = self._half_widths()
        # Digits from 0 to level - 1, joined by Horner's rule from the highest to the lowest.
        digits = (vectors.float() * half).round().long() + half.long()
        code = torch.zeros_like(digits[..., 0])
        for index in reversed(range(len(self.config.fsq_levels))):
            code = code * self.config.fsq_levels[index] + digits[..., index]
        return code

    def codes_to_vectors(self, codes: Tensor) -> Tensor:
        """Codebook vectors `(..., dimensions)` in [-1, 1] of codes `(...)`."""
        digits = []
        # From the lowest digit on, shifted back to integers around zero.
        for level in self.config.fsq_levels:
            digits.append(codes % level - level // 2)
            codes = codes // level
        return torch.stack(digits, dim=-1).float() / self._half_widths()

    @property
    def codebook(self) -> Tensor:
        """All codebook vectors, float of shape `(codebook_size, dimensions)` in [-1, 1]."""
        return self.codes_to_vectors(torch.arange(self.config.codebook_size, device=self.device))

    # -- waveform to codes ---------------------------------------------------------------------------------------

    def mel(self, waveform: Tensor) -> Tensor:
        """Computes normalised log-mel frames.

        Args:
            waveform: Float of shape `(batch, samples)`, samples a multiple of the hop length.

        Returns:
            Float of shape `(batch, samples / hop_length, mel bins)`.
        """
        config = self.config
        values = log_mel(
            waveform, config.sampling_rate, config.n_fft, config.hop_length, config.num_mel_bins, config.mel_floor
        )
        return (values - config.mel_mean) / config.mel_std

    def normalise(self, waveform: Tensor) -> Tensor:
        """Scales one waveform `(samples,)` to the level that the encoder expects, and pads it to full codes."""
        config = self.config
        scaled = normalise_level(waveform, config.reference_level, config.minimum_level, config.hop_length)
        return F.pad(scaled, (0, -scaled.shape[-1] % config.samples_per_code))

    def _encode_row(self, waveform: Tensor) -> Tensor:
        # (1, codes, quantiser dimensions); features in float32, the network in the model's dtype.
        hidden = self.encoder(self.mel(self.normalise(waveform)[None]).to(self.dtype))
        return self.vectors_to_codes(self.quantise(hidden))[0]

    # -- codes to waveform ---------------------------------------------------------------------------------------

    def _decode_row(self, codes: Tensor) -> Tensor:
        return self._decode_rows(codes[None])[0]

    def _decode_rows(self, codes: Tensor) -> Tensor:
        return self.vocoder(self.decoder(self.codes_to_vectors(codes).to(self.dtype)))

    @property
    def look_ahead(self) -> int:
        """Number of future codes that the samples of a code depend on."""
        frame_blocks: list[Any] = [*self.decoder.frame_blocks, *self.vocoder.blocks]
        code_blocks: list[Any] = [*self.decoder.code_blocks]
        # One frame for the neighbour in the vocoder's input, plus the overlap of the synthesis windows.
        frames = 1 + self._window_reach() + sum(block.look_ahead for block in frame_blocks)
        codes = sum(block.look_ahead for block in code_blocks)
        return codes + -(-frames // self.config.frames_per_code)

    @property
    def look_behind(self) -> int:
        """Number of past codes that the samples of a code depend on."""
        frame_blocks: list[Any] = [*self.decoder.frame_blocks, *self.vocoder.blocks]
        code_blocks: list[Any] = [*self.decoder.code_blocks]
        # As in `look_ahead`, for the other side.
        frames = 1 + self._window_reach() + sum(block.look_behind for block in frame_blocks)
        codes = sum(block.look_behind for block in code_blocks)
        return codes + -(-frames // self.config.frames_per_code)

    def _window_reach(self) -> int:
        """Number of frames on each side whose synthesis window overlaps a frame's hop."""
        margin = (self.config.n_fft - self.config.hop_length) // 2
        return -(-margin // self.config.hop_length)
