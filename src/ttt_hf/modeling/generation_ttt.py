"""`generate()` of TtT: transformers' own, with a decoding loop whose forwards serve text and denoising of all rows."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.logits_process import LogitsProcessorList
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer, TextStreamer
from transformers.utils import ModelOutput

from .arguments_ttt import GenerationArgumentsMixin, split_rows
from .compiled_ttt import static_capacity
from .decoding_ttt import AudioSegment, DecodingContext, DecodingRow, FinishReason, TextSegment
from .seeds_ttt import row_generators
from .session_ttt import DecodingSession
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
            span of audio was cut and the row went on; `"repetition"` because the text repeated itself for
            `text_repetition_limit` tokens; `"interrupted"` by a stopping criterion or `max_time`.
    """

    sequences: torch.Tensor | None = None
    segments: list[list[TextSegment | AudioSegment]] | None = None
    num_forward_passes: torch.Tensor | None = None
    finish_reason: list[FinishReason] | None = None


class TtTGenerationMixin(GenerationArgumentsMixin):
    """Generation for TtT models: `generate()` of transformers with its own decoding loop."""

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
        """Decodes all rows in a session, whose steps are described in `generate`.

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
        # 1.a One decoding state per prompt, without padding
        rows = self.make_rows(
            input_ids, logits_processor, stopping_criteria, generation_config, streamer=streamer, **model_kwargs
        )
        # 1.b A slot for each, large enough for the longest
        session = DecodingSession(
            self,
            slots=len(rows),
            capacity=generation_capacity(rows, generation_config),
            cache_implementation=generation_config.cache_implementation,
            compile_config=generation_config.compile_config,
            disable_compile=generation_config.disable_compile,
        )
        for row in rows:
            session.add(row)
        # 2. Until all rows have ended
        with self._optimize_model_for_decode():
            while session.is_active:
                session.tick()
                # There is nobody else to take a reply.
                for event in session.events():
                    if event.error is not None:
                        raise event.error
        session.close()
        if streamer is not None:
            streamer.end()
        # 3. Right-pad the rows
        return self._collect(rows, input_ids, generation_config)

    def make_rows(
        self,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        streamer: BaseStreamer | None = None,
        capacity: int | None = None,
        **model_kwargs: Any,
    ) -> list[DecodingRow]:
        """Creates the decoding state of every row (step 1.a of `generate()`).

        Args:
            input_ids: Prompts, `torch.long` of shape `(batch, prompt_length)`.
            logits_processor: One list per row, see `_get_logits_processor`.
            stopping_criteria: Their `MaxLengthCriteria` are the rows' limits.
            generation_config: As prepared by `generate()`.
            streamer: Receives the tokens of a single row.
            capacity: Number of positions that a row may have at most.
            **model_kwargs: `attention_mask` of the prompts.

        Returns:
            The rows.
        """
        settings = AudioGenerationSettings.from_generation_config(generation_config, self.config)
        width, device = input_ids.shape[1], input_ids.device
        # Shared by the rows
        has_processors = any(map(len, logits_processor))
        context = DecodingContext.create(settings, self.config, generation_config, has_processors, width, device)
        if streamer is None:
            streamer = TtTStreamer()
        elif not isinstance(streamer, TtTStreamer):
            streamer = RawStreamer(streamer)
        generators = row_generators(settings.seed, len(input_ids), context.do_sample or settings.draws_audio, device)
        # The rows enforce their lengths themselves: a criterion would count padding. They see the ids that end them,
        # too: a criterion would wait for the device.
        own = (MaxLengthCriteria, EosTokenCriteria)
        criteria = StoppingCriteriaList(item for item in stopping_criteria if not isinstance(item, own))

        # Per row: prompt, limit, processors, random generator
        max_length = min(item.max_length for item in stopping_criteria if isinstance(item, MaxLengthCriteria))
        # The model's context bounds every row, and so does its slot, which must hold a span beyond the official limit.
        bounds = [getattr(self.config.get_text_config(), "max_position_embeddings", None)]
        if capacity is not None:
            bounds.append(capacity - (settings.audio_max_span_length if settings.is_official else 0))
        longest = min([bound for bound in bounds if bound is not None], default=None)
        rows = []
        for index, prompt in enumerate(split_rows(input_ids, model_kwargs.get("attention_mask"))):
            # transformers counts max_new_tokens from the padded prompt; max_length refers to the row without padding.
            limit = max_length - (len(prompt) if generation_config.max_new_tokens is None else width)
            if longest is not None:
                limit = min(limit, longest - len(prompt))
            if limit < 1:
                raise ValueError(
                    f"The prompt in row {index} has {len(prompt)} tokens and leaves no room for a reply: shorten it, "
                    "or create the session with a larger capacity."
                )
            row = DecodingRow(
                context, prompt.tolist(), limit, logits_processor[index], criteria, generators[index], streamer
            )
            rows.append(row)
        return rows

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


def generation_capacity(rows: list[DecodingRow], generation_config: GenerationConfig) -> int:
    """Number of positions that each slot needs; with a static cache one of a few sizes, so that calls share memory."""
    capacity = max(row.capacity for row in rows)
    if generation_config.cache_implementation != "static":
        return capacity
    return static_capacity(max(capacity, getattr(generation_config, "max_cache_len", None) or 0))


__all__ = ["TtTGenerateOutput", "TtTGenerationMixin"]
