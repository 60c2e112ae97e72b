"""Decoding of one row, without model and sampler: the state machine from tokens to text, blocks and typed segments.

          begin marker                       end marker or span limit
 TEXT ---------------------->  SPAN  ---------------------------------------->  TEXT
one token per forward          one denoising step per forward, block by block
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import GenerationConfig
from transformers.generation.logits_process import LogitsProcessorList
from transformers.generation.stopping_criteria import StoppingCriteriaList, StopStringCriteria

from .configuration_ttt import TtTConfig
from .samplers_ttt import transfer_schedule
from .settings_ttt import MIN_REPETITIONS, AudioGenerationSettings
from .streamers_ttt import TtTStreamer


# Why a row ended, see `TtTGenerateOutput`; "error" only in a session, `generate()` raises the error.
FinishReason = Literal["stop", "length", "repetition", "interrupted", "error"]


@dataclass(frozen=True)
class TextSegment:
    """A segment of generated text.

    Attributes:
        token_ids: Text ids, without markers, end of sequence and padding.
    """

    token_ids: list[int]


@dataclass(frozen=True, eq=False)
class AudioSegment:
    """A generated span of audio.

    Attributes:
        codes: Codec codes, not token ids; `torch.long` of shape `(frames,)`.
        complete: Whether the span ended with an end marker, rather than at a limit or a stopping criterion.
    """

    codes: torch.Tensor
    complete: bool


@dataclass(frozen=True)
class DecodingContext:
    """Settings shared by all rows of a call of `generate()`.

    Attributes:
        begin_ids: Markers that open a span.
        end_ids: End markers, in the order of the begin markers they belong to.
        eos_ids: Ids that end a row.
        pad_id: Id that pads prompts on the left.
        text_columns: Columns of the logits that are computed in text.
        text_size: Number of leading ids that text may hold.
        span_columns: Columns among which are the ids that a span may hold.
        excluded_columns: Those of `span_columns`, counted from its start, that a span may not hold; `torch.long` on
            the device of the logits.
        do_sample: Whether text tokens are sampled.
        use_cache: Whether final keys are kept from one forward to the next.
        width: Length of the longest prompt.
    """

    settings: AudioGenerationSettings
    config: TtTConfig
    begin_ids: list[int]
    end_ids: list[int]
    eos_ids: list[int]
    pad_id: int
    text_columns: slice
    text_size: int
    span_columns: slice
    excluded_columns: torch.Tensor
    do_sample: bool
    use_cache: bool
    width: int

    @classmethod
    def create(
        cls,
        settings: AudioGenerationSettings,
        config: TtTConfig,
        generation_config: GenerationConfig,
        has_processors: bool,
        width: int,
        device: torch.device,
    ) -> "DecodingContext":
        """Collects the settings and the ids that text and spans may hold.

        Args:
            generation_config: Generation config as prepared by `generate()`.
            has_processors: Whether there are logits processors.
            width: Length of the longest prompt.
            device: Device of the logits.
        """
        begin_ids, end_ids = config.begin_audio_token_ids or [], config.end_audio_token_ids or []
        # `generate()` has turned the special ids of its config into tensors.
        eos_ids = generation_config._eos_token_tensor.tolist()
        vocab_size = config.get_text_config().vocab_size
        text_size = config.audio_token_start_id
        if settings.is_official:
            # The official code lets a span hold any token, text included, except the end of the sequence, and text any
            # token at all.
            text_size, columns, excluded = vocab_size, range(vocab_size), eos_ids
        else:
            codes = range(config.audio_code_offset, config.audio_code_offset + config.audio_vocab_size)
            # One contiguous piece of the output layer, with codes, end markers, and the few ids between them.
            columns = range(min(codes[0], *end_ids), max(codes[-1], *end_ids) + 1)
            between = [*range(columns[0], codes[0]), *range(codes[-1] + 1, columns[-1] + 1)]
            excluded = [column - columns[0] for column in between if column not in end_ids]
        return cls(
            settings=settings,
            config=config,
            begin_ids=begin_ids,
            end_ids=end_ids,
            eos_ids=eos_ids,
            pad_id=int(generation_config._pad_token_tensor),
            # Logits processors index the logits by ids, which may be those of audio in the prompt.
            text_columns=slice(0, vocab_size if has_processors else text_size),
            text_size=text_size,
            span_columns=slice(columns[0], columns[-1] + 1),
            excluded_columns=torch.tensor(excluded, dtype=torch.long, device=device),
            do_sample=bool(generation_config.do_sample),
            use_cache=bool(generation_config.use_cache),
            width=width,
        )


class DecodingRow:
    """Decoding state of one row.

    A forward takes the row's *open part*: the ids whose keys are not final yet and, in a span, the block being
    denoised (the canvas). The sampler chooses from its logits, and `accept_token` or `accept_canvas` advances the row
    by one text token or one denoising step.

    Args:
        context: Settings shared by all rows.
        prompt: Ids of the prompt, without padding.
        limit: Maximum number of new tokens.
        processors: Logits processors of this row, for text tokens.
        criteria: Stopping criteria of this row, besides its length.
        generator: Random generator of this row.
        streamer: Receives the row's events.

    Attributes:
        ids: The prompt and all decoded tokens that can no longer change.
        canvas: The block being denoised, mask tokens where nothing is committed; empty in text.
        final_length: Number of leading ids whose keys are final after the last forward.
        num_forward_passes: Number of forwards that this row took part in.
        segments: Finished segments.
        is_finished: Whether decoding of this row has ended.
        finish_reason: Why it has, see `TtTGenerateOutput`.
        error: What made the row fail, if anything has.
    """

    def __init__(
        self,
        context: DecodingContext,
        prompt: list[int],
        limit: int,
        processors: LogitsProcessorList,
        criteria: StoppingCriteriaList,
        generator: torch.Generator,
        streamer: TtTStreamer,
    ) -> None:
        settings = context.settings
        self.context = context
        self.ids = list(prompt)
        self.length_limit = len(prompt) + limit
        # The official length rule lets the last span exceed the limit.
        self.capacity = self.length_limit + (settings.audio_max_span_length if settings.is_official else 0)
        self.processors = processors
        self.criteria = criteria
        self.generator = generator
        self.streamer = streamer

        self.canvas: list[int] = []
        self.final_length = 0
        self.num_forward_passes = 0
        self.segments: list[TextSegment | AudioSegment] = []
        self.is_finished = False
        self.finish_reason: FinishReason = "stop"
        self.error: Exception | None = None
        self._num_pads = context.width - len(prompt)
        self._padded_ids: torch.Tensor | None = None
        if processors or criteria:
            # They need the ids as a tensor; a preallocated one avoids a copy per token.
            device = context.excluded_columns.device
            self._padded_ids = torch.full((1, self._num_pads + self.capacity), context.pad_id, device=device)
            self._padded_ids[0, self._num_pads : context.width] = torch.tensor(prompt, device=device)
        # State of the open span: its begin marker, length and codes, and the schedule of the current block.
        self._is_in_span = False
        self._opener_index = 0
        self._span_length = 0
        self._codes: list[int] = []
        self._schedule: list[int] = []
        self._texts_before_eos = 0
        self._same_tokens = [0] * ((settings.text_repetition_limit or 0) // MIN_REPETITIONS)
        # A prompt that ends with a begin marker asks for audio. The official code would decode text after it.
        if not settings.is_official and prompt[-1] in context.begin_ids:
            self._open_span(prompt[-1])
            self._start_block()

    @property
    def padded_ids(self) -> torch.Tensor:
        """The ids as in transformers' own loop, left-padded like the prompts; shape `(1, length)`.

        Raises:
            ValueError: If the row has neither logits processors nor stopping criteria, which these ids are for.
        """
        if self._padded_ids is None:
            raise ValueError("padded_ids are kept for logits processors and stopping criteria, and there are none.")
        return self._padded_ids[:, : self._num_pads + len(self.ids)]

    @property
    def excludes_eos(self) -> bool:
        """Whether text must go on: a span is followed by a minimum of it."""
        return self._texts_before_eos > 0

    @property
    def num_to_commit(self) -> int:
        """Number of positions that the schedule commits at this denoising step."""
        return self._schedule[0]

    def open_part(self, committed: int) -> list[int]:
        """Returns the row's inputs for the next forward (step 2.a of `generate()`).

        Args:
            committed: Number of leading ids whose keys are final in the cache.

        Returns:
            The ids after them, followed by the canvas.
        """
        self.num_forward_passes += 1
        # An audio run at the end of the ids may continue, and its tokens would then see the new ones: their keys are
        # not final. Those before the run are, and with block-causal attention those of full blocks, too.
        start = len(self.ids)
        while start > 0 and self.ids[start - 1] >= self.context.config.audio_token_start_id:
            start -= 1
        if (block_length := self.context.config.attention_block_length) is not None:
            start += (len(self.ids) - start) // block_length * block_length
        self.final_length = start
        # The canvas comes last, where the logits are taken.
        return self.ids[committed:] + self.canvas

    def stop(self, reason: FinishReason) -> None:
        """Ends the row, if it has not ended by itself; the block being denoised is dropped."""
        if self.is_finished:
            return
        if self._is_in_span:
            self._close_span(complete=False)
        self.canvas = []
        self.is_finished = True
        self.finish_reason = reason

    def fail(self, error: Exception) -> None:
        """Ends the row with an error of its own, such as one that a logits processor raises."""
        self.error = error
        self.stop("error")

    def check_criteria(self) -> None:
        """Ends the row if one of its stopping criteria says so (step 2.g of `generate()`)."""
        if self.is_finished or not self.criteria or not bool(self.criteria(self.padded_ids, None).any()):
            return
        # A stop string is an end that the caller has defined; other criteria interrupt.
        ends = StoppingCriteriaList(item for item in self.criteria if isinstance(item, StopStringCriteria))
        self.stop("stop" if ends and bool(ends(self.padded_ids, None).any()) else "interrupted")

    def accept_token(self, token: int) -> None:
        """Takes the next token, which is text, opens a span or ends the row (step 2.e of `generate()`)."""
        context, config = self.context, self.context.config
        if token < config.audio_token_start_id:
            # A text token ends the audio run before it, and this forward has seen that run completely.
            self.final_length = len(self.ids)
        # Every token enters the ids; only text tokens, without markers, enter a segment.
        self._append([token])
        self._texts_before_eos = max(0, self._texts_before_eos - 1)
        if token in context.eos_ids:
            self.is_finished = True
        elif token in context.begin_ids:
            self._open_span(token)
        elif token < config.audio_token_start_id and token != context.pad_id:
            self._add_text(token)
            if self._repeats_itself():
                self.stop("repetition")
        # A span that opens at the limit stays empty.
        if len(self.ids) >= self.length_limit:
            self.stop("length")
        elif self._is_in_span:
            self._start_block()

    def _add_text(self, token: int) -> None:
        segment = self.segments[-1] if self.segments else None
        # Text after a span starts a new segment; consecutive text tokens share one.
        if not isinstance(segment, TextSegment):
            segment = TextSegment([])
            self.segments.append(segment)
        segment.token_ids.append(token)
        self.streamer.put_text([token])

    def _repeats_itself(self) -> bool:
        """Whether the text ends with copies of the same few tokens; to be called after every token of text."""
        segment = self.segments[-1] if self.segments else None
        text = segment.token_ids if isinstance(segment, TextSegment) else []
        # A text with a period equals itself shifted by it: this counts for how many tokens it has, by period.
        self._same_tokens = [
            count + 1 if len(text) > period and text[-1] == text[-1 - period] else 0
            for period, count in enumerate(self._same_tokens, start=1)
        ]
        limit = self.context.settings.text_repetition_limit or 0
        return any(count + period >= limit for period, count in enumerate(self._same_tokens, start=1) if count)

    def _open_span(self, opener: int) -> None:
        self._is_in_span = True
        self._opener_index = self.context.begin_ids.index(opener)
        self._span_length = 0
        self._codes = []
        # A minimum of text after the previous span no longer applies: more audio follows it.
        self._texts_before_eos = 0

    def _start_block(self) -> None:
        settings = self.context.settings
        length, steps = settings.audio_block_length, settings.audio_steps_per_block
        # The last block of a span or of the row is shortened to its limit; the official code lets it run over. With
        # more steps than positions the last ones would commit nothing.
        if not settings.is_official:
            length = min(length, settings.audio_max_span_length - self._span_length, self.length_limit - len(self.ids))
            steps = min(steps, length)
        self.canvas = [self.context.config.mask_token_id] * length
        self._schedule = transfer_schedule(length, steps)

    def accept_canvas(self, canvas: list[int], confidences: list[float]) -> None:
        """Takes the canvas after a denoising step, and the confidence of every position (step 2.e of `generate()`)."""
        self.streamer.put_draft(list(canvas), confidences)
        self.canvas = canvas
        self._schedule.pop(0)
        # The official code runs all steps, even when no masked position is left.
        is_official, mask = self.context.settings.is_official, self.context.config.mask_token_id
        # What follows an end marker is dropped, so that it need not be denoised.
        if not self._schedule or (not is_official and mask not in canvas[: self._end_of_span(canvas)]):
            self._finish_block()

    def _finish_block(self) -> None:
        """Moves the canvas to the ids, up to the first end marker, then ends the span or starts its next block."""
        context, settings, config = self.context, self.context.settings, self.context.config
        block, self.canvas = self.canvas, []
        # All positions of a block are denoised together, so tokens after its first end marker have no meaning.
        block = block[: self._end_of_span(block)]
        self._span_length += len(block)
        # A multiple rather than the limit itself: official spans may exceed it.
        is_full = self._span_length % settings.audio_max_span_length == 0
        if is_full and block[-1] not in context.end_ids and not settings.is_official:
            # A span at its length limit is closed with the end marker that belongs to its begin marker.
            block[-1] = context.end_ids[min(self._opener_index, len(context.end_ids) - 1)]
            # The span was cut, however the row goes on.
            self.finish_reason = "length"
        is_complete = block[-1] in context.end_ids
        self._append(block)
        # With the official vocabulary a block may hold text ids, which are not codes.
        offset = config.audio_code_offset
        self._codes += [token - offset for token in block if 0 <= token - offset < config.audio_vocab_size]
        self.streamer.put_block(list(block))

        if is_complete:
            self._close_span(complete=True)
        # An end marker may be one of the ids that end a reply.
        if block[-1] in context.eos_ids:
            self.stop(self.finish_reason)
            return
        # In the official code a span that reaches its limit without an end marker goes on, after a test of the length.
        is_limit_tested = is_complete or is_full or not settings.is_official
        if is_limit_tested and len(self.ids) >= self.length_limit:
            self.stop("length")
        elif not is_complete:
            self._start_block()

    def _end_of_span(self, block: list[int]) -> int:
        """Length of the block up to its first end marker, that included; all of it if it has none."""
        return next((index + 1 for index, token in enumerate(block) if token in self.context.end_ids), len(block))

    def _close_span(self, complete: bool) -> None:
        self._is_in_span = False
        # Counted down by `_accept_token`, which excludes the end of sequence until then.
        self._texts_before_eos = self.context.settings.min_text_tokens_after_audio
        self.segments.append(AudioSegment(torch.tensor(self._codes, dtype=torch.long), complete))
        self.streamer.end_span(complete)

    def _append(self, token_ids: Sequence[int]) -> None:
        tokens = torch.tensor(token_ids, dtype=torch.long)
        if self._padded_ids is not None:
            start = self._num_pads + len(self.ids)
            self._padded_ids[0, start : start + len(tokens)] = tokens.to(self._padded_ids.device)
        self.ids += token_ids
        self.streamer.put(tokens)


__all__ = ["AudioSegment", "TextSegment"]
