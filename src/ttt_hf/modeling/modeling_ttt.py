"""TtT: one decoder-only Transformer that predicts text token by token and audio by block-wise masked diffusion."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.utils import ModelOutput, logging
from transformers.utils.generic import can_return_tuple

from .cache_ttt import cache_argument
from .configuration_ttt import TtTConfig
from .generation_ttt import TtTGenerationMixin
from .growing_ttt import grow_text_model
from .head_ttt import LogitSelection, select_logits
from .loss_ttt import audio_loss, sample_ids, text_loss, text_target_mask, token_losses
from .masking_ttt import (
    NO_ORDER,
    AttentionKeys,
    AttentionMask,
    AttentionQueries,
    attention_windows,
    audio_block_ids,
    build_attention_mask,
    isolate_padding,
)


logger = logging.get_logger(__name__)


@dataclass
class TtTOutputWithPast(ModelOutput):
    """Output of `TtTForConditionalGeneration.forward`.

    Attributes:
        loss: `text_loss + audio_loss` (only `text_loss` without `audio_loss_weights`); scalar, only with `labels`.
        text_loss: Autoregressive loss over text targets; scalar, only with `labels`.
        audio_loss: Diffusion loss over audio targets; scalar, only with `labels` and `audio_loss_weights`.
        logits: Shape `(batch, kept positions, vocabulary)`; `None` in training with `labels`, which need logits at
            targets only. Those at position i predict a text label at i + 1, and an audio label at i itself.
        cache: The cache, with `use_cache`; also found as `past_key_values`.
        hidden_states: One tensor `(batch, length, hidden)` per layer, with `output_hidden_states`.
        attentions: One tensor `(batch, heads, length, keys)` per layer, with `output_attentions` (eager attention).
        num_text_targets: Number of text targets, 0-dimensional `torch.long`, only with `labels`.
        num_audio_targets: Number of audio targets, 0-dimensional `torch.long`, only with `labels`.
        text_correct: Whether the most likely id is the target's, `torch.bool` of shape `(num_text_targets,)`, row
            after row, only with `labels`.
        audio_correct: The same for audio, `torch.bool` of shape `(num_audio_targets,)`, only with `labels`.
        num_samples: Number of samples over which the losses are averaged, 0-dimensional `torch.long`, only with
            `labels`.
    """

    loss: torch.Tensor | None = None
    text_loss: torch.Tensor | None = None
    audio_loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    cache: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    num_text_targets: torch.Tensor | None = None
    num_audio_targets: torch.Tensor | None = None
    text_correct: torch.Tensor | None = None
    audio_correct: torch.Tensor | None = None
    num_samples: torch.Tensor | None = None

    @property
    def past_key_values(self) -> Cache | None:
        """The cache, by its name before transformers 5.24."""
        return self.cache


class TtTForConditionalGeneration(PreTrainedModel, TtTGenerationMixin):
    """A TtT model over any decoder-only backbone.

    Parameters are called `model.*` and `lm_head.weight` as in transformers' causal language models, so their
    checkpoints and those of the official TtT code load unchanged. `forward` draws no random numbers: noise is part of
    its inputs.

    Args:
        config: The configuration; its `text_config` selects the backbone.
    """

    config: TtTConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("text", "audio")
    output_modalities = ("text", "audio")
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    supports_gradient_checkpointing = True
    # The loss is a mean over samples, regardless of their lengths: the Trainer averages accumulated micro-batches.
    accepts_loss_kwargs = False

    def __init__(self, config: TtTConfig) -> None:
        super().__init__(config)
        # Raises for a backbone that cannot express the hybrid mask, before weights are allocated.
        attention_windows(config.text_config)
        # The backbone gets the dtype in which this model is being built, not the one saved in its own config.
        backbone: PreTrainedModel = AutoModel.from_config(
            config.text_config, dtype=torch.get_default_dtype(), trust_remote_code=False
        )
        self.model = backbone
        self._cache_argument = cache_argument(backbone)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        # The name of the embedding depends on the backbone, so the tied weights are known only now.
        embeddings = backbone.get_input_embeddings()
        source = next(name for name, module in backbone.named_modules() if module is embeddings)
        self._tied_weights_keys = {"lm_head.weight": f"model.{source}.weight"}
        self.post_init()

    @classmethod
    def from_text_model(
        cls,
        text_model: str | os.PathLike | PreTrainedModel,
        codec: Any = None,
        audio_vocab_size: int | None = None,
        tokenizer: Any = None,
        seed: int = 0,
        text_tokens: Sequence[str] = (),
        **config_kwargs: Any,
    ) -> "TtTForConditionalGeneration":
        """Creates a TtT from a decoder-only text model: adds the audio tokens and keeps its text behaviour unchanged.

        Args:
            text_model: A causal language model, which is not modified, or its Hub id or folder.
            codec: Audio codec (or its configuration) whose `codebook_size` is the number of codes.
            audio_vocab_size: Number of codes, instead of `codec`.
            tokenizer: The text model's tokenizer, to which the audio tokens are added in place. Without one the new
                ids follow the model's vocabulary.
            seed: Seed of the new embedding rows; torch's global generator is not used.
            text_tokens: Further special tokens to add to the tokenizer unless it has them, e.g. those of the chat
                format, `TURN_START_TOKEN` and `TURN_END_TOKEN`.
            **config_kwargs: Further fields of `TtTConfig`, e.g. `audio_attention`.

        Returns:
            The model in the dtype and on the device of the text model. Logits of existing ids are unchanged.

        Raises:
            ValueError: If the number of codes is missing or given twice, the tokenizer already has audio tokens, or
                the text model is not a plain decoder-only model or does not follow TtT's mask and cache.
        """
        if (codec is None) == (audio_vocab_size is None):
            raise ValueError("Pass either codec or audio_vocab_size, so that the number of audio codes is known.")
        if audio_vocab_size is None:
            audio_vocab_size = int(getattr(codec, "config", codec).codebook_size)
        if not isinstance(text_model, PreTrainedModel):
            text_model = AutoModelForCausalLM.from_pretrained(text_model, trust_remote_code=False)
        return grow_text_model(cls, text_model, audio_vocab_size, tokenizer, seed, text_tokens, config_kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Saves weights, configuration and the modeling code, see `PreTrainedModel.save_pretrained`."""
        # A class can register for a single Auto class; this entry makes the other one find the same code.
        name = type(self).__name__
        auto_map = getattr(self.config, "auto_map", None) or {}
        self.config.auto_map = {**auto_map, "AutoModelForMultimodalLM": f"modeling_ttt.{name}"}
        super().save_pretrained(save_directory, **kwargs)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Pads the vocabulary to a multiple, or removes such padding; it can neither lose nor gain tokens.

        Args:
            new_num_tokens: Number of tokens before padding; by default the present one.
            pad_to_multiple_of: See `PreTrainedModel.resize_token_embeddings`.
            mean_resizing: See `PreTrainedModel.resize_token_embeddings`.

        Returns:
            The input embeddings.

        Raises:
            ValueError: If audio tokens would be cut off, or if tokens would be added, which would count as audio.
        """
        size = self.config.get_text_config().vocab_size
        needed = max(self.config.mask_token_id, *(self.config.end_audio_token_ids or [])) + 1
        if new_num_tokens is not None and new_num_tokens < needed:
            raise ValueError(
                f"A vocabulary of {new_num_tokens} tokens would cut off the audio tokens of this model, which needs "
                f"{needed}: keep them, or use the text model without audio."
            )
        if new_num_tokens is not None and new_num_tokens > size:
            raise ValueError(
                f"A vocabulary of {new_num_tokens} tokens instead of {size} would have new ones after those of audio, "
                "where every id counts as audio: add text tokens to the text model, before from_text_model(..., "
                "text_tokens=[...]) makes it a TtT; to pad the vocabulary, pass pad_to_multiple_of alone."
            )
        return super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: AttentionMask | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        block_ids: torch.Tensor | None = None,
        audio_loss_weights: torch.Tensor | None = None,
        order_ids: torch.Tensor | None = None,
        horizon_ids: torch.Tensor | None = None,
        start_ids: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        logit_selections: Sequence[LogitSelection] | None = None,
        use_cache: bool | None = None,
        cache: Cache | None = None,
        return_logits: bool | None = None,
        **kwargs: Any,
    ) -> TtTOutputWithPast:
        """Runs the backbone with hybrid attention; with `labels` it computes the losses, not all logits in training.

        Args:
            input_ids: Token ids, with noised positions where the model denoises; `torch.long` of shape
                `(batch, length)`.
            attention_mask: Padding mask, 1 for tokens and 0 for padding, of shape `(batch, cached + length)`; or a
                mask prepared by `build_attention_mask`, which is used unchanged.
            position_ids: Positions for the position encoding, `torch.long` of shape `(batch, length)`. Defaults to the
                index of each token in its row, not counting padding.
            past_key_values: Cache of earlier positions, which must be final: text and closed spans.
            inputs_embeds: Embeddings instead of `input_ids`, shape `(batch, length, hidden)`; without `block_ids` they
                are taken for text.
            labels: Clean id at each position, -100 to ignore it, `torch.long` of shape `(batch, length)`. Text is
                predicted from the position before, audio (where `audio_loss_weights` is not 0) at the position itself.
            block_ids: Groups of positions that see each other, shape `(batch, cached + length)`, see
                `audio_block_ids`. Defaults to the spans (or blocks) found in `input_ids`.
            audio_loss_weights: Weight of the cross-entropy of `labels[b, i]` predicted at position i, 0 for no target,
                float of shape `(batch, length)`. Without it there is no audio loss.
            order_ids: Index of each position among the clean tokens, `NO_ORDER` for noised copies, shape
                `(batch, cached + length)`. Defaults to the position's index. Needs `position_ids` and `horizon_ids`.
            horizon_ids: First order that a position no longer sees, shape `(batch, length)`. Defaults to the
                position's index plus one.
            start_ids: First order that a position sees, shape `(batch, length)`: that of the first token of its sample
                if rows hold several packed samples, each of which counts as one in the losses. Defaults to 0, one
                sample per row.
            logits_to_keep: Number of last positions to compute logits for (0: all), or a tensor of positions.
            logit_selections: Positions and ids to compute logits for, each of which gives a tensor of shape
                `(positions, columns)` in the tuple `logits`: what a decoding step needs, and no more.
            use_cache: Whether to return the cache. Defaults to the backbone's setting, and to `False` with `labels`.
            cache: The name of `past_key_values` since transformers 5.24.
            return_logits: Whether to return logits next to losses, e.g. for `compute_metrics`. Defaults to `True` in
                evaluation mode, and to `False` in training, where logits are computed at targets only.
            **kwargs: Passed on to the backbone, e.g. `output_hidden_states`.

        Raises:
            ValueError: If arguments contradict each other, or do not determine the attention mask.
        """
        # 1. Embeddings and cache
        _check_inputs(input_ids, inputs_embeds, kwargs)
        past_key_values = _one_of(past_key_values, cache)
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if use_cache is None:
            use_cache = labels is None and getattr(self.config.text_config, "use_cache", True)
        if use_cache and past_key_values is None:
            # Without a config all layers keep all keys, including those with a sliding window: a span may exceed it.
            past_key_values = DynamicCache()

        # 2. What each position sees: its order, and the interval [start, horizon) of orders visible to it
        length = inputs_embeds.shape[1]
        padding_mask = None
        if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
            padding_mask, attention_mask = attention_mask, None
        _check_orders(order_ids, position_ids, horizon_ids)
        if position_ids is None:
            position_ids = self._default_position_ids(inputs_embeds, padding_mask, past_key_values)
        if order_ids is None:
            order_ids = self._default_order_ids(inputs_embeds, past_key_values)
        # Before the default is filled in: given starts mean that rows may hold several samples.
        packed = start_ids is not None
        if start_ids is None:
            start_ids = torch.zeros_like(order_ids[:, -length:])
        if horizon_ids is None:
            horizon_ids = order_ids[:, -length:] + 1
        if padding_mask is not None:
            _check_covers("attention_mask", padding_mask, order_ids)
            order_ids = order_ids.masked_fill(~padding_mask.to(device=order_ids.device, dtype=torch.bool), NO_ORDER)

        # 3. The backbone, under the hybrid mask
        if attention_mask is None:
            keys = AttentionKeys(order_ids, self._block_ids(block_ids, input_ids, labels, padding_mask, order_ids))
            attention_mask = self._hybrid_mask(
                inputs_embeds, padding_mask, position_ids, past_key_values, keys, horizon_ids, start_ids
            )
        outputs = self.model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **{self._cache_argument: past_key_values},
            **kwargs,
        )
        # 4. Logits, or losses
        results: dict[str, Any] = {}
        if labels is not None:
            results = self._losses(outputs.last_hidden_state, labels, audio_loss_weights, order_ids, start_ids, packed)
        if logit_selections is not None:
            results["logits"] = select_logits(self.lm_head, outputs.last_hidden_state, logit_selections)
        elif labels is None or (not self.training if return_logits is None else return_logits):
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            results["logits"] = self.lm_head(outputs.last_hidden_state[:, kept])
        return TtTOutputWithPast(
            **results,
            # Backbones fill the cache that they are given.
            cache=past_key_values if use_cache else None,
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )

    def _losses(
        self,
        hidden_states: torch.Tensor,
        labels: torch.Tensor,
        audio_loss_weights: torch.Tensor | None,
        order_ids: torch.Tensor,
        start_ids: torch.Tensor,
        packed: bool,
    ) -> dict[str, Any]:
        """Losses, counts and accuracies; logits are computed at targets only."""
        # Losses concern the new positions, while orders cover cached ones as well.
        order_ids = order_ids[:, -labels.shape[1] :]
        # (batch, length - 1): index i stands for the target at i + 1.
        text_mask = text_target_mask(labels, self.config.audio_token_start_id, order_ids, start_ids, NO_ORDER)
        text_rows, text_index = text_mask.nonzero(as_tuple=True)
        # Text is predicted from the position before it, audio at its own (masked) position.
        # (targets, hidden) and (targets,), text first.
        states, targets = [hidden_states[text_rows, text_index]], [labels[text_rows, text_index + 1]]
        if audio_loss_weights is not None:
            audio_rows, audio_index = ((audio_loss_weights != 0) & (labels != -100)).nonzero(as_tuple=True)
            states.append(hidden_states[audio_rows, audio_index])
            targets.append(labels[audio_rows, audio_index])
        # One call for both, so that the output layer runs once per part of the vocabulary.
        vocab_size = self.config.text_config.vocab_size
        target_losses, correct = token_losses(torch.cat(states), torch.cat(targets), self.lm_head, vocab_size)
        text_losses, audio_losses = target_losses[: len(text_rows)], target_losses[len(text_rows) :]

        # Without packing a row is a sample; with packing the losses average over the samples in all rows.
        text_samples, num_samples = text_rows, labels.shape[0]
        if packed:
            samples, num_samples = sample_ids(order_ids, start_ids)
            text_samples = samples[text_rows, text_index]
        losses = {"text_loss": text_loss(text_losses, text_samples, num_samples)}
        losses["loss"] = losses["text_loss"]
        if audio_loss_weights is not None:
            weights = audio_loss_weights[audio_rows, audio_index]
            losses["audio_loss"] = audio_loss(audio_losses, weights, num_samples)
            losses["loss"] = losses["text_loss"] + losses["audio_loss"]
        return {
            **losses,
            "num_text_targets": torch.tensor(text_losses.numel(), device=labels.device),
            "num_audio_targets": torch.tensor(audio_losses.numel(), device=labels.device),
            "text_correct": correct[: len(text_rows)],
            "audio_correct": correct[len(text_rows) :],
            "num_samples": torch.tensor(num_samples, device=labels.device),
        }

    def _default_order_ids(self, inputs_embeds: torch.Tensor, past_key_values: Cache | None) -> torch.Tensor:
        """Orders of cached and new positions of clean sequences, shape `(batch, cached + length)`."""
        batch_size, length = inputs_embeds.shape[:2]
        past = 0 if past_key_values is None else int(past_key_values.get_seq_length())
        return torch.arange(past + length, device=inputs_embeds.device).expand(batch_size, -1)

    def _default_position_ids(
        self, inputs_embeds: torch.Tensor, padding_mask: torch.Tensor | None, past_key_values: Cache | None
    ) -> torch.Tensor:
        """Positions of the new tokens, shape `(batch, length)`; padding is not counted, so it has no effect."""
        if padding_mask is None:
            return self._default_order_ids(inputs_embeds, past_key_values)[:, -inputs_embeds.shape[1] :]
        # The number of tokens before each position; clamped for padding before the first token.
        positions = (padding_mask.long().cumsum(dim=-1) - 1).clamp(min=0)
        return positions[:, -inputs_embeds.shape[1] :].to(inputs_embeds.device)

    def _block_ids(
        self,
        block_ids: torch.Tensor | None,
        input_ids: torch.Tensor | None,
        labels: torch.Tensor | None,
        padding_mask: torch.Tensor | None,
        order_ids: torch.Tensor,
    ) -> torch.Tensor:
        """The given block ids, or those of the token ids; for cached and new positions, `(batch, cached + length)`."""
        if block_ids is not None:
            _check_covers("block_ids", block_ids, order_ids)
            return block_ids
        start = self.config.audio_token_start_id
        if input_ids is None:
            # Which positions are audio shows in the ids only.
            if labels is not None and bool((labels >= start).any()):
                raise ValueError("inputs_embeds need block_ids where labels hold audio: which positions are audio?")
            logger.warning_once("inputs_embeds come without block_ids: all positions are taken for text.")
            return torch.full_like(order_ids, -1)
        # Ids of cached positions are unknown; without audio among the new ones no block reaches back to them.
        past = order_ids.shape[1] - input_ids.shape[1]
        if past == 0:
            return audio_block_ids(input_ids, start, self.config.attention_block_length, padding_mask)
        if bool((input_ids >= start).any()):
            raise ValueError(
                "Audio tokens after cached ones need block_ids over cached and new positions: a span may reach back "
                "into the cache."
            )
        return torch.full_like(order_ids, -1)

    def _hybrid_mask(
        self,
        inputs_embeds: torch.Tensor,
        padding_mask: torch.Tensor | None,
        position_ids: torch.Tensor,
        past_key_values: Cache | None,
        keys: AttentionKeys,
        horizon_ids: torch.Tensor,
        start_ids: torch.Tensor,
    ) -> AttentionMask:
        """Builds the backbone's mask; `keys` cover cached and new positions."""
        length = inputs_embeds.shape[1]
        order_ids, block_ids = keys
        # Padding queries must see something, at least themselves: some kernels return NaN otherwise.
        if padding_mask is not None:
            block_ids = isolate_padding(block_ids, padding_mask)
        position = None
        if order_ids.shape[1] == length and any(attention_windows(self.config.text_config).values()):
            # A sliding window needs the index among the clean tokens. That of a noised copy is its original's, which
            # follows from its position id, counted from the first token of its document.
            # Without a cache a start, an order, is also the index in the row of the document's first token.
            position = start_ids + position_ids - position_ids.expand_as(start_ids).gather(1, start_ids)
        # Keys cover cached and new positions, queries the new ones only.
        queries = AttentionQueries(start_ids, horizon_ids, block_ids[:, -length:], position)
        if past_key_values is not None:
            if any(past_key_values.is_sliding):
                raise ValueError(
                    "A cache whose layers forget keys outside a sliding window cannot hold spans of audio: pass "
                    "past_key_values=DynamicCache() without a config."
                )
            # Caches of a fixed size have empty slots after the new keys.
            key_length, _ = past_key_values.get_mask_sizes(length, 0)
            empty = key_length - order_ids.shape[1]
            order_ids = nn.functional.pad(order_ids, (0, empty), value=NO_ORDER)
            block_ids = nn.functional.pad(block_ids, (0, empty), value=-1)
        return build_attention_mask(
            self.model.config, queries, AttentionKeys(order_ids, block_ids), dtype=inputs_embeds.dtype
        )


