"""The tiny codec: log-mel frames, convolutional encoder, finite scalar quantiser, mel decoder and iSTFT vocoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedAudioTokenizerBase
from transformers.utils import ModelOutput

from .checks import check_codes, check_waveform, code_rows
from .configuration_ttt_tiny_codec import TtTTinyCodecConfig
from .features_ttt_tiny_codec import log_mel, normalise_level, overlap_add


MAX_LOG_MAGNITUDE = 5.0


@dataclass
class TtTTinyCodecOutput(ModelOutput):
    """What a pass through encoder and decoder gives.

    Args:
        audio_codes: long (batch, frames), -1 behind the end of a row.
        audio_values: float (batch, frames * samples a code).
    """

    audio_codes: Tensor | None = None
    audio_values: Tensor | None = None


class TtTTinyCodecBlock(nn.Module):
    """ConvNeXt block over time (Liu et al., "A ConvNet for the 2020s", 2022), channels last.

    Args:
        size: channels.
        config: for the kernel size and the expansion.
        look_ahead: future frames that the depthwise convolution sees.
    """

    def __init__(self, size: int, config: TtTTinyCodecConfig, look_ahead: int):
        super().__init__()
        self.look_behind = config.kernel_size - 1 - look_ahead
        self.look_ahead = look_ahead
        self.depthwise = nn.Conv1d(size, size, config.kernel_size, groups=size)
        self.norm = nn.LayerNorm(size)
        self.expand = nn.Linear(size, config.expansion * size)
        self.contract = nn.Linear(config.expansion * size, size)
        self.scale = nn.Parameter(torch.full((size,), 0.1))

    def forward(self, hidden: Tensor) -> Tensor:
        """float (batch, frames, size) -> the same shape."""
        padded = F.pad(hidden, (0, 0, self.look_behind, self.look_ahead))
        # As a 2-D convolution over channels-last memory, the depthwise convolution is twice as fast on a CPU.
        convolved = F.conv2d(
            padded.transpose(1, 2).unsqueeze(2),
            self.depthwise.weight.unsqueeze(2),
            self.depthwise.bias,
            groups=hidden.shape[-1],
        )
        branch = self.norm(convolved.squeeze(2).transpose(1, 2))
        branch = self.contract(F.gelu(self.expand(branch), approximate="tanh"))
        return hidden + self.scale * branch


def _blocks(size: int, count: int, config: TtTTinyCodecConfig, look_aheads: Sequence[int]) -> nn.ModuleList:
    return nn.ModuleList(TtTTinyCodecBlock(size, config, look_aheads[index]) for index in range(count))


def _limited(count: int, total: int) -> list[int]:
    """Look-ahead of each of `count` blocks when the first `total` of them see one future frame."""
    return [1 if index < total else 0 for index in range(count)]


class TtTTinyCodecEncoder(nn.Module):
    """Normalised log-mel frames -> unbounded quantiser inputs, one for `frames_per_code` frames."""

    def __init__(self, config: TtTTinyCodecConfig):
        super().__init__()
        centred = [config.kernel_size // 2] * max(config.encoder_frame_layers, config.encoder_code_layers)
        self.frames_per_code = config.frames_per_code
        self.embed = nn.Linear(3 * config.num_mel_bins, config.encoder_frame_size)
        self.frame_blocks = _blocks(config.encoder_frame_size, config.encoder_frame_layers, config, centred)
        self.join = nn.Linear(config.frames_per_code * config.encoder_frame_size, config.encoder_code_size)
        self.code_blocks = _blocks(config.encoder_code_size, config.encoder_code_layers, config, centred)
        self.norm = nn.LayerNorm(config.encoder_code_size)
        self.project = nn.Linear(config.encoder_code_size, len(config.fsq_levels))

    def forward(self, mel: Tensor) -> Tensor:
        """float (batch, frames, mel bins) -> float (batch, frames / frames_per_code, quantiser dimensions)."""
        hidden = self.embed(_with_neighbours(mel))
        for block in self.frame_blocks:
            hidden = block(hidden)
        hidden = self.join(hidden.unflatten(1, (-1, self.frames_per_code)).flatten(2))
        for block in self.code_blocks:
            hidden = block(hidden)
        return self.project(self.norm(hidden))


class TtTTinyCodecDecoder(nn.Module):
    """Codebook vectors -> normalised log-mel frames, spoken by the voice whose vector is stored."""

    def __init__(self, config: TtTTinyCodecConfig):
        super().__init__()
        self.frames_per_code = config.frames_per_code
        self.project = nn.Linear(len(config.fsq_levels), config.decoder_code_size)
        self.voice = nn.Parameter(torch.zeros(config.decoder_code_size))
        self.code_blocks = _blocks(
            config.decoder_code_size,
            config.decoder_code_layers,
            config,
            _limited(config.decoder_code_layers, config.decoder_code_look_ahead),
        )
        self.split = nn.Linear(config.decoder_code_size, config.frames_per_code * config.decoder_frame_size)
        self.frame_blocks = _blocks(
            config.decoder_frame_size,
            config.decoder_frame_layers,
            config,
            _limited(config.decoder_frame_layers, config.decoder_frame_look_ahead),
        )
        self.norm = nn.LayerNorm(config.decoder_frame_size)
        self.head = nn.Linear(config.decoder_frame_size, config.num_mel_bins)

    def forward(self, vectors: Tensor, voice: Tensor | None = None) -> Tensor:
        """Predicts the mel spectrogram.

        Args:
            vectors: float (batch, codes, quantiser dimensions) in [-1, 1].
            voice: float (batch, decoder_code_size), the voices of the rows; by default the stored reply voice.

        Returns:
            float (batch, codes * frames_per_code, mel bins).
        """
        hidden = self.project(vectors) + (self.voice if voice is None else voice[:, None])
        for block in self.code_blocks:
            hidden = block(hidden)
        hidden = self.split(hidden).unflatten(2, (self.frames_per_code, -1)).flatten(1, 2)
        for block in self.frame_blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden))


class TtTTinyCodecVocoder(nn.Module):
    """Normalised log-mel frames -> waveform, by predicting magnitude and phase of a short-time Fourier transform.

    The idea is that of Siuzdak, "Vocos: Closing the gap between time-domain and Fourier-based neural vocoders", 2023.
    """

    def __init__(self, config: TtTTinyCodecConfig):
        super().__init__()
        self.n_fft = config.n_fft
        self.hop_length = config.hop_length
        self.embed = nn.Linear(3 * config.num_mel_bins, config.vocoder_size)
        self.blocks = _blocks(
            config.vocoder_size,
            config.vocoder_layers,
            config,
            _limited(config.vocoder_layers, config.vocoder_look_ahead),
        )
        self.norm = nn.LayerNorm(config.vocoder_size)
        self.head = nn.Linear(config.vocoder_size, 2 * (config.n_fft // 2 + 1))

    def forward(self, mel: Tensor) -> Tensor:
        """float (batch, frames, mel bins) -> float (batch, frames * hop_length)."""
        hidden = self.embed(_with_neighbours(mel))
        for block in self.blocks:
            hidden = block(hidden)
        log_magnitude, phase = self.head(self.norm(hidden)).float().chunk(2, dim=-1)
        spectrum = torch.polar(log_magnitude.clamp(max=MAX_LOG_MAGNITUDE).exp(), phase)
        return overlap_add(spectrum, self.n_fft, self.hop_length)


def _with_neighbours(frames: Tensor) -> Tensor:
    """Each frame together with the one before and the one after it: (batch, frames, n) -> (batch, frames, 3 n)."""
    padded = F.pad(frames, (0, 0, 1, 1))
    return torch.cat([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], dim=-1)


class TtTTinyCodec(PreTrainedAudioTokenizerBase):
    """A small single-codebook speech codec with 12.5 codes a second.

    It encodes any voice, and decodes everything in the one reply voice that it was trained to speak with.

    Args:
        config: settings; weights are random until `from_pretrained` or training sets them.
    """

    config_class = TtTTinyCodecConfig
    config: TtTTinyCodecConfig
    base_model_prefix = "codec"
    main_input_name = "waveform"
    input_modalities = ("audio",)

    def __init__(self, config: TtTTinyCodecConfig):
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
            init.constant_(module.scale, 0.1)
        elif isinstance(module, TtTTinyCodecDecoder):
            init.zeros_(module.voice)

    # -- quantiser -----------------------------------------------------------------------------------------------

    def _half_widths(self) -> Tensor:
        return torch.tensor([level // 2 for level in self.config.fsq_levels], device=self.device, dtype=torch.float32)

    def quantise(self, hidden: Tensor) -> Tensor:
        """Rounds encoder outputs to codebook vectors; the gradient passes straight through the rounding.

        Args:
            hidden: float (batch, frames, dimensions), unbounded.

        Returns:
            float (batch, frames, dimensions) in [-1, 1].
        """
        half = self._half_widths()
        bounded = torch.tanh(hidden.float()) * half
        return (bounded + (bounded.round() - bounded).detach()) / half

    def vectors_to_codes(self, vectors: Tensor) -> Tensor:
        """Codebook vectors float (..., dimensions) -> codes long (...); the first dimension counts fastest."""
        half = self._half_widths()
        digits = (vectors.float() * half).round().long() + half.long()
        code = torch.zeros_like(digits[..., 0])
        for index in reversed(range(len(self.config.fsq_levels))):
            code = code * self.config.fsq_levels[index] + digits[..., index]
        return code

    def codes_to_vectors(self, codes: Tensor) -> Tensor:
        """Codes long (...) -> codebook vectors float (..., dimensions) in [-1, 1]."""
        digits = []
        for level in self.config.fsq_levels:
            digits.append(codes % level - level // 2)
            codes = codes // level
        return torch.stack(digits, dim=-1).float() / self._half_widths()

    @property
    def codebook(self) -> Tensor:
        """All codebook vectors, float (codebook_size, dimensions) in [-1, 1]."""
        return self.codes_to_vectors(torch.arange(self.config.codebook_size, device=self.device))

    # -- waveform to codes ---------------------------------------------------------------------------------------

    def mel(self, waveform: Tensor) -> Tensor:
        """Normalised log-mel frames.

        Args:
            waveform: float (batch, samples), samples a multiple of the hop length.

        Returns:
            float (batch, samples / hop_length, mel bins).
        """
        config = self.config
        values = log_mel(
            waveform, config.sampling_rate, config.n_fft, config.hop_length, config.num_mel_bins, config.mel_floor
        )
        return (values - config.mel_mean) / config.mel_std

    def normalise(self, waveform: Tensor) -> Tensor:
        """Scales one waveform (samples,) to the level that the encoder expects, and pads it to whole codes."""
        config = self.config
        scaled = normalise_level(waveform, config.reference_level, config.minimum_level, config.hop_length)
        return F.pad(scaled, (0, -scaled.shape[-1] % config.samples_per_code))

    @torch.no_grad()
    def encode(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Turns waveforms into codes.

        Rows are encoded one after the other, so that a row's codes are the same in every batch.

        Args:
            waveform: float (batch, samples) at `config.sampling_rate`.
            lengths: long (batch,), samples of each row; by default all samples count.

        Returns:
            long (batch, frames) with frames = ceil(samples / config.samples_per_code) of the longest row; -1 behind
            the end of a row.

        Raises:
            ValueError: if the waveform has a wrong shape or type, is empty or holds values that are not finite, or if
                the lengths do not fit it.
        """
        row_lengths = check_waveform(waveform, lengths)
        rows = []
        for row, length in zip(waveform, row_lengths, strict=True):
            normalised = self.normalise(row[:length].to(device=self.device, dtype=torch.float32))
            hidden = self.encoder(self.mel(normalised[None]).to(self.dtype))
            rows.append(self.vectors_to_codes(self.quantise(hidden))[0])
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)

    # -- codes to waveform ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def decode(self, codes: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Turns codes into waveforms.

        Args:
            codes: long (batch, frames) in [0, config.codebook_size); -1 is allowed behind the end of a row only.
            lengths: long (batch,), codes of each row; by default a row ends before its trailing -1.

        Returns:
            float32 (batch, frames * config.samples_per_code) in [-1, 1]; zero behind the end of a row.

        Raises:
            ValueError: if the codes have a wrong shape or type or are out of range, or the lengths do not fit.
        """
        rows = code_rows(codes, lengths, self.config.codebook_size)
        waveform = torch.zeros(len(rows), codes.shape[1] * self.config.samples_per_code, device=self.device)
        for row, row_codes in enumerate(rows):
            waveform[row, : len(row_codes) * self.config.samples_per_code] = self._decode_row(row_codes)
        return waveform

    def decode_stream(self) -> "TtTTinyCodecStream":
        """Opens a stream that decodes codes as they arrive; see [`TtTTinyCodecStream`]."""
        return TtTTinyCodecStream(self)

    def forward(self, waveform: Tensor, lengths: Tensor | None = None) -> TtTTinyCodecOutput:
        """Encodes and decodes; arguments as for `encode`."""
        codes = self.encode(waveform, lengths)
        return TtTTinyCodecOutput(audio_codes=codes, audio_values=self.decode(codes))

    @property
    def look_ahead(self) -> int:
        """Future codes on which the samples of a code depend."""
        frame_blocks: list[Any] = [*self.decoder.frame_blocks, *self.vocoder.blocks]
        code_blocks: list[Any] = [*self.decoder.code_blocks]
        # One frame for the neighbours that the vocoder embeds, and the reach of the synthesis window.
        frames = 1 + self._window_reach() + sum(block.look_ahead for block in frame_blocks)
        codes = sum(block.look_ahead for block in code_blocks)
        return codes + -(-frames // self.config.frames_per_code)

    @property
    def look_behind(self) -> int:
        """Past codes on which the samples of a code depend."""
        frame_blocks: list[Any] = [*self.decoder.frame_blocks, *self.vocoder.blocks]
        code_blocks: list[Any] = [*self.decoder.code_blocks]
        frames = 1 + self._window_reach() + sum(block.look_behind for block in frame_blocks)
        codes = sum(block.look_behind for block in code_blocks)
        return codes + -(-frames // self.config.frames_per_code)

    def _window_reach(self) -> int:
        """Frames on each side whose synthesis window overlaps a frame's own hop."""
        margin = (self.config.n_fft - self.config.hop_length) // 2
        return -(-margin // self.config.hop_length)

    def _decode_row(self, codes: Tensor) -> Tensor:
        """Checked codes (frames,) -> float32 (frames * samples_per_code,)."""
        if codes.numel() == 0:
            return torch.zeros(0, device=self.device)
        vectors = self.codes_to_vectors(codes.to(self.device)[None].long())
        return self.vocoder(self.decoder(vectors.to(self.dtype)))[0].clamp(-1.0, 1.0)


class TtTTinyCodecStream:
    """Decodes codes piece by piece; the pieces together equal `decode` of all codes.

    The samples of a code are given out once the `look_ahead` codes behind it are known. Only as many past codes as the
    decoder can see are kept.

    Args:
        codec: the codec that decodes.
    """

    def __init__(self, codec: TtTTinyCodec):
        self._codec = codec
        self._codes = torch.zeros(0, dtype=torch.long, device=codec.device)
        self._emitted = 0
        self._finished = False

    def push(self, codes: Tensor) -> Tensor:
        """Takes the next codes.

        Args:
            codes: long (n,) in [0, codebook_size), n may be zero.

        Returns:
            float32 (samples,), all samples that can be computed by now and were not yet given out.

        Raises:
            ValueError: if the codes have a wrong shape or type or are out of range.
            RuntimeError: if the stream is finished.
        """
        if self._finished:
            raise RuntimeError("This stream is finished; open a new one with codec.decode_stream().")
        if codes.ndim != 1:
            raise ValueError(f"A stream takes codes of the shape (n,), not {tuple(codes.shape)}.")
        check_codes(codes, self._codec.config.codebook_size)
        self._codes = torch.cat([self._codes, codes.to(self._codes)])
        return self._advance(len(self._codes) - self._codec.look_ahead)

    def finish(self) -> Tensor:
        """Ends the stream and returns the samples that were held back, float32 (samples,)."""
        if self._finished:
            raise RuntimeError("This stream is finished; open a new one with codec.decode_stream().")
        self._finished = True
        return self._advance(len(self._codes))

    @torch.no_grad()
    def _advance(self, end: int) -> Tensor:
        """Samples of the kept codes from the first one not yet given out up to `end`."""
        if end <= self._emitted:
            return torch.zeros(0, device=self._codec.device)
        samples_per_code = self._codec.config.samples_per_code
        samples = self._codec._decode_row(self._codes)[self._emitted * samples_per_code : end * samples_per_code]
        surplus = max(0, end - self._codec.look_behind)
        self._codes = self._codes[surplus:]
        self._emitted = end - surplus
        return samples
