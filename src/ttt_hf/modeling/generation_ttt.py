"""`generate()` of TtT: transformers' own, with a decoding loop whose forwards serve text and denoising of all rows."""

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, GenerationMixin
from transformers.generation.logits_process import LogitsProcessorList
from transformers.generation.stopping_criteria import MaxLengthCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer
from transformers.utils import ModelOutput, logging

from .cache_ttt import RaggedCache
from .configuration_ttt import TtTConfig
from .decoding_ttt import AudioSegment, DecodingContext, DecodingRow, TextSegment
from .masking_ttt import NO_ORDER, AttentionKeys, AttentionQueries, audio_block_ids, build_attention_mask
from .official_ttt import added_token_ids, is_official, paper_generation_config
from .settings_ttt import AUDIO_GENERATION_KEYS, UNSUPPORTED_GENERATION_KEYS, AudioGenerationSettings
from .streamers_ttt import RawStreamer, TtTStreamer


logger = logging.get_logger(__name__)


@dataclass
class TtTGenerateOutput(ModelOutput):
    """Output of `generate()` with `return_dict_in_generate=True`.

    Attributes:
        sequences: Prompt and new tokens of every row, right-padded, without the padding of the prompts; `torch.long`
            of shape `(batch, length)`.
        segments: For every row the generated `TextSegment` and `AudioSegment` objects in order, without prompt,
            markers, end of sequence and padding.
        num_forward_passes: Number of forwards that each row took part in, `torch.long` of shape `(batch,)`. A
            denoising step with classifier-free guidance counts once.
    """

    sequences: torch.Tensor | None = None
    segments: list[list[TextSegment | AudioSegment]] | None = None
    num_forward_passes: torch.Tensor | None = None


