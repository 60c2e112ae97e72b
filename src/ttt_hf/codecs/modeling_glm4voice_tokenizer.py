"""The tokenizer of GLM-4-Voice, waveform to codes: a block-causal Whisper encoder with pooling and a quantiser.

Source: Zeng et al., "GLM-4-Voice: Towards Intelligent and Human-Like End-to-End Spoken Chatbot", 2024, section 2.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_glm4voice import Glm4VoiceTokenizerConfig


# Chunks per forward of the encoder.
BATCH_SIZE = 8


@dataclass
class Glm4VoiceTokenizerOutput(ModelOutput):
    """Output of the tokenizer's `forward`.

    Args:
        hidden: Vectors before quantisation, float32 of shape `(batch, codes, d_model)`.
        audio_codes: `torch.long` of shape `(batch, codes)`.
    """

    hidden: Tensor | None = None
    audio_codes: Tensor | None = None


class Glm4VoiceCausalConv(nn.Conv1d):
    """A causal convolution."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Transforms `(batch, channels, frames)` to `(batch, channels, ceil(frames / stride))`."""
        return super().forward(F.pad(hidden, (self.kernel_size[0] - 1, 0)))


class Glm4VoiceTokenizer(PreTrainedModel):
    """Encodes waveforms to codes, 12.5 per second.

    Args:
        config: Settings; weights are random until `from_pretrained` sets them.
    """

    config_class = Glm4VoiceTokenizerConfig
    config: Glm4VoiceTokenizerConfig
    base_model_prefix = "tokenizer"
    main_input_name = "input_features"
    input_modalities = ("audio",)
    _no_split_modules = ("WhisperEncoderLayer",)
    _supports_sdpa = True

    def __init__(self, config: Glm4VoiceTokenizerConfig) -> None:
        super().__init__(config)
        # Imported late: Whisper takes longer to import than the rest of this package.
        from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer

        self.conv1 = Glm4VoiceCausalConv(config.num_mel_bins, config.d_model, 3)
        self.conv2 = Glm4VoiceCausalConv(config.d_model, config.d_model, 3, stride=2)
        self.embed_positions = nn.Embedding(config.max_source_positions, config.d_model)
        self.layers = nn.ModuleList(WhisperEncoderLayer(config) for _ in range(config.encoder_layers))
        self.codebook = nn.Embedding(config.codebook_size, config.d_model)
        self.post_init()

    def forward(self, input_features: Tensor, attention_mask: Tensor | None = None) -> Glm4VoiceTokenizerOutput:
        """Encodes features.

        Args:
            input_features: Float of shape `(batch, mel bins, frames)`, log-mel features of `WhisperFeatureExtractor`.
            attention_mask: `torch.long` or bool of shape `(batch, frames)`, 0 after the end of a row; by default all
                frames count.

        Returns:
            Vectors and codes; those after the end of a row are undefined.
        """
        config = self.config
        if attention_mask is None:
            attention_mask = torch.ones_like(input_features[:, 0])
        hidden = F.gelu(self.conv1(input_features.to(self.dtype)))
        # (batch, frames / 2, d_model)
        hidden = F.gelu(self.conv2(hidden)).transpose(1, 2)
        hidden = hidden + self.embed_positions.weight[: hidden.shape[1]]
        # The second convolution halves the frame rate, and the mask with it.
        valid, block_size = attention_mask[:, ::2].bool(), config.block_size
        mask = self._attention_bias(valid, block_size)
        for number, layer in enumerate(self.layers, start=1):
            hidden = layer(hidden, mask)
            if number == config.pooling_position:
                size = config.pooling_kernel_size
                # An incomplete last code is padded with zeros; `encode` passes complete codes only.
                hidden = F.pad(hidden, (0, 0, 0, -hidden.shape[1] % size)).unflatten(1, (-1, size)).mean(2)
                # A code counts if its first frame does, and blocks cover as much time as before.
                mask = self._attention_bias(valid[:, ::size], block_size // size)
        hidden = hidden.float()
        return Glm4VoiceTokenizerOutput(hidden=hidden, audio_codes=self.quantise(hidden))

    def quantise(self, hidden: Tensor) -> Tensor:
        """Codes `(batch, codes)` of the nearest codebook vectors to float `(batch, codes, d_model)`."""
        # The squared norm of `hidden` is the same for all codes, so it is left out of the distance.
        codebook = self.codebook.weight.float()
        return (codebook.square().sum(1) - 2 * hidden.float() @ codebook.T).argmin(-1)

    @torch.no_grad()
    def encode(self, waveform: Tensor, lengths: Sequence[int]) -> Tensor:
        """Encodes waveforms to codes.

        Rows are cut into chunks of 30 s. Features are computed per chunk, so that codes do not depend on the batch.

        Args:
            waveform: Float of shape `(batch, samples)` at `config.sampling_rate`.
            lengths: Samples of each row, at least one.

        Returns:
            `torch.long` of shape `(batch, frames)`, frames = ceil(samples / config.samples_per_code) of the longest
            row; -1 after the end of a row.
        """
        config = self.config
        chunks = [
            (row, chunk)
            for row, length in enumerate(lengths)
            for chunk in waveform[row, :length].float().split(config.chunk_length * config.sampling_rate)
        ]
        codes: list[list[Tensor]] = [[] for _ in lengths]
        # A forward takes chunks of any rows; the mask hides the padding of shorter ones.
        for start in range(0, len(chunks), BATCH_SIZE):
            part = chunks[start : start + BATCH_SIZE]
            # `pad_sequence` needs time as the first axis.
            features = [self.features(chunk).T for _, chunk in part]
            frames = torch.tensor([-(-len(chunk) // config.hop_length) for _, chunk in part], device=self.device)
            batch = nn.utils.rnn.pad_sequence(features, batch_first=True).transpose(1, 2)
            mask = torch.arange(batch.shape[2], device=self.device) < frames[:, None]
            for (row, chunk), found in zip(part, self(batch, mask).audio_codes, strict=True):
                # Codes of padding are dropped.
                codes[row].append(found[: -(-len(chunk) // config.samples_per_code)])
        return nn.utils.rnn.pad_sequence([torch.cat(row) for row in codes], batch_first=True, padding_value=-1)

    def features(self, samples: Tensor) -> Tensor:
        """Log-mel features `(mel bins, frames)` of samples `(samples,)`, padded to complete codes."""
        extracted = self._feature_extractor(
            samples.cpu().numpy(),
            sampling_rate=self.config.sampling_rate,
            padding="longest",
            pad_to_multiple_of=self.config.samples_per_code,
            return_tensors="pt",
        )
        return extracted.input_features[0].to(self.device)

    @cached_property
    def _feature_extractor(self) -> Any:  # imported late, as above
        from transformers import WhisperFeatureExtractor

        config = self.config
        return WhisperFeatureExtractor(
            feature_size=config.num_mel_bins,
            sampling_rate=config.sampling_rate,
            hop_length=config.hop_length,
            chunk_length=config.chunk_length,
            n_fft=config.n_fft,
        )

    def _attention_bias(self, valid: Tensor, block_size: int) -> Tensor:
        """Block-causal mask as a bias on attention scores, float of shape `(batch, 1, frames, frames)`."""
        frames = torch.arange(valid.shape[1], device=valid.device)
        block = frames // block_size
        seen = (block <= block[:, None]) & valid[:, None, None, :]
        bias = torch.zeros_like(seen, dtype=self.dtype)
        return bias.masked_fill(~seen, torch.finfo(self.dtype).min)
