"""Decoding with fixed shapes, which `torch.compile` turns into CUDA graphs: `cache_implementation="static"`.

On a GPU a forward of a few positions takes longer to launch, kernel by kernel, than to run. A CUDA graph launches all
kernels at once, but needs the same shapes and addresses every time:

    rows        all slots of the session; free ones, and rows that take no part, are padding
    positions   1, or the next of a few widths
    keys        the next power of two that holds the longest row, at most the capacity
    padding     writes its keys to the spare slot behind the capacity, which attention never reads

Prompts have any length, so that the first forward of a row keeps its own shape and is not compiled.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from transformers import CompileConfig, GenerationConfig
from transformers.cache_utils import Cache

from .cache_ttt import RaggedCache
from .decoding_ttt import DecodingContext, DecodingRow
from .head_ttt import LogitSelection
from .inputs_ttt import masked_inputs
from .samplers_ttt import choose_tokens
from .step_ttt import Choice, RowGroup, choose, commit_tokens, group_rows, start_step


if TYPE_CHECKING:
    from .modeling_ttt import TtTForConditionalGeneration


# The smallest number of keys that a forward reads, and the smallest capacity of generate()'s cache. Reading more keys
# than needed costs little next to the weights, other shapes cost a compilation each.
SHORTEST_KEYS = 256
# Widths of wide forwards and numbers of keys are multiples of this one.
ALIGNMENT = 8
# Numbers of a row besides its ids: committed length, inputs, positions of its canvas, how many of them the schedule
# commits, and whether the end of the reply is excluded.
NUM_COUNTS = 5
# torch.compile gives up after 8 shapes by default. Widths and key lengths are few, but more than that.
RECOMPILE_LIMIT = 256

DEFAULT_COMPILE_CONFIG = CompileConfig(fullgraph=True, dynamic=False, mode="reduce-overhead")


class StaticCache(RaggedCache):
    """A `RaggedCache` whose memory stays where it is, as CUDA graphs need it.

    Args:
        batch_size: Number of rows.
        capacity: Number of slots per row.
    """

    is_compileable = True  # transformers' rule of what is compiled asks for it

    def mark_static(self) -> None:
        """Tells the compiler that the memory, which the first forward has allocated, does not move."""
        for layer in self.layers:
            for states in (layer.keys, layer.values):
                torch._dynamo.mark_static_address(states)


class SlotView(Cache):
    """A cache as a forward with fixed shapes sees it: all rows, written where a tensor says.

    Args:
        cache: The cache, whose layers are allocated.
        slots: Slot of every input position, `torch.long` of shape `(rows, width)`.
        key_length: Number of leading slots that attention reads.
    """

    def __init__(self, cache: RaggedCache, slots: torch.Tensor, key_length: int) -> None:
        super().__init__(layers=cache.layers)
        self.slots = slots
        self.key_length = key_length

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes keys and values of shape `(rows, heads, width, head size)`; returns the first ones of all rows."""
        keys, values = self.layers[layer_idx].keys, self.layers[layer_idx].values
        slots = self.slots.to(keys.device)
        rows = torch.arange(slots.shape[0], device=slots.device)[:, None]
        # A slice between two index tensors puts their dimensions first: (rows, width, heads, head size).
        keys[rows, :, slots] = key_states.transpose(1, 2)
        values[rows, :, slots] = value_states.transpose(1, 2)
        return keys[:, :, : self.key_length], values[:, :, : self.key_length]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """0: positions and mask are given, and a length would be another constant of the compiled code."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Number of keys that attention reads, and the index of the first one."""
        return self.key_length, 0


@dataclass(frozen=True)
class Part:
    """What a fixed forward does for its rows in text, or for those in a span. Constants of the compiled code.

    Attributes:
        columns: First column of the logits, and the one after the last.
        positions: Number of positions of each row.
        context: Settings of the sampler, if the tokens are chosen in the forward; else it returns the logits.
    """

    columns: tuple[int, int]
    positions: int
    context: DecodingContext | None


