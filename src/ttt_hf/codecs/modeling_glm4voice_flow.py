"""Flow matching of the GLM-4-Voice decoder: codes to mel spectrogram, by a block conformer and a U-Net.

Sources: Du et al., "CosyVoice: A Scalable Multilingual Zero-shot Text-to-speech Synthesizer based on Supervised
Semantic Tokens", 2024, section 2.3; for the U-Net Mehta et al., "Matcha-TTS: A fast TTS architecture with conditional
flow matching", 2024.
"""

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_glm4voice import Glm4VoiceDecoderConfig


# Groups of the U-Net's group norms, and scale of its time in [0, 1]: constants of the published model.
NORM_GROUPS = 8
TIME_SCALE = 1000.0


class Glm4VoiceRelativeAttention(nn.Module):
    """Self-attention with relative positions (Dai et al., "Transformer-XL", 2019, section 3.3)."""

    def __init__(self, config: Glm4VoiceDecoderConfig) -> None:
        super().__init__()
        size, heads = config.hidden_size, config.num_attention_heads
        self.linear_q = nn.Linear(size, size)
        self.linear_k = nn.Linear(size, size)
        self.linear_v = nn.Linear(size, size)
        self.linear_out = nn.Linear(size, size)
        self.linear_pos = nn.Linear(size, size, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(heads, size // heads))
        self.pos_bias_v = nn.Parameter(torch.zeros(heads, size // heads))

    def forward(self, hidden: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Computes attention by content and by relative position.

        Args:
            hidden: Float of shape `(batch, codes, size)`.
            positions: Float of shape `(2 * codes - 1, size)`, encodings of the distances
                codes - 1 down to 1 - codes.
            mask: Bool of shape `(codes, codes)`, true where a query sees a key.

        Returns:
            Float of shape `(batch, codes, size)`.
        """
        length = hidden.shape[1]
        heads, head_size = self.pos_bias_u.shape
        # Queries stay (batch, codes, heads, head size) for the biases; keys, values: (batch, heads, codes, head size).
        query = self.linear_q(hidden).unflatten(-1, (heads, head_size))
        key = self.linear_k(hidden).unflatten(-1, (heads, head_size)).transpose(1, 2)
        value = self.linear_v(hidden).unflatten(-1, (heads, head_size)).transpose(1, 2)
        distance = self.linear_pos(positions).unflatten(-1, (heads, head_size)).transpose(0, 1)
        # (batch, heads, codes, 2 * codes - 1)
        by_distance = (query + self.pos_bias_v).transpose(1, 2) @ distance.transpose(-1, -2)
        # The distance of the key at j from the query at i is i - j; its encoding is in row (length - 1) - (i - j).
        order = torch.arange(length, device=hidden.device)
        index = length - 1 - order[:, None] + order
        by_position = by_distance.gather(-1, index.expand(*by_distance.shape[:2], length, length))
        by_content = (query + self.pos_bias_u).transpose(1, 2) @ key.transpose(-1, -2)
        scores = (by_content + by_position) / math.sqrt(head_size)
        # No row of scores is all -inf, since a code sees itself.
        attended = scores.masked_fill(~mask, -torch.inf).softmax(-1) @ value
        return self.linear_out(attended.transpose(1, 2).flatten(2))


class Glm4VoiceConformerLayer(nn.Module):
    """Pre-norm attention and feed-forward layer, without the convolution of a conformer."""

    def __init__(self, config: Glm4VoiceDecoderConfig) -> None:
        super().__init__()
        size, inner = config.hidden_size, config.intermediate_size
        self.self_attn = Glm4VoiceRelativeAttention(config)
        layers = OrderedDict(w_1=nn.Linear(size, inner), silu=nn.SiLU(), w_2=nn.Linear(inner, size))
        self.feed_forward = nn.Sequential(layers)
        self.norm_mha = nn.LayerNorm(size)
        self.norm_ff = nn.LayerNorm(size)

    def forward(self, hidden: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Arguments as for [`Glm4VoiceRelativeAttention`]."""
        hidden = hidden + self.self_attn(self.norm_mha(hidden), positions, mask)
        return hidden + self.feed_forward(self.norm_ff(hidden))


class Glm4VoiceConformer(nn.Module):
    """Block-causal encoder: codes see their own block and all blocks before it."""

    def __init__(self, config: Glm4VoiceDecoderConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.block_size = config.block_size
        self.embed = nn.Sequential(nn.Linear(size, size), nn.LayerNorm(size))
        self.layers = nn.ModuleList(Glm4VoiceConformerLayer(config) for _ in range(config.num_hidden_layers))
        self.after_norm = nn.LayerNorm(size)

    def forward(self, embedded: Tensor) -> Tensor:
        """Transforms float `(batch, codes, size)`, keeping the shape."""
        length, size = embedded.shape[1:]
        distances = torch.arange(length - 1, -length, -1, device=embedded.device)
        positions = _sinusoids(distances, size, interleaved=True).to(embedded.dtype)
        block = torch.arange(length, device=embedded.device) // self.block_size
        hidden = self.embed(embedded) * math.sqrt(size)
        for layer in self.layers:
            # Rows of the mask are queries, columns keys.
            hidden = layer(hidden, positions, block <= block[:, None])
        return self.after_norm(hidden)


class Glm4VoiceResidualBlock(nn.Module):
    """Two convolutions, with an embedding of the flow's time added between them."""

    def __init__(self, input_size: int, size: int, time_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(time_size, size))
        self.block1 = _convolution(input_size, size)
        self.block2 = _convolution(size, size)
        self.res_conv = nn.Conv1d(input_size, size, 1)

    def forward(self, hidden: Tensor, time: Tensor) -> Tensor:
        """Transforms `(batch, input size, frames)` to `(batch, size, frames)`; `time` is `(batch, time size)`."""
        return self.block2(self.block1(hidden) + self.mlp(time)[..., None]) + self.res_conv(hidden)


class Glm4VoiceFrameAttention(nn.Module):
    """Self-attention over all frames."""

    def __init__(self, config: Glm4VoiceDecoderConfig) -> None:
        super().__init__()
        self.heads = config.unet_heads
        inner = config.unet_heads * config.unet_head_size
        self.to_q = nn.Linear(config.unet_channels, inner, bias=False)
        self.to_k = nn.Linear(config.unet_channels, inner, bias=False)
        self.to_v = nn.Linear(config.unet_channels, inner, bias=False)
        self.to_out = nn.Linear(inner, config.unet_channels)

    def forward(self, hidden: Tensor) -> Tensor:
        """Attends over frames, float `(batch, frames, size)`, keeping the shape."""
        # (batch, heads, frames, head size)
        query, key, value = (
            project(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        return self.to_out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Glm4VoiceFrameLayer(nn.Module):
    """A Transformer layer of the U-Net."""

    def __init__(self, config: Glm4VoiceDecoderConfig) -> None:
        super().__init__()
        size = config.unet_channels
        self.norm1 = nn.LayerNorm(size)
        self.attn = Glm4VoiceFrameAttention(config)
        self.norm3 = nn.LayerNorm(size)
        self.ff = nn.Sequential(nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))

    def forward(self, hidden: Tensor) -> Tensor:
        """Transforms float `(batch, frames, size)`, keeping the shape."""
        hidden = hidden + self.attn(self.norm1(hidden))
        return hidden + self.ff(self.norm3(hidden))


class Glm4VoiceUNetBlock(nn.Module):
    """A residual block, Transformer layers and, outside the middle of the U-Net, a change of resolution."""

    def __init__(self, config: Glm4VoiceDecoderConfig, input_size: int, resample: nn.Module | None = None) -> None:
        super().__init__()
        self.resnet = Glm4VoiceResidualBlock(input_size, config.unet_channels, 4 * config.unet_channels)
        self.layers = nn.ModuleList(Glm4VoiceFrameLayer(config) for _ in range(config.unet_layers))
        self.resample = resample if resample is not None else nn.Identity()

    def forward(self, hidden: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Transforms frames; arguments as for [`Glm4VoiceResidualBlock`].

        Returns:
            Float of shape `(batch, size, frames)` before the change of resolution, and the result after it.
        """
        # Channels last for the Transformer layers, first for the convolutions around them.
        hidden = self.resnet(hidden, time).transpose(1, 2)
        for layer in self.layers:
            hidden = layer(hidden)
        hidden = hidden.transpose(1, 2)
        return hidden, self.resample(hidden)


class Glm4VoiceUNet(nn.Module):
    """Predicts the velocity of the flow from noise to mel spectrogram."""

    def __init__(self, config: Glm4VoiceDecoderConfig) -> None:
        super().__init__()
        bins, size, last = config.num_mel_bins, config.unet_channels, config.unet_levels - 1
        self.time_mlp = nn.Sequential(nn.Linear(4 * bins, 4 * size), nn.SiLU(), nn.Linear(4 * size, 4 * size))
        down, up = [], []
        for level in range(config.unet_levels):
            # The last level keeps its resolution, on the way down and on the way up.
            halve = nn.Conv1d(size, size, 3, stride=1 if level == last else 2, padding=1)
            double = nn.Conv1d(size, size, 3, padding=1) if level == last else nn.ConvTranspose1d(size, size, 4, 2, 1)
            # First input: mel, mean, speaker and known frames. On the way up the channels of the skip are added.
            down.append(Glm4VoiceUNetBlock(config, size if level else 4 * bins, halve))
            up.append(Glm4VoiceUNetBlock(config, 2 * size, double))
        self.down_blocks = nn.ModuleList(down)
        self.mid_blocks = nn.ModuleList(Glm4VoiceUNetBlock(config, size) for _ in range(config.unet_mid_blocks))
        self.up_blocks = nn.ModuleList(up)
        self.final_block = _convolution(size, size)
        self.final_proj = nn.Conv1d(size, bins, 1)

    def forward(self, mel: Tensor, mean: Tensor, speaker: Tensor, known: Tensor, time: Tensor) -> Tensor:
        """Predicts the velocity; all rows have the same length.

        Args:
            mel: State of the flow, float of shape `(batch, bins, frames)`.
            mean: Condition from the codes, float of shape `(batch, bins, frames)`.
            speaker: Projected speaker embedding, float of shape `(batch, bins)`.
            known: Known frames, zero elsewhere; float of shape `(batch, bins, frames)`.
            time: Time of the flow in [0, 1], float of shape `(batch,)`.

        Returns:
            Float of shape `(batch, bins, frames)`.
        """
        # Conditions are stacked as channels; the speaker is the same in every frame.
        dtype, frames = self.final_proj.weight.dtype, mel.shape[-1]
        hidden = torch.cat([mel, mean, speaker[..., None].expand(-1, -1, frames), known], dim=1).to(dtype)
        encoded = _sinusoids(TIME_SCALE * time, hidden.shape[1], interleaved=False)
        time = self.time_mlp(encoded.to(dtype))
        # U-Net: each block on the way up also gets the frames of its resolution from the way down.
        skipped = []
        for block in self.down_blocks:
            skip, hidden = block(hidden, time)
            skipped.append(skip)
        for block in self.mid_blocks:
            hidden, _ = block(hidden, time)
        for block in self.up_blocks:
            skip = skipped.pop()
            # Halving and doubling an odd number of frames gives one frame more.
            _, hidden = block(torch.cat([hidden[..., : skip.shape[-1]], skip], dim=1), time)
        return self.final_proj(self.final_block(hidden[..., :frames]))


class Glm4VoiceFlow(nn.Module):
    """Transforms codes and noise to a mel spectrogram."""

    def __init__(self, config: Glm4VoiceDecoderConfig) -> None:
        super().__init__()
        bins = config.num_mel_bins
        self.config = config
        self.input_embedding = nn.Embedding(config.codebook_size, config.hidden_size)
        self.speaker = nn.Linear(config.speaker_size, bins)
        self.encoder = Glm4VoiceConformer(config)
        self.encoder_proj = nn.Linear(config.hidden_size, bins)
        smoothing = [_convolution(bins, bins, groups=1) for _ in range(config.regulator_layers)]
        modules = [module for convolution in smoothing for module in convolution]
        self.length_regulator = nn.Sequential(*modules, nn.Conv1d(bins, bins, 1))
        self.estimator = Glm4VoiceUNet(config)

    def mean(self, codes: Tensor) -> Tensor:
        """Condition of the flow from codes `(batch, codes)`, float of shape `(batch, bins, frames)`."""
        hidden = self.encoder_proj(self.encoder(self.input_embedding(codes))).transpose(1, 2)
        # Codes and mel frames have unrelated rates: nearest neighbours, then convolutions that smooth the steps.
        stretched = F.interpolate(hidden, size=self.config.num_frames(codes.shape[1]), mode="nearest")
        return self.length_regulator(stretched)

    def forward(self, codes: Tensor, noise: Tensor, known: Tensor, speaker: Tensor) -> Tensor:
        """Solves the flow with Euler's method and classifier-free guidance.

        Args:
            codes: `torch.long` of shape `(batch, codes)`.
            noise: Start of the flow, standard normal, float32 of shape `(batch, bins, frames)`.
            known: First frames of the spectrogram as a condition, float32 of shape `(batch, bins, known frames)`.
            speaker: Speaker embedding, float of shape `(batch, speaker_size)`; zero for the default voice.

        Returns:
            Float32 of shape `(batch, bins, frames)`, with predictions for the known frames, too.
        """
        config = self.config
        mean = self.mean(codes).float()
        # Normalisation leaves the zero vector of the default voice as it is.
        voice = self.speaker(F.normalize(speaker.to(self.speaker.weight.dtype), dim=-1)).float()
        known = F.pad(known, (0, noise.shape[-1] - known.shape[-1]))
        # One forward for both halves of guidance: the second half of the batch is unconditional.
        conditions = [torch.cat([value, torch.zeros_like(value)]) for value in (mean, voice, known)]
        # Cosine schedule: small steps near the noise.
        times = 1 - torch.cos(torch.linspace(0, 1, config.num_steps + 1, device=noise.device) * (0.5 * torch.pi))
        # The state of the solver stays in float32 when the model is in half precision.
        mel = noise.float()
        for step in range(config.num_steps):
            time = times[step].expand(2 * mel.shape[0])
            guided, free = self.estimator(torch.cat([mel, mel]), *conditions, time).float().chunk(2)
            # Guidance moves the velocity away from the unconditional one.
            mel = mel + (times[step + 1] - times[step]) * ((1 + config.guidance) * guided - config.guidance * free)
        return mel


def _convolution(input_size: int, size: int, groups: int = NORM_GROUPS) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(input_size, size, 3, padding=1), nn.GroupNorm(groups, size), nn.Mish())


def _sinusoids(values: Tensor, size: int, interleaved: bool) -> Tensor:
    """Sinusoidal encoding of numbers `(n,)`, sines and cosines alternating or in two halves, of shape `(n, size)`."""
    half = size // 2
    # Operations in the order of the published code: at angles of a thousand radians every rounding is visible.
    frequency = torch.exp(torch.arange(half, device=values.device) * -(math.log(10000.0) / (half - (not interleaved))))
    angles = values[:, None].float() * frequency
    waves = torch.stack([angles.sin(), angles.cos()], dim=-1 if interleaved else -2)
    return waves.flatten(-2)