def _check_inputs(input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, kwargs: dict[str, Any]) -> None:
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("Pass either input_ids or inputs_embeds, not both and not neither.")
    # A backbone would ignore them, and the loss would be that of `labels`.
    if kwargs.get("shift_labels") is not None:
        raise ValueError("shift_labels (context or sequence parallelism) are not supported: pass labels alone.")


def _one_of(past_key_values: Cache | None, cache: Cache | None) -> Cache | None:
    if cache is not None and past_key_values is not None:
        raise ValueError("cache and past_key_values are two names of one argument: pass one of them.")
    return past_key_values if cache is None else cache


def _check_orders(
    order_ids: torch.Tensor | None, position_ids: torch.Tensor | None, horizon_ids: torch.Tensor | None
) -> None:
    if order_ids is not None and (position_ids is None or horizon_ids is None):
        raise ValueError(
            "order_ids needs position_ids and horizon_ids: neither the position of a noised copy nor what it sees "
            "follows from its index in the row."
        )


def _check_covers(name: str, tensor: torch.Tensor, order_ids: torch.Tensor) -> None:
    if tensor.shape != order_ids.shape:
        raise ValueError(
            f"{name} must cover cached and new positions, shape {tuple(order_ids.shape)}, got {tuple(tensor.shape)}."
        )


TtTForConditionalGeneration.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["TtTForConditionalGeneration", "TtTOutputWithPast"]