class TtTGenerationMixin(GenerationMixin):
    """Generation for TtT models: `generate()` of transformers with its own decoding loop."""

    config: TtTConfig
    generation_config: GenerationConfig
    model: nn.Module
    lm_head: nn.Module

    def generate(  # type: ignore[override]
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Generates text token by token and audio block by block, for all rows of a batch in the same forwards.

        Generation config, logits processors and sampling (of text), stopping criteria and streamers work as in
        `GenerationMixin.generate`. Prompts may be padded on either side; the output of a row depends neither on the
        other rows nor on padding.

        1. Set up.
            1.a Remove the padding and create a `DecodingRow` per prompt: ids, limits, processors, random generator.
            1.b Allocate the cache, with a length per row.
        2. While there are unfinished rows:
            2.a Each row gives its open part: the ids whose keys are not final and, in a span, the canvas.
            2.b One forward for all rows, in text or in a span, writes keys after each row's committed length.
            2.c With guidance, a second forward for rows in a span, with everything but the canvas masked.
            2.d Compute logits where they are needed: at the last position in text, at the canvas in a span.
            2.e Each row takes its logits and makes a text token or a denoising step.
            2.f Commit the keys that are final. Text and closed spans never see later tokens, so theirs are; of an
                open span only those of finished blocks with block-causal attention.
            2.g Check the stopping criteria per row; finished rows leave the batch.
        3. Pad the rows to one length.

            slot      0                     committed            key length
            row 0     [######################][b==========mmmm]       b begin marker, = finished blocks, m canvas
            row 1     [#################][t].                         t last text token
            row 2     [##############################][==e]           e end marker: a last forward over the span

        Args:
            inputs: Prompts, `torch.long` of shape `(batch, length)`; also accepted as `input_ids`.
            generation_config: Default generation config; keyword arguments take precedence.
            *args: Further arguments of `GenerationMixin.generate`.
            **kwargs: Further arguments of `GenerationMixin.generate`, and generation keys: those of transformers and
                of `AudioGenerationSettings`.

        Returns:
            `TtTGenerateOutput` with `return_dict_in_generate`, otherwise its `sequences`.

        Raises:
            ValueError: If a prompt or a generation key cannot be used.
        """
        return super().generate(inputs, generation_config, *args, **kwargs)

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
        audio_keys = {name: kwargs.pop(name) for name in AUDIO_GENERATION_KEYS if name in kwargs}
        generation_config, model_kwargs = super()._prepare_generation_config(generation_config, **kwargs)
        for name, value in audio_keys.items():
            setattr(generation_config, name, value)
        # Only for its checks, before any forward; `_sample` creates the settings again.
        AudioGenerationSettings.from_generation_config(generation_config, self.config)
        for name, neutral in UNSUPPORTED_GENERATION_KEYS.items():
            value = getattr(generation_config, name, None)
            if value not in neutral:
                raise ValueError(
                    f"{name}={value!r} is not supported: TtT decodes one hypothesis per row, greedily or by sampling, "
                    "with its own cache; leave it unset."
                )
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
        """Rejects arguments that the loop would ignore, since it creates positions, masks and caches itself."""
        super()._validate_model_kwargs(model_kwargs)
        unused = [
            name
            for name, value in model_kwargs.items()
            if value is not None and name not in ("input_ids", "attention_mask")
        ]
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

    def _sample(
        self,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        streamer: BaseStreamer | None = None,
        **model_kwargs: Any,
    ) -> TtTGenerateOutput | torch.Tensor:
        """Runs the decoding loop, whose steps are described in `generate`.

        Args:
            input_ids: Prompts, `torch.long` of shape `(batch, prompt_length)`.
            logits_processor: One list per row, see `_get_logits_processor`.
            stopping_criteria: Checked for every row after every forward, also within a block. Length limits are
                enforced per row.
            synced_gpus: Not supported.
            streamer: Receives the tokens of a single row; a `TtTStreamer` receives typed events.
            **model_kwargs: `attention_mask` of the prompts.

        Raises:
            ValueError: If there is a streamer for several rows, or `synced_gpus` is set.
        """
        if synced_gpus:
            raise ValueError(
                "generate() cannot run in step with other processes: gather the weights and pass synced_gpus=False."
            )
        if streamer is not None and input_ids.shape[0] > 1:
            raise ValueError(f"A streamer follows one row, got {input_ids.shape[0]}: generate them one by one.")
        settings = AudioGenerationSettings.from_generation_config(generation_config, self.config)
        # 1.a One decoding state per prompt, without padding
        attention_mask = model_kwargs.get("attention_mask")
        rows = self._make_rows(
            settings, input_ids, attention_mask, logits_processor, stopping_criteria, generation_config, streamer
        )
        # The rows enforce their lengths themselves: a criterion would count padding.
        criteria = StoppingCriteriaList(item for item in stopping_criteria if not isinstance(item, MaxLengthCriteria))
        # 1.b The cache, large enough for the longest row
        active = list(rows)
        cache = RaggedCache(len(rows), max(row.capacity for row in rows))

        with self._optimize_model_for_decode():
            while active:
                # 2.a to 2.d One forward, logits per row
                logits = self._row_logits(active, cache, settings.audio_cfg_scale, input_ids.device)
                for row, row_logits in zip(active, logits):
                    # 2.e A text token or a denoising step
                    row.accept(row_logits)
                # 2.f Final keys are not computed again; without `use_cache` every forward starts at the first token
                if generation_config.use_cache:
                    cache.commit([row.final_length for row in active])
                # 2.g Rows that a criterion stops or that are finished leave the batch
                for row in active:
                    if not row.is_finished and bool(criteria(row.padded_ids, None).any()):
                        row.stop()
                kept = [index for index, row in enumerate(active) if not row.is_finished]
                if len(kept) < len(active):
                    active = [active[index] for index in kept]
                    cache.batch_select_indices(torch.tensor(kept, dtype=torch.long))
        if streamer is not None:
            streamer.end()
        # 3. Right-pad the rows
        return self._collect(rows, input_ids, generation_config)

    def _make_rows(
        self,
        settings: AudioGenerationSettings,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        streamer: BaseStreamer | None,
    ) -> list[DecodingRow]:
        """Creates the decoding state of every row (step 1.a)."""
        width, device = input_ids.shape[1], input_ids.device
        # Shared by the rows
        context = DecodingContext.create(settings, self.config, generation_config, width, device)
        if streamer is None:
            streamer = TtTStreamer()
        elif not isinstance(streamer, TtTStreamer):
            streamer = RawStreamer(streamer)
        seed = settings.seed
        if seed is None:
            # Greedy decoding does not advance torch's global generator.
            draws = context.do_sample or settings.draws_audio
            seed = int(torch.randint(2**62, (1,))) if draws else 0
        copies = generation_config.num_return_sequences or 1

        # Per row: prompt, limit, processors, random generator
        max_length = min(item.max_length for item in stopping_criteria if isinstance(item, MaxLengthCriteria))
        longest = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        rows = []
        for index, prompt in enumerate(split_rows(input_ids, attention_mask)):
            # transformers counts max_new_tokens from the padded prompt; max_length refers to the row without padding.
            limit = max_length - (len(prompt) if generation_config.max_new_tokens is None else width)
            if longest is not None:  # the model's context bounds every row
                limit = min(limit, longest - len(prompt))
            # The copies of num_return_sequences differ, but copy i of a prompt is the same in every batch.
            generator = torch.Generator(device).manual_seed(seed + index % copies)
            rows.append(DecodingRow(context, prompt.tolist(), limit, logits_processor[index], generator, streamer))
        return rows

    def _row_logits(
        self, rows: list[DecodingRow], cache: RaggedCache, cfg_scale: float, device: torch.device
    ) -> list[torch.Tensor]:
        """Runs the forwards of one iteration (steps 2.a to 2.d).

        Returns:
            For every row `torch.float32` logits of shape `(1, vocabulary)` at its last id, or `(block, vocabulary)` at
            its canvas.
        """
        # 2.a Inputs: the rows' open parts
        parts = [row.open_part(committed) for row, committed in zip(rows, cache.lengths)]
        # 2.b One forward for all rows
        hidden_states = self._hidden_states(parts, cache)
        counts = [max(1, len(row.canvas)) for row in rows]
        # (positions, hidden) per row: the last id in text, the canvas in a span
        states = [state[len(part) - count : len(part)] for state, part, count in zip(hidden_states, parts, counts)]
        # 2.c Unconditional forward of classifier-free guidance
        guided = [index for index, row in enumerate(rows) if row.canvas and cfg_scale > 0]
        if guided:
            mask = self.config.mask_token_id
            masked = [[mask] * len(rows[index].ids) + rows[index].canvas for index in guided]
            # Mask tokens are audio: each input is a single bidirectional run, so no keys can be reused between steps.
            masked_states = self._hidden_states(masked, RaggedCache(len(masked), max(map(len, masked))))
            for index, part, state in zip(guided, masked, masked_states):
                states.append(state[len(part) - counts[index] : len(part)])
                counts.append(counts[index])
        # 2.d The output layer runs once, at the needed positions of all rows
        logits = list(self.lm_head(torch.cat(states)).to(device=device, dtype=torch.float32).split(counts))
        for index, unconditional in zip(guided, logits[len(rows) :]):
            # A scale of 0 would give the conditional logits; larger ones move away from the unconditional ones.
            logits[index] = unconditional + (cfg_scale + 1) * (logits[index] - unconditional)
        return logits[: len(rows)]

    def _hidden_states(self, parts: list[list[int]], cache: RaggedCache) -> torch.Tensor:
        """Runs the backbone on the rows' open parts.

        Args:
            parts: Token ids of every row, which follow its committed length.
            cache: Keys and values of the committed ids.

        Returns:
            Last hidden states, of shape `(batch, longest part, hidden)`; undefined after the end of a part.
        """
        device = self.device
        # Everything per position has the shape (batch, width); the slot of a token is its index in the row.
        slots = cache.reserve([len(part) for part in parts], device)
        width, key_length = slots.shape[1], cache.key_length
        is_token = slots < cache.capacity
        input_ids = torch.tensor([part + [0] * (width - len(part)) for part in parts], device=device)
        # An open part starts where its run (or block) starts, so its ids alone determine the groups.
        block_ids = audio_block_ids(
            input_ids, self.config.audio_token_start_id, self.config.attention_block_length, is_token
        )
        # Padding sees the first token: some kernels return NaN for queries that see nothing.
        horizon = torch.where(is_token, slots + 1, 1)
        queries = AttentionQueries(torch.zeros_like(slots), horizon, block_ids)

        # Slots after a row's end hold keys of earlier forwards or nothing; no query may see them.
        index = torch.arange(key_length, device=device)
        ends = torch.tensor([length + len(part) for length, part in zip(cache.lengths, parts)], device=device)
        order = torch.where(index < ends[:, None], index, NO_ORDER)
        # Committed keys need no block id, as every query sees them by order. The last column takes the padding and is
        # cut off.
        key_blocks = torch.full((len(parts), key_length + 1), -1, device=device)
        key_blocks.scatter_(1, slots.clamp(max=key_length), block_ids)
        keys = AttentionKeys(order, key_blocks[:, :key_length])

        inputs_embeds = self.get_input_embeddings()(input_ids)
        outputs = self.model(
            inputs_embeds=inputs_embeds,
            attention_mask=build_attention_mask(self.model.config, queries, keys, dtype=inputs_embeds.dtype),
            # The index of each token in its row; 0 for padding.
            position_ids=horizon - 1,
            past_key_values=cache,
            use_cache=True,
        )
        return outputs.last_hidden_state

    def _collect(
        self, rows: list[DecodingRow], input_ids: torch.Tensor, generation_config: GenerationConfig
    ) -> TtTGenerateOutput | torch.Tensor:
        """Collects the results of the rows (step 3)."""
        device = input_ids.device
        longest = max(len(row.ids) for row in rows)
        sequences = torch.full((len(rows), longest), int(generation_config._pad_token_tensor), device=device)
        for index, row in enumerate(rows):
            sequences[index, : len(row.ids)] = torch.tensor(row.ids, device=device)
        if not generation_config.return_dict_in_generate:
            return sequences
        return TtTGenerateOutput(
            sequences=sequences,
            segments=[row.segments for row in rows],
            num_forward_passes=torch.tensor([row.num_forward_passes for row in rows], device=device),
        )


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


__all__ = ["TtTGenerateOutput", "TtTGenerationMixin"]
