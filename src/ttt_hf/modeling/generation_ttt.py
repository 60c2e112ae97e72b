"""`generate()` of TtT: transformers' own, with a decoding loop whose forwards serve text and denoising of all rows."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig
from transformers.generation.logits_process import LogitsProcessorList
from transformers.generation.stopping_criteria import MaxLengthCriteria, StoppingCriteriaList, StopStringCriteria
from transformers.generation.streamers import BaseStreamer, TextStreamer
from transformers.utils import ModelOutput

from .arguments_ttt import GenerationArgumentsMixin, split_rows
from .cache_ttt import RaggedCache
from .decoding_ttt import AudioSegment, DecodingContext, DecodingRow, FinishReason, TextSegment
from .masking_ttt import NO_ORDER, AttentionKeys, AttentionQueries, audio_block_ids, build_attention_mask
from .seeds_ttt import row_generators
from .settings_ttt import AudioGenerationSettings
from .streamers_ttt import RawStreamer, TextOnlyStreamer, TtTStreamer


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
        finish_reason: Why each row ended: `"stop"` by itself, with an end of sequence or a stop string; `"length"` at
            a limit (`max_new_tokens` or `max_length`, `audio_max_span_length`, the model's context), also if only a
            span of audio was cut and the row went on; `"interrupted"` by a stopping criterion or `max_time`.
    """

    sequences: torch.Tensor | None = None
    segments: list[list[TextSegment | AudioSegment]] | None = None
    num_forward_passes: torch.Tensor | None = None
    finish_reason: list[FinishReason] | None = None


class TtTGenerationMixin(GenerationArgumentsMixin):
    """Generation for TtT models: `generate()` of transformers with its own decoding loop."""

    model: nn.Module
    lm_head: nn.Module
    _cache_argument: str

    def generate(  # type: ignore[override]
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Generates text token by token and audio block by block, for all rows of a batch in the same forwards.

        Generation config, logits processors and sampling (of text), stopping criteria and streamers work as in
        `GenerationMixin.generate`. Prompts may be padded on either side. Decoded greedily, or with a seed of its own
        in a list `seed=[...]`, a row depends neither on the other rows nor on padding. Sampled without a seed or with
        a single one, every row has its own random stream: equal prompts get different replies.

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
        if isinstance(streamer := kwargs.get("streamer"), TextStreamer):
            kwargs["streamer"] = TextOnlyStreamer(streamer, self.config.audio_token_start_id)
        # How pipelines of transformers ask for speech: the processor decodes it from the segments.
        if kwargs.pop("generation_mode", None) == "audio":
            kwargs["return_dict_in_generate"] = True
        return super().generate(inputs, generation_config, *args, **kwargs)

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
                        row.stop(_reason_of_criteria(criteria, row.padded_ids))
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
        generators = row_generators(settings.seed, len(input_ids), context.do_sample or settings.draws_audio, device)

        # Per row: prompt, limit, processors, random generator
        max_length = min(item.max_length for item in stopping_criteria if isinstance(item, MaxLengthCriteria))
        longest = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        rows = []
        for index, prompt in enumerate(split_rows(input_ids, attention_mask)):
            # transformers counts max_new_tokens from the padded prompt; max_length refers to the row without padding.
            limit = max_length - (len(prompt) if generation_config.max_new_tokens is None else width)
            if longest is not None:  # the model's context bounds every row
                limit = min(limit, longest - len(prompt))
            rows.append(
                DecodingRow(context, prompt.tolist(), limit, logits_processor[index], generators[index], streamer)
            )
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
            use_cache=True,
            **{self._cache_argument: cache},
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
            finish_reason=[row.finish_reason for row in rows],
        )


def _reason_of_criteria(criteria: StoppingCriteriaList, ids: torch.Tensor) -> FinishReason:
    """Whether criteria that ended a row are an interruption; a stop string is an end that the caller has defined."""
    ends = StoppingCriteriaList(item for item in criteria if isinstance(item, StopStringCriteria))
    return "stop" if ends and bool(ends(ids, None).any()) else "interrupted"


__all__ = ["TtTGenerateOutput", "TtTGenerationMixin"]