class StaticDecoder:
    """Makes the steps of a session with fixed shapes.

    Args:
        model: The `TtTForConditionalGeneration`.
        slots: Number of rows of its cache.
        capacity: Number of positions of each.
        compile_config: For `torch.compile`.
        disable_compile: Whether nothing is compiled. Else forwards are compiled under the conditions of transformers'
            `generate()`: on a GPU, unless weights are offloaded or quantized in a way that cannot be.
    """

    def __init__(
        self,
        model: "TtTForConditionalGeneration",
        slots: int,
        capacity: int,
        compile_config: CompileConfig | None = None,
        disable_compile: bool = False,
    ) -> None:
        self.model = model
        # Kernels of attention want aligned rows of the mask.
        self.cache = take_cache(model, slots, round_up(capacity, ALIGNMENT))
        self._forward: Callable[..., Any] = fixed_forward
        conditions = GenerationConfig(compile_config=compile_config, disable_compile=disable_compile)
        self._is_compiled = model._valid_auto_compile_criteria({"past_key_values": self.cache}, conditions)
        if self._is_compiled:
            self._forward = torch.compile(fixed_forward, **(compile_config or DEFAULT_COMPILE_CONFIG).to_dict())
        self._is_marked = False

    def start_step(self, rows: Sequence[DecodingRow]) -> list[Choice]:
        """As `start_step` of `step_ttt.py`, for all running rows.

        Args:
            rows: The running rows, the first ones of the cache.

        Returns:
            What was chosen.
        """
        # Of any length: prompts, new turns, and everything without a cache.
        is_first = [row.num_forward_passes == 0 or not row.context.use_cache for row in rows]
        choices = []
        for of_any_length, run in groupby(range(len(rows)), key=is_first.__getitem__):
            if of_any_length:
                indices = list(run)
                choices += start_step(self.model, [rows[index] for index in indices], self.cache, indices[0])
        fixed = [None if first else row for first, row in zip(is_first, rows)]
        return choices + (self._start_fixed(fixed) if any(fixed) else [])

    def _start_fixed(self, rows: list[DecodingRow | None]) -> list[Choice]:
        """One forward of fixed shape for the given rows; `None` for those that take no part."""
        rows = rows + [None] * (len(self.cache.lengths) - len(rows))
        parts = [row.open_part(length) if row else [] for row, length in zip(rows, self.cache.lengths)]
        groups = groups_of(rows)
        text, span = (plan([group for group in groups if group.is_span == is_span]) for is_span in (False, True))
        state = pack(rows, parts, self.cache.lengths, fixed_width(max(map(len, parts)), self.model.config))
        longest = max(length + len(part) for length, part in zip(self.cache.lengths, parts) if part)
        device = groups[0].rows[0].context.excluded_columns.device
        outputs = self._call(to_device(state, device), fixed_keys(longest, self.cache.capacity), text, span)

        choices = []
        for part, output, is_span in ((text, outputs[0], False), (span, outputs[1], True)):
            if part is not None and part.context is not None:
                own = [row if row and bool(row.canvas) == is_span else None for row in rows]
                choices.append(Choice(own, *output))
            elif part is not None:
                # Rows that draw, have logits processors or are guided, and groups that differ in their settings
                for group in groups:
                    if group.is_span == is_span:
                        choices.append(choose(self.model, group, logits_of(group, output[0], part)))
        return choices

    def _call(self, *args: Any) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """Runs the forward, compiled or not."""
        if not self._is_compiled:
            return self._forward(self.model, self.cache, *args)
        if not self._is_marked:
            self.cache.mark_static()
            self._is_marked = True
        # What the last step has returned may be overwritten.
        torch.compiler.cudagraph_mark_step_begin()
        # transformers makes masks of flex attention with a flag that warns, which is no part of a graph.
        with torch._dynamo.config.patch(
            recompile_limit=RECOMPILE_LIMIT,
            accumulated_recompile_limit=RECOMPILE_LIMIT,
            ignore_logger_methods={warnings.warn},
        ):
            return self._forward(self.model, self.cache, *args)


