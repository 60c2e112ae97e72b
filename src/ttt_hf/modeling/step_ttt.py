"""One decoding step of several rows: one forward, one sampler for all, one transfer of the chosen ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from .cache_ttt import RaggedCache
from .decoding_ttt import DecodingContext, DecodingRow
from .head_ttt import LogitSelection
from .inputs_ttt import model_inputs
from .samplers_ttt import (
    NOT_FINITE,
    choose_tokens,
    position_entropies,
    propose_tokens,
    remasking_scores,
    select_positions,
)


if TYPE_CHECKING:
    from .modeling_ttt import TtTForConditionalGeneration


MILLION = 1_000_000


@dataclass(frozen=True)
class RowGroup:
    """Rows whose tokens are chosen together: all in text or all in a span, with the same settings.

    Attributes:
        is_span: Whether they are in a span.
        rows: The rows.
        indices: Their indices among the rows of the forward.
    """

    is_span: bool
    rows: list[DecodingRow]
    indices: list[int]

    @property
    def columns(self) -> slice:
        """Columns of the logits among which the tokens are."""
        context = self.rows[0].context
        return context.span_columns if self.is_span else context.text_columns

    @property
    def counts(self) -> list[int]:
        """Number of positions of each row whose logits are needed, its last ones."""
        return [max(1, len(row.canvas)) for row in self.rows]


class Choice(NamedTuple):
    """Ids that a forward has chosen and that are still on the device.

    Attributes:
        rows: A row for each row of `ids`; `None` where they are not used.
        ids: `torch.long` of shape `(rows, positions)`: the next token of rows in text, the new canvas of rows in a
            span, padded on the right; negative where logits are not finite.
        confidences: In spans the probability of the token proposed at every position, in millionths, `torch.long` of
            the shape of `ids`.
    """

    rows: Sequence[DecodingRow | None]
    ids: torch.Tensor
    confidences: torch.Tensor | None = None


def start_step(
    model: "TtTForConditionalGeneration", rows: Sequence[DecodingRow], cache: RaggedCache, first: int = 0
) -> list[Choice]:
    """Chooses a text token or makes a denoising step of every row (steps 2.a to 2.e of `generate()`), on the device.

    Args:
        model: The `TtTForConditionalGeneration`, called as a whole, so that hooks on it and on its modules work.
        rows: The rows.
        cache: Holds their committed keys and values in consecutive rows.
        first: The first of these.

    Returns:
        What was chosen, for `finish_step`.
    """
    # 2.a Inputs: the rows' open parts
    parts = [row.open_part(cache.lengths[index]) for index, row in enumerate(rows, first)]
    groups = group_rows(rows)
    # 2.b, 2.d One forward for all rows; logits where tokens are chosen, of the ids that are possible there
    logits = run_model(model, parts, groups, cache, first)
    return [choose(model, group, own) for group, own in zip(groups, logits)]


def finish_step(choices: Sequence[Choice]) -> None:
    """Fetches what was chosen, and advances the rows.

    A row whose logits are not finite, or whose logits processors raise an error, fails; the others go on.

    Args:
        choices: Those of all forwards of the step.
    """
    # The only transfer: until here nothing has waited for the device. Confidences are integers to go with the ids.
    parts = [tensor for choice in choices for tensor in (choice.ids, choice.confidences) if tensor is not None]
    values = iter(torch.cat([part.flatten() for part in parts]).tolist())
    for choice in choices:
        width = choice.ids.shape[1]
        found = [list(islice(values, width)) for _ in choice.rows]
        millionths = [list(islice(values, width)) for _ in choice.rows if choice.confidences is not None]
        for index, row in enumerate(choice.rows):
            if row is None:
                continue
            # Canvases are padded to the longest one of their forward.
            ids = found[index][: max(1, len(row.canvas))]
            if row.error is not None or min(ids) < 0:
                row.fail(row.error or ValueError(NOT_FINITE))
            elif row.canvas:
                row.accept_canvas(ids, [value / MILLION for value in millionths[index][: len(ids)]])
            else:
                row.accept_token(ids[0])


def choose(model: "TtTForConditionalGeneration", group: RowGroup, logits: torch.Tensor) -> Choice:
    """Chooses the tokens of a group of rows (step 2.e of `generate()`).

    Args:
        group: The rows.
        logits: `torch.float32` of shape `(positions, columns)`, row after row; changed in place.

    Returns:
        What was chosen.
    """
    if not group.is_span:
        return Choice(group.rows, choose_text(group, logits)[:, None])
    # 2.c Unconditional forward of classifier-free guidance
    if group.rows[0].context.settings.audio_cfg_scale > 0:
        logits = guide(model, group, logits)
    return Choice(group.rows, *denoise(group, logits))


def group_rows(rows: Sequence[DecodingRow]) -> list[RowGroup]:
    """Groups the rows of a forward by what they choose, and how; in the usual case one group in text, one in spans."""
    groups: dict[tuple[Any, ...], RowGroup] = {}
    for index, row in enumerate(rows):
        context, settings = row.context, row.context.settings
        key: tuple[Any, ...] = (bool(row.canvas), tuple(context.eos_ids), settings.is_official)
        if row.canvas:
            key += (settings.audio_temperature, settings.audio_remasking, settings.audio_cfg_scale)
            key += (settings.audio_entropy_bound, settings.audio_confidence_threshold)
        else:
            key += (context.do_sample, context.text_columns.stop)
        group = groups.setdefault(key, RowGroup(bool(row.canvas), [], []))
        group.rows.append(row)
        group.indices.append(index)
    return list(groups.values())


def run_model(
    model: "TtTForConditionalGeneration",
    parts: Sequence[list[int]],
    groups: Sequence[RowGroup],
    cache: RaggedCache,
    first: int = 0,
) -> list[torch.Tensor]:
    """Runs the model on open parts.

    Args:
        parts: Ids of every row, which follow its committed length.
        groups: The rows, with the number of logits that each needs.
        cache: Keys and values of the committed ids.
        first: The row of the cache that the first part belongs to.

    Returns:
        For every group `torch.float32` logits of shape `(positions, columns)`, row after row.
    """
    device = groups[0].rows[0].context.excluded_columns.device
    inputs = model_inputs(model, parts, cache, first, device)
    width = max(map(len, parts))
    selections = []
    for group in groups:
        ends = [index * width + len(parts[index]) for index in group.indices]
        positions: slice | torch.Tensor
        if len(ends) == 1:
            positions = slice(ends[0] - group.counts[0], ends[0])
        else:
            kept = [position for end, count in zip(ends, group.counts) for position in range(end - count, end)]
            positions = torch.tensor(kept, device=device)
        selections.append(LogitSelection(positions, group.columns))
    output = model(**inputs, past_key_values=cache, use_cache=True, logit_selections=selections)
    return [logits.to(device=device, dtype=torch.float32) for logits in output.logits]


def choose_text(group: RowGroup, logits: torch.Tensor) -> torch.Tensor:
    """Chooses the next token of rows in text.

    Args:
        group: The rows.
        logits: Those of their last ids, shape `(rows, columns)`; changed in place.

    Returns:
        Ids, `torch.long` of shape `(rows,)`.
    """
    context = group.rows[0].context
    logits[:, context.text_size :] = -torch.inf
    for own, row in zip(logits, group.rows):
        if row.excludes_eos:
            own[context.eos_ids] = -torch.inf
    if any(row.processors for row in group.rows):
        # Processors see the ids with the prompts' padding, as they would in transformers' own loop.
        logits = torch.cat([process(row, logits[index : index + 1]) for index, row in enumerate(group.rows)])
    return choose_tokens(logits, context.do_sample, [row.generator for row in group.rows])


def process(row: DecodingRow, logits: torch.Tensor) -> torch.Tensor:
    """Applies the logits processors of a row to its logits `(1, columns)`; an error of theirs is noted in the row."""
    if not row.processors:
        return logits
    try:
        return row.processors(row.padded_ids, logits)
    # Of any kind, as callers bring their own processors.
    except Exception as error:
        row.error = error
        return logits


def denoise(group: RowGroup, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Makes a denoising step of rows in a span: proposes a token per position and commits the most confident ones.

    Args:
        group: The rows.
        logits: Those of their canvases, shape `(positions, columns)`, row after row; changed in place.

    Returns:
        The new canvases, `torch.long` of shape `(rows, longest canvas)`, -1 where logits are not finite; and the
        confidences of a `Choice`.
    """
    context, lengths = group.rows[0].context, group.counts
    length = max(lengths)
    # (rows, positions, columns)
    if min(lengths) == length:
        logits = logits.view(len(lengths), length, -1)
    else:
        logits = nn.utils.rnn.pad_sequence(list(logits.split(lengths)), batch_first=True)
    # Padding is not masked, so that it is never committed.
    canvas = torch.tensor([row.canvas + [0] * (length - len(row.canvas)) for row in group.rows], device=logits.device)
    counts = torch.tensor([[row.num_to_commit] for row in group.rows], device=logits.device)
    return commit_tokens(context, logits, canvas, counts, [row.generator for row in group.rows], lengths)


