"""Arguments of `generate()`: where they come from, and what is checked before the first forward."""

import copy
import os
from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin
from transformers.generation.logits_process import LogitsProcessorList
from transformers.utils import logging

from .configuration_ttt import TtTConfig
from .official_ttt import added_token_ids, is_official, paper_generation_config
from .settings_ttt import (
    AUDIO_GENERATION_KEYS,
    UNSUPPORTED_GENERATION_KEYS,
    AudioGenerationSettings,
    check_cache_implementation,
)


logger = logging.get_logger(__name__)


class GenerationArgumentsMixin(GenerationMixin):
    """The steps of transformers' `generate()` before its decoding loop, as TtT needs them."""

    config: TtTConfig
    generation_config: GenerationConfig

    def adjust_generation_fn(
        self,
        generation_config: GenerationConfig | None,
        from_auto_class: bool,
        from_pipeline: str | None,
        pretrained_model_name_or_path: str | os.PathLike | None,
        **kwargs: Any,
    ) -> None:
        """Loads the generation config; an official checkpoint with its tokenizer gets the decoding of the paper."""
        super().adjust_generation_fn(
            generation_config, from_auto_class, from_pipeline, pretrained_model_name_or_path, **kwargs
        )
        name, own = pretrained_model_name_or_path, self.generation_config
        has_audio_keys = any(getattr(own, key, None) is not None for key in AUDIO_GENERATION_KEYS)
        # What the caller or the checkpoint has set for audio is kept.
        if generation_config is not None or name is None or has_audio_keys or not is_official(name, **kwargs):
            return
        ids = added_token_ids(name, **kwargs)
        if ids:
            self.generation_config = paper_generation_config(ids, own)

    def _prepare_generation_config(
        self, generation_config: GenerationConfig | None, **kwargs: Any
    ) -> tuple[GenerationConfig, dict[str, Any]]:
        """Adds the audio keys, which transformers would take for model arguments, and checks all keys."""
        # transformers refuses several sequences unless text is sampled; here sampled audio is enough.
        own_keys = (*AUDIO_GENERATION_KEYS, "num_return_sequences")
        own = {name: kwargs.pop(name) for name in own_keys if name in kwargs}
        # A max_length that the caller gives comes before a max_new_tokens that the checkpoint sets.
        limits = ("max_length", "max_new_tokens")
        given = [kwargs.get(name, getattr(generation_config, name, None)) is not None for name in limits]
        if given == [True, False]:
            kwargs["max_new_tokens"] = None
        generation_config, model_kwargs = super()._prepare_generation_config(generation_config, **kwargs)
        for name, value in own.items():
            setattr(generation_config, name, value)
        # Only for its checks, before any forward; `_sample` creates the settings again.
        settings = AudioGenerationSettings.from_generation_config(generation_config, self.config)
        if generation_config.num_return_sequences is None:
            generation_config.num_return_sequences = 1
        copies = generation_config.num_return_sequences
        if not isinstance(copies, int) or copies < 1:
            raise ValueError(f"num_return_sequences must be an integer of at least 1, got {copies!r}.")
        if copies > 1 and not generation_config.do_sample and not settings.draws_audio:
            raise ValueError(
                f"num_return_sequences={copies} would give equal replies, as nothing is sampled: set do_sample=True "
                "for text or audio_temperature above 0 for audio."
            )
        for name, neutral in UNSUPPORTED_GENERATION_KEYS.items():
            value = getattr(generation_config, name, None)
            if value not in neutral:
                raise ValueError(
                    f"{name}={value!r} is not supported: TtT decodes one hypothesis per row, greedily or by sampling, "
                    "with its own cache; leave it unset."
                )
        check_cache_implementation(generation_config.cache_implementation)
        if generation_config.eos_token_id is None:
            raise ValueError("generate() needs an eos_token_id: set it in the generation config or pass it.")
        if not self.config.begin_audio_token_ids:
            raise ValueError(
                "config.begin_audio_token_ids is empty, so no span of audio could ever open: load the model with "
                "begin_audio_token_ids=[...], the ids of <|begin_of_audio|> and <|begin_of_quad|>."
            )
        return generation_config, model_kwargs

    def _validate_generation_mode(
        self, generation_mode: str, generation_config: GenerationConfig, generation_mode_kwargs: dict[str, Any]
    ) -> None:
        """Rejects assistant models; other modes are set in the generation config, which has been checked."""
        super()._validate_generation_mode(generation_mode, generation_config, generation_mode_kwargs)
        if generation_mode_kwargs.get("assistant_model") is not None:
            raise ValueError("assistant_model is not supported: TtT decodes greedily or by sampling; leave it out.")

    def _validate_model_kwargs(self, model_kwargs: dict[str, Any]) -> None:
        """Rejects what the loop would ignore, since it creates inputs, positions, masks and caches itself."""
        # PEFT puts virtual tokens before a prompt by a method of its own in the place of this one.
        prepare = vars(self).get("prepare_inputs_for_generation")
        if getattr(prepare, "__self__", self) is not self:
            raise ValueError(
                "generate() cannot use the virtual tokens of an adapter by prompt learning (prompt tuning, prefix "
                "tuning, P-tuning): train a LoRA adapter instead."
            )
        super()._validate_model_kwargs(model_kwargs)
        # The loop computes logits where it needs them, whatever is kept.
        taken = ("input_ids", "attention_mask", "logits_to_keep")
        unused = [name for name, value in model_kwargs.items() if value is not None and name not in taken]
        if "labels" in unused:
            raise ValueError(
                "generate() takes prompts, and a sample with labels holds its reply: evaluate with ttt_hf.evaluate "
                "or the Trainer's losses, not with predict_with_generate."
            )
        if unused:
            raise ValueError(f"generate() takes input_ids and attention_mask, but not {', '.join(unused)}.")

    def _prepare_model_inputs(
        self, inputs: torch.Tensor | None, bos_token_id: torch.Tensor | None, model_kwargs: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, str | None, dict[str, torch.Tensor]]:
        """Checks the prompts and moves their padding to the left, as transformers expects."""
        input_ids, input_name, model_kwargs = super()._prepare_model_inputs(inputs, bos_token_id, model_kwargs)
        attention_mask = model_kwargs.get("attention_mask")
        if input_ids.ndim != 2 or input_ids.is_floating_point():
            raise ValueError(
                f"input_ids must be integers of shape (batch, length), got {input_ids.dtype} of shape "
                f"{tuple(input_ids.shape)}."
            )
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask must have the shape of input_ids, {tuple(input_ids.shape)}, got "
                f"{tuple(attention_mask.shape)}."
            )
        self._check_prompts(split_rows(input_ids, attention_mask))
        if attention_mask is not None:
            attention_mask = attention_mask.bool()
            # A stable sort by the mask moves padding to the left and keeps the tokens in order.
            order = attention_mask.byte().argsort(dim=-1, stable=True)
            input_ids = input_ids.gather(1, order.to(input_ids.device))
            model_kwargs["attention_mask"] = attention_mask.gather(1, order).long()
        return input_ids, input_name, model_kwargs

    def _check_prompts(self, prompts: list[torch.Tensor]) -> None:
        text_config = self.config.get_text_config()
        longest = getattr(text_config, "max_position_embeddings", None)
        for row, prompt in enumerate(prompts):
            if len(prompt) == 0:
                raise ValueError(f"The prompt in row {row} is empty: generate() needs at least one token a row.")
            if longest is not None and len(prompt) >= longest:
                raise ValueError(
                    f"The prompt in row {row} has {len(prompt)} tokens and leaves no room in the model's context of "
                    f"{longest}: shorten it."
                )
            lowest_id, highest_id = (int(bound) for bound in prompt.aminmax())
            if lowest_id < 0 or highest_id >= text_config.vocab_size:
                outside = lowest_id if lowest_id < 0 else highest_id
                raise ValueError(
                    f"The prompt in row {row} holds the id {outside}, outside the model's vocabulary of "
                    f"{text_config.vocab_size} tokens: tokenize it with this model's processor."
                )

    def _prepare_generated_length(
        self, generation_config: GenerationConfig, has_default_max_length: bool, **kwargs: Any
    ) -> GenerationConfig:
        """Turns a default length into a number of new tokens, so that it does not depend on padding."""
        if has_default_max_length and generation_config.max_new_tokens is None:
            generation_config.max_new_tokens = generation_config.max_length
            logger.warning_once(
                "Neither max_new_tokens nor max_length is set: replies end after "
                f"{generation_config.max_new_tokens} tokens."
            )
        return super()._prepare_generated_length(
            generation_config, has_default_max_length=has_default_max_length, **kwargs
        )

    def _prepare_cache_for_generation(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the loop allocates its own cache."""

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """Raises a `NotImplementedError`: transformers' continuous batching (`generate_batch`) decodes text only."""
        raise NotImplementedError(
            "Continuous batching of transformers (generate_batch) cannot decode audio: pass padded prompts of any "
            "lengths to generate(), where finished rows leave the batch."
        )

    def _get_logits_processor(
        self,
        generation_config: GenerationConfig,
        encoder_input_ids: torch.Tensor,
        prefix_allowed_tokens_fn: Callable[[int, torch.Tensor], list[int]] | None = None,
        model_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> LogitsProcessorList:
        """Creates a list of processors per row, since rows have different lengths when they need them.

        Args:
            encoder_input_ids: The prompts, before they are repeated for `num_return_sequences`.
            prefix_allowed_tokens_fn: Called with the index of the row in the batch and its ids.
            model_kwargs: Holds the `attention_mask` of all rows.
            **kwargs: For `GenerationMixin._get_logits_processor`.

        Returns:
            One `LogitsProcessorList` per row, called with its ids left-padded as in transformers' own loop.
        """
        attention_mask = (model_kwargs or {}).get("attention_mask")
        input_ids = encoder_input_ids.repeat_interleave(generation_config.num_return_sequences or 1, dim=0)
        lists = LogitsProcessorList()
        for row, prompt in enumerate(split_rows(input_ids, attention_mask)):
            pads = input_ids.shape[1] - len(prompt)
            row_config = copy.copy(generation_config)
            # Absolute lengths refer to the row without padding, but processors see the padded ids.
            if generation_config.max_new_tokens is None:
                row_config.max_length += pads
            if generation_config.min_new_tokens is None and generation_config.min_length:
                row_config.min_length += pads
            is_token = torch.ones_like(input_ids[:1])
            is_token[:, :pads] = 0
            lists.append(
                super()._get_logits_processor(
                    row_config,
                    encoder_input_ids=prompt[None],
                    prefix_allowed_tokens_fn=_for_row(prefix_allowed_tokens_fn, row),
                    model_kwargs={"attention_mask": is_token},
                    **kwargs,
                )
            )
        return lists


def split_rows(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> list[torch.Tensor]:
    """Removes the padding from a batch of prompts.

    Args:
        input_ids: `torch.long` of shape `(batch, length)`.
        attention_mask: 1 for tokens, 0 for padding on any side, of the same shape; `None` if there is none.

    Returns:
        The ids of every row.
    """
    if attention_mask is None:
        return list(input_ids)
    return [ids[mask.to(ids.device).bool()] for ids, mask in zip(input_ids, attention_mask)]


def _for_row(
    prefix_allowed_tokens_fn: Callable[[int, torch.Tensor], list[int]] | None, row: int
) -> Callable[[int, torch.Tensor], list[int]] | None:
    """Binds the index of the row in the batch, since the processor of a single row would always pass 0."""
    if prefix_allowed_tokens_fn is None:
        return None
    return lambda _, ids: prefix_allowed_tokens_fn(row, ids)


__all__ = ["GenerationArgumentsMixin", "split_rows"]