def fixed_forward(
    model: "TtTForConditionalGeneration",
    cache: RaggedCache,
    state: torch.Tensor,
    key_length: int,
    text: Part | None,
    span: Part | None,
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """A forward of all slots, and the sampler where it draws no numbers. Everything in it has a fixed shape.

    Args:
        model: The `TtTForConditionalGeneration`.
        cache: Its layers are allocated.
        state: `torch.long` of shape `(rows, width + NUM_COUNTS)`, see `pack`.
        key_length: Number of slots that attention reads.
        text: What is done for rows in text, if there are any.
        span: What is done for rows in a span, if there are any.

    Returns:
        For text and for spans, empty without one: the tensors of a `Choice`, or the logits, `torch.float32` of shape
        `(rows, positions, columns)`. Those of padding are arbitrary.
    """
    rows, width = state.shape[0], state.shape[1] - NUM_COUNTS
    ids = state[:, :width]
    # (rows, 1) each
    lengths, inputs, canvas_lengths, counts, excludes_eos = state[:, width:].split(1, dim=1)
    index = torch.arange(width, device=state.device)
    slots = torch.where(index < inputs, lengths + index, cache.capacity)
    dtype = model.get_input_embeddings().weight.dtype
    ends = (lengths + inputs).squeeze(1)
    arguments = masked_inputs(model.config, ids, slots, ends, cache.capacity, key_length, dtype)

    # Positions of the flattened (rows * width) hidden states; the ones of a canvas are a row's last inputs.
    starts = torch.arange(rows, device=state.device)[:, None] * width
    selections = []
    if text is not None:
        selections.append(LogitSelection((starts + (inputs - 1).clamp(min=0)).flatten(), slice(*text.columns)))
    if span is not None:
        on_canvas = torch.arange(span.positions, device=state.device)
        places = (inputs - canvas_lengths + on_canvas).clamp(max=width - 1)
        selections.append(LogitSelection((starts + places).flatten(), slice(*span.columns)))
    view = SlotView(cache, slots, key_length)
    output = model(**arguments, past_key_values=view, use_cache=True, logit_selections=selections)
    logits = [own.to(device=state.device, dtype=torch.float32).unflatten(0, (rows, -1)) for own in output.logits]

    tokens: tuple[torch.Tensor, ...] = ()
    canvases: tuple[torch.Tensor, ...] = ()
    if text is not None:
        tokens = (logits[0],)
        if text.context is not None:
            tokens = (next_tokens(text.context, logits[0].squeeze(1), excludes_eos),)
    if span is not None:
        canvases = (logits[-1],)
        if span.context is not None:
            # Behind a canvas nothing is masked, so that nothing is committed.
            canvas = ids.gather(1, places).where(on_canvas < canvas_lengths, 0)
            canvases = commit_tokens(span.context, logits[-1], canvas, counts)
    return tokens, canvases


def next_tokens(context: DecodingContext, logits: torch.Tensor, excludes_eos: torch.Tensor) -> torch.Tensor:
    """Chooses the most likely text tokens; as `choose_text`, without a loop over rows.

    Args:
        context: Settings of the rows.
        logits: Shape `(rows, columns)`.
        excludes_eos: 1 for rows that must go on, shape `(rows, 1)`.

    Returns:
        Ids, `torch.long` of shape `(rows, 1)`.
    """
    columns = torch.arange(logits.shape[1], device=logits.device)
    is_excluded = (columns >= context.text_size).expand_as(logits)
    for token in context.eos_ids:
        is_excluded = is_excluded | ((columns == token) & excludes_eos.bool())
    return choose_tokens(logits.masked_fill(is_excluded, -torch.inf), False, ())[:, None]


def groups_of(rows: Sequence[DecodingRow | None]) -> list[RowGroup]:
    """Groups the rows that take part, with their indices among all."""
    indices = [index for index, row in enumerate(rows) if row is not None]
    groups = group_rows([row for row in rows if row is not None])
    return [RowGroup(group.is_span, group.rows, [indices[index] for index in group.indices]) for group in groups]


def plan(groups: Sequence[RowGroup]) -> Part | None:
    """Decides what a fixed forward does for rows in text, or for rows in spans.

    Args:
        groups: All of them in text, or all in spans.

    Returns:
        The part; `None` without groups.
    """
    if not groups:
        return None
    context = groups[0].rows[0].context
    settings, is_span = context.settings, groups[0].is_span
    rows = [row for group in groups for row in group.rows]
    columns = [group.columns for group in groups]
    if is_span:
        is_plain = not settings.draws_audio and settings.audio_cfg_scale == 0
        # The same for all blocks, though the last one of a span may be shorter.
        positions = round_up(max(row.context.settings.audio_block_length for row in rows), ALIGNMENT)
    else:
        is_plain = not context.do_sample and not any(row.processors for row in rows)
        positions = 1
    # Rows of several groups are few in number, or those of a server; they are chosen group by group, on the device.
    return Part(
        columns=(min(each.start for each in columns), max(each.stop for each in columns)),
        positions=positions,
        context=context if is_plain and len(groups) == 1 else None,
    )


def logits_of(group: RowGroup, logits: torch.Tensor, part: Part) -> torch.Tensor:
    """The logits that a forward of the group's rows alone would give.

    Args:
        group: The rows.
        logits: Those of all slots, shape `(rows, positions, columns)`.
        part: Says which columns they are.

    Returns:
        Shape `(positions of the group, columns of the group)`, a copy.
    """
    columns = slice(group.columns.start - part.columns[0], group.columns.stop - part.columns[0])
    return torch.cat([logits[index, :count, columns] for index, count in zip(group.indices, group.counts)])


def pack(
    rows: Sequence[DecodingRow | None], parts: Sequence[list[int]], lengths: Sequence[int], width: int
) -> list[list[int]]:
    """What a fixed forward needs to know of every row, in one table, so that it is sent to the device at once.

    Args:
        rows: The rows of all slots.
        parts: Their open parts.
        lengths: Their committed lengths.
        width: Number of positions of the forward.

    Returns:
        For every slot the ids of its open part, padded to the width, and `NUM_COUNTS` further numbers.
    """
    table = []
    for row, part, length in zip(rows, parts, lengths):
        counts = [length, len(part), 0, 0, 0]
        if row is not None:
            counts[2:] = [len(row.canvas), row.num_to_commit if row.canvas else 0, int(row.excludes_eos)]
        table.append(part + [0] * (width - len(part)) + counts)
    return table


def to_device(table: list[list[int]], device: torch.device) -> torch.Tensor:
    """Sends a table of integers to the device; the host does not wait for it."""
    is_cuda = device.type == "cuda"
    return torch.tensor(table, pin_memory=is_cuda).to(device, non_blocking=is_cuda)


def fixed_width(width: int, config: Any) -> int:
    """Number of positions of a forward: 1, or a block with its begin marker, doubled until it holds the width."""
    if width == 1:
        return 1
    fixed = round_up(config.audio_block_length + 1, ALIGNMENT)
    while fixed < width:
        fixed *= 2
    return fixed


def fixed_keys(length: int, capacity: int) -> int:
    """Number of keys that attention reads: the next power of two, at most the capacity."""
    return min(max(SHORTEST_KEYS, power_of_two(length)), capacity)


def power_of_two(number: int) -> int:
    """The next power of two."""
    return 1 << (number - 1).bit_length()


def round_up(number: int, multiple: int) -> int:
    """The next multiple."""
    return -(-number // multiple) * multiple


def static_capacity(length: int) -> int:
    """Capacity of a cache that holds the length, one of a few, so that calls of `generate()` share their memory."""
    return max(SHORTEST_KEYS, power_of_two(length))


# The last cache that was closed, by model: one elsewhere in memory would need new CUDA graphs.
_KEPT: WeakKeyDictionary[Any, StaticCache] = WeakKeyDictionary()


def take_cache(model: "TtTForConditionalGeneration", slots: int, capacity: int) -> StaticCache:
    """Takes the model's kept cache, if it has the right size, or makes a new one.

    Args:
        model: The model.
        slots: Number of rows.
        capacity: Number of positions of each, exactly.

    Returns:
        An empty cache, which nothing else uses.
    """
    cache = _KEPT.pop(model, None)
    if cache is None or (len(cache.lengths), cache.capacity) != (slots, capacity) or not _fits(cache, model):
        return StaticCache(slots, capacity)
    for row in range(slots):
        cache.truncate(row, 0)
    return cache


def keep_cache(model: "TtTForConditionalGeneration", cache: StaticCache) -> None:
    """Keeps a cache that is no longer used, for the next call of `take_cache`."""
    _KEPT[model] = cache


def _fits(cache: StaticCache, model: "TtTForConditionalGeneration") -> bool:
    """Whether a kept cache has the data type and the device that the model has now."""
    weight = model.get_input_embeddings().weight
    return all((layer.keys.dtype, layer.keys.device) == (weight.dtype, weight.device) for layer in cache.layers[:1])


__all__ = ["StaticDecoder", "keep_cache", "static_capacity"]
