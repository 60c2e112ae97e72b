"""How one row is decoded, without a model: the settings, and the state machine that turns logits into text tokens,
denoised blocks and typed segments.

              begin marker                       end marker or span limit
     TEXT ---------------------->  SPAN  ---------------------------------------->  TEXT
    one token a forward            one denoising step a forward, block after block
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.logits_process import LogitsProcessorList

from .configuration_ttt import TtTConfig
from .samplers_ttt import (
    REMASKING_STRATEGIES,
    choose_token,
    proposal_confidences,
    propose_tokens,
    remasking_scores,
    select_positions,
    transfer_schedule,
)
from .streamers_ttt import TtTStreamer


AUDIO_VOCABULARIES = ("modality", "official")


@dataclass(frozen=True)
class AudioGenerationSettings:
    """Generation keys of TtT next to those of transformers; each can stand in `generation_config.json` or be passed to
    `generate()`.

    Args:
        audio_block_length: number of positions denoised together. Defaults to the model's `config.audio_block_length`.
        audio_steps_per_block: denoising steps, each a forward pass, that fill a block.
        audio_max_span_length: longest span in tokens, the end marker included.
        audio_temperature: 0 proposes the most likely tokens, a positive number draws them.
        audio_cfg_scale: classifier-free guidance scale; 0 is off, otherwise each denoising step runs a second forward
            in which everything but the block is masked.
        audio_remasking: how positions are ranked at a denoising step: `"low_confidence"`, `"random"`, `"entropy"` or
            `"margin"`.
        audio_confidence_threshold: positions proposed with a higher probability are committed at once, which saves
            steps; `None` commits by the schedule alone.
        min_text_tokens_after_audio: number of text tokens after a span before the end-of-sequence token is allowed.
        audio_vocabulary: `"modality"` allows text tokens in text and codes and end markers in spans, and keeps every
            limit; `"official"` is the algorithm of the official code: any token anywhere (but no end of sequence in a
            span), all steps always run, limits tested between spans only.
        seed: seed of sampling; by default it is drawn from torch's global generator.

    Raises:
        ValueError: a value is out of range.
    """

    audio_block_length: int
    audio_steps_per_block: int = 10
    audio_max_span_length: int = 640
    audio_temperature: float = 0.0
    audio_cfg_scale: float = 0.0
    audio_remasking: str = "low_confidence"
    audio_confidence_threshold: float | None = None
    min_text_tokens_after_audio: int = 0
    audio_vocabulary: str = "modality"
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("audio_block_length", "audio_steps_per_block", "audio_max_span_length"):
            _check_integer(name, getattr(self, name), lowest=1)
        _check_integer("min_text_tokens_after_audio", self.min_text_tokens_after_audio)
        _check_number("audio_temperature", self.audio_temperature)
        _check_number("audio_cfg_scale", self.audio_cfg_scale)
        if self.audio_confidence_threshold is not None:
            _check_number("audio_confidence_threshold", self.audio_confidence_threshold, highest=1.0)
        if self.seed is not None:
            _check_integer("seed", self.seed)
        for name, choices in (("audio_remasking", REMASKING_STRATEGIES), ("audio_vocabulary", AUDIO_VOCABULARIES)):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")
        if self.is_official and self.audio_max_span_length % self.audio_block_length:
            raise ValueError(
                f"audio_vocabulary='official' needs an audio_max_span_length that is a multiple of audio_block_length "
                f"{self.audio_block_length}, got {self.audio_max_span_length}."
            )

    @property
    def is_official(self) -> bool:
        """Whether the algorithm of the official code is followed to the letter."""
        return self.audio_vocabulary == "official"

    @property
    def draws_audio(self) -> bool:
        """Whether spans need random numbers."""
        return self.audio_temperature > 0 or self.audio_remasking == "random"

    @classmethod
    def from_generation_config(
        cls, generation_config: GenerationConfig, config: TtTConfig
    ) -> "AudioGenerationSettings":
        """Reads the settings off a generation config; absent keys and `None` mean the default.

        Args:
            generation_config: transformers' generation config with the keys as plain attributes.
            config: the model's configuration.

        Raises:
            ValueError: a value is out of range or does not fit the model.
        """
        values: dict[str, Any] = {"audio_block_length": config.audio_block_length}
        for name in AUDIO_GENERATION_KEYS:
            value = getattr(generation_config, name, None)
            if value is not None:
                values[name] = value
        settings = cls(**values)
        if config.audio_attention == "block_causal" and settings.audio_block_length != config.audio_block_length:
            raise ValueError(
                f"audio_block_length must stay {config.audio_block_length}, the block length of this model's "
                f"block-causal attention, got {settings.audio_block_length}."
            )
        return settings


AUDIO_GENERATION_KEYS = tuple(setting.name for setting in fields(AudioGenerationSettings))


def _check_integer(name: str, value: Any, lowest: int = 0) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
        raise ValueError(f"{name} must be an integer of at least {lowest}, got {value!r}.")


def _check_number(name: str, value: Any, highest: float = math.inf) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not 0 <= value <= highest:
        limits = "of at least 0" if highest == math.inf else f"between 0 and {highest:g}"
        raise ValueError(f"{name} must be a number {limits}, got {value!r}.")


@dataclass(frozen=True)
class TextSegment:
    """A piece of generated text.

    Attributes:
        token_ids: text ids without markers, end of sequence and padding.
    """

    token_ids: list[int]


@dataclass(frozen=True, eq=False)
class AudioSegment:
    """A generated span of audio.

    Attributes:
        codes: codes of the codec, not token ids; `torch.long` of shape `(frames,)`.
        complete: whether the span ended with an end marker; otherwise a limit or a stopping criterion cut it.
    """

    codes: torch.Tensor
    complete: bool


@dataclass(frozen=True)
class DecodingContext:
    """What all rows of a batch share.

    Attributes:
        settings: the audio settings.
        config: the model's configuration.
        begin_ids: markers that open a span.
        end_ids: end markers, in the order of the openers they belong to.
        eos_ids: ids that end a row.
        pad_id: id that stands left of prompts shorter than the longest.
        span_candidates: ids that a span may hold, ascending, `torch.long` on the device of the logits.
        do_sample: whether text tokens are drawn.
        width: length of the longest prompt.
    """

    settings: AudioGenerationSettings
    config: TtTConfig
    begin_ids: list[int]
    end_ids: list[int]
    eos_ids: list[int]
    pad_id: int
    span_candidates: torch.Tensor
    do_sample: bool
    width: int

    @classmethod
    def create(
        cls,
        settings: AudioGenerationSettings,
        config: TtTConfig,
        generation_config: GenerationConfig,
        width: int,
        device: torch.device,
    ) -> "DecodingContext":
        """Collects it: spans may hold codes and end markers, officially everything but the end of sequence.

        Args:
            settings: the audio settings.
            config: the model's configuration.
            generation_config: transformers' generation config, prepared by `generate()`.
            width: length of the longest prompt.
            device: device of ids and logits.
        """
        begin_ids, end_ids = config.begin_audio_token_ids or [], config.end_audio_token_ids or []
        eos_ids = generation_config._eos_token_tensor.tolist()
        allowed = torch.zeros(config.get_text_config().vocab_size, dtype=torch.bool, device=device)
        if settings.is_official:
            allowed[:] = True
            allowed[eos_ids] = False
        else:
            allowed[config.audio_code_offset : config.audio_code_offset + config.audio_vocab_size] = True
            allowed[end_ids] = True
        return cls(
            settings=settings,
            config=config,
            begin_ids=begin_ids,
            end_ids=end_ids,
            eos_ids=eos_ids,
            pad_id=int(generation_config._pad_token_tensor),
            span_candidates=allowed.nonzero().squeeze(-1),
            do_sample=bool(generation_config.do_sample),
            width=width,
        )


class DecodingRow:
    """One row on its way through text and spans.

    A forward gets the row's *open part*: the ids whose keys are not final yet, and in a span the block being denoised
    (the canvas). `accept` then takes the logits and advances the row by a text token or a denoising step.

    Args:
        context: what all rows share.
        prompt: ids of the prompt without padding.
        limit: number of new tokens allowed.
        processors: logits processors of this row, for text tokens.
        generator: the row's own source of randomness.
        streamer: receives the row's events.

    Attributes:
        ids: the prompt and all tokens that are settled.
        canvas: the block being denoised, mask tokens where nothing is committed; empty in text.
        final_length: number of leading ids whose keys are final after the last forward.
        num_forward_passes: forwards that this row took part in.
        segments: finished segments.
        is_finished: whether nothing more will come.
    """

    def __init__(
        self,
        context: DecodingContext,
        prompt: list[int],
        limit: int,
        processors: LogitsProcessorList,
        generator: torch.Generator,
        streamer: TtTStreamer,
    ):
        settings = context.settings
        self.context = context
        self.ids = list(prompt)
        self.length_limit = len(prompt) + limit
        # The official length rule lets the last span run over the limit.
        self.capacity = self.length_limit + (settings.audio_max_span_length if settings.is_official else 0)
        self.processors = processors
        self.generator = generator
        self.streamer = streamer

        self.canvas: list[int] = []
        self.final_length = 0
        self.num_forward_passes = 0
        self.segments: list[TextSegment | AudioSegment] = []
        self.is_finished = False
        self._num_pads = context.width - len(prompt)
        device = context.span_candidates.device
        self._padded_ids = torch.full((1, self._num_pads + self.capacity), context.pad_id, device=device)
        self._padded_ids[0, self._num_pads : context.width] = torch.tensor(prompt, device=device)
        self._is_in_span = False
        self._opener_index = 0
        self._span_length = 0
        self._codes: list[int] = []
        self._schedule: list[int] = []
        self._texts_before_eos = 0
        if not settings.is_official and prompt[-1] in context.begin_ids:
            self._open_span(prompt[-1])
            self._start_block()

    @property
    def padded_ids(self) -> torch.Tensor:
        """The ids as transformers' own loop would present them, left-padded like the prompts; shape `(1, length)`."""
        return self._padded_ids[:, : self._num_pads + len(self.ids)]

    def open_part(self, committed: int) -> list[int]:
        """Takes the inputs of the coming forward.

        Args:
            committed: number of leading ids whose keys are in the cache for good.

        Returns:
            The ids behind them, the canvas included.
        """
        self.num_forward_passes += 1
        # A run of audio that reaches the end of the ids may go on, and then its tokens see what follows. Nothing
        # before the run does, nor do full blocks if attention is block-causal.
        start = len(self.ids)
        while start > 0 and self.ids[start - 1] >= self.context.config.audio_token_start_id:
            start -= 1
        if (block_length := self.context.config.attention_block_length) is not None:
            start += (len(self.ids) - start) // block_length * block_length
        self.final_length = start
        return self.ids[committed:] + self.canvas

    def accept(self, logits: torch.Tensor) -> None:
        """Advances the row.

        Args:
            logits: float of shape `(1, vocabulary)` in text (those of the last id), `(block, vocabulary)` in a span.
        """
        if self.canvas:
            self._accept_step(logits)
        else:
            self._accept_token(logits)

    def stop(self) -> None:
        """Ends the row where it is; the block being denoised is dropped."""
        if self._is_in_span:
            self._close_span(complete=False)
        self.canvas = []
        self.is_finished = True

    def _accept_token(self, logits: torch.Tensor) -> None:
        """Adds one text token."""
        context, config = self.context, self.context.config
        if not context.settings.is_official:
            logits[:, config.audio_token_start_id :] = -torch.inf
        if self._texts_before_eos > 0:
            logits[:, context.eos_ids] = -torch.inf
        scores = self.processors(self.padded_ids, logits)
        token = choose_token(scores, context.do_sample, self.generator)
        if token < config.audio_token_start_id:
            # Text closes the run before it, and this forward has seen all of the run.
            self.final_length = len(self.ids)
        self._append([token])
        self._texts_before_eos = max(0, self._texts_before_eos - 1)
        if token in context.eos_ids:
            self.is_finished = True
        elif token in context.begin_ids:
            self._open_span(token)
        elif token < config.audio_token_start_id and token != context.pad_id:
            self._add_text(token)
        if len(self.ids) >= self.length_limit:
            self.stop()
        elif self._is_in_span:
            self._start_block()

    def _add_text(self, token: int) -> None:
        segment = self.segments[-1] if self.segments else None
        if not isinstance(segment, TextSegment):
            segment = TextSegment([])
            self.segments.append(segment)
        segment.token_ids.append(token)
        self.streamer.put_text([token])

    def _open_span(self, opener: int) -> None:
        self._is_in_span = True
        self._opener_index = self.context.begin_ids.index(opener)
        self._span_length = 0
        self._codes = []
        self._texts_before_eos = 0

    def _start_block(self) -> None:
        settings = self.context.settings
        length, steps = settings.audio_block_length, settings.audio_steps_per_block
        if not settings.is_official:
            length = min(length, settings.audio_max_span_length - self._span_length, self.length_limit - len(self.ids))
            steps = min(steps, length)
        self.canvas = [self.context.config.mask_token_id] * length
        self._schedule = transfer_schedule(length, steps)

    def _accept_step(self, logits: torch.Tensor) -> None:
        """Commits some positions of the canvas."""
        settings, mask = self.context.settings, self.context.config.mask_token_id
        candidates = self.context.span_candidates
        choices, probabilities = propose_tokens(logits[:, candidates], settings.audio_temperature, self.generator)
        scores = remasking_scores(probabilities, choices, settings.audio_remasking, self.generator).tolist()
        confidences = proposal_confidences(probabilities, choices).tolist()
        proposals = candidates[choices].tolist()
        masked = [position for position, token in enumerate(self.canvas) if token == mask]
        count = self._schedule.pop(0)
        for position in select_positions(scores, confidences, masked, count, settings.audio_confidence_threshold):
            self.canvas[position] = proposals[position]
        # The official code runs every step, even when there is nothing left to commit.
        if not self._schedule or (not settings.is_official and mask not in self.canvas):
            self._finish_block()
        else:
            self.streamer.put_draft(list(self.canvas))

    def _finish_block(self) -> None:
        """Moves the canvas into the ids, up to the first end marker, and goes on to what follows."""
        context, settings, config = self.context, self.context.settings, self.context.config
        block, self.canvas = self.canvas, []
        ends = [position for position, token in enumerate(block) if token in context.end_ids]
        if ends:
            block = block[: ends[0] + 1]
        self._span_length += len(block)
        is_full = self._span_length % settings.audio_max_span_length == 0
        if is_full and not ends and not settings.is_official:
            # The end marker that belongs to the marker which opened the span.
            block[-1] = context.end_ids[min(self._opener_index, len(context.end_ids) - 1)]
        is_complete = block[-1] in context.end_ids
        self._append(block)
        offset = config.audio_code_offset
        self._codes += [token - offset for token in block if 0 <= token - offset < config.audio_vocab_size]
        self.streamer.put_block(list(block))

        if is_complete:
            self._close_span(complete=True)
        # Officially a span that fills up without an end marker goes on, and limits are tested before it does.
        is_limit_tested = is_complete or is_full or not settings.is_official
        if is_limit_tested and len(self.ids) >= self.length_limit:
            self.stop()
        elif not is_complete:
            self._start_block()

    def _close_span(self, complete: bool) -> None:
        self._is_in_span = False
        self._texts_before_eos = self.context.settings.min_text_tokens_after_audio
        self.segments.append(AudioSegment(torch.tensor(self._codes, dtype=torch.long), complete))
        self.streamer.end_span(complete)

    def _append(self, token_ids: Sequence[int]) -> None:
        start = self._num_pads + len(self.ids)
        tokens = torch.tensor(token_ids, dtype=torch.long)
        self._padded_ids[0, start : start + len(tokens)] = tokens.to(self._padded_ids.device)
        self.ids += token_ids
        self.streamer.put(tokens)


__all__ = ["AudioGenerationSettings", "AudioSegment", "TextSegment"]