def commit_tokens(
    context: DecodingContext,
    logits: torch.Tensor,
    canvas: torch.Tensor,
    counts: torch.Tensor,
    generators: Sequence[torch.Generator] = (),
    lengths: Sequence[int] = (),
) -> tuple[torch.Tensor, torch.Tensor]:
    """A denoising step as tensors.

    Args:
        context: Settings of the rows.
        logits: Those of the canvases, shape `(rows, positions, columns)`; changed in place.
        canvas: The canvases, `torch.long` of shape `(rows, positions)`.
        counts: Number of positions that the schedule commits in each row, `torch.long` of shape `(rows, 1)`.
        generators: Random generator of every row, if the settings draw numbers.
        lengths: Positions of every row, if numbers are drawn.

    Returns:
        The new canvases, -1 where logits are not finite, and the confidences of a `Choice`.
    """
    settings = context.settings
    # Only ids that a span may hold take part in the softmax: confidences are relative to them.
    logits.index_fill_(-1, context.excluded_columns, -torch.inf)
    choices, confidences = propose_tokens(logits, settings.audio_temperature, generators, lengths)
    scores = remasking_scores(logits, confidences, settings.audio_remasking, generators, lengths)
    is_masked = canvas == context.config.mask_token_id
    # The schedule sets how many positions are committed at least, their scores which. The official algorithm keeps to
    # it, whatever a checkpoint's own settings are.
    bound, threshold = settings.audio_entropy_bound, settings.audio_confidence_threshold
    if settings.is_official:
        bound = threshold = None
    entropies = None if bound is None else position_entropies(logits)
    selected = select_positions(scores, is_masked, counts, entropies, bound, confidences, threshold)
    canvas = torch.where(selected, choices + context.span_columns.start, canvas)
    canvas = canvas.masked_fill(is_masked & confidences.isnan(), -1)
    return canvas, (confidences.nan_to_num() * MILLION).long()


def guide(model: "TtTForConditionalGeneration", group: RowGroup, logits: torch.Tensor) -> torch.Tensor:
    """Classifier-free guidance: moves logits away from those of a forward in which all but the canvas is masked.

    Args:
        group: Rows in a span.
        logits: Those of their canvases, shape `(positions, columns)`.

    Returns:
        The guided logits, of the same shape.
    """
    mask = model.config.mask_token_id
    parts = [[mask] * len(row.ids) + row.canvas for row in group.rows]
    # Mask tokens are audio: each input is a single bidirectional run, so no keys can be reused between steps.
    cache = RaggedCache(len(parts), max(map(len, parts)))
    (unconditional,) = run_model(model, parts, [RowGroup(True, group.rows, list(range(len(parts))))], cache)
    # A scale of 0 would give the conditional logits; larger ones move away from the unconditional ones.
    scale = group.rows[0].context.settings.audio_cfg_scale
    return unconditional + (scale + 1) * (logits - unconditional)
