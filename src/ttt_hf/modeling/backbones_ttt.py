"""Checks a backbone by what it does: a few tiny forwards, under the hybrid mask, with the cache and without it."""

from typing import TYPE_CHECKING

import torch

from .cache_ttt import RaggedCache
from .inputs_ttt import model_inputs


if TYPE_CHECKING:
    from .modeling_ttt import TtTForConditionalGeneration

# Largest difference between two ways to compute the same logits, relative to their norm. Rounding stays far below,
# also where it sends a token to another expert; what a backbone computes from wrong positions or keys lies above.
TOLERANCE = 0.01
TOLERANCE_OF_HALF_PRECISION = 0.3
# Text tokens of the probe before its span, and after it.
TEXT_LENGTH = 3
LATER_LENGTH = 2


@torch.no_grad()
def check_backbone(model: "TtTForConditionalGeneration") -> None:
    """Checks that a backbone sees what the hybrid mask shows it and nothing else, with the cache as without it.

    Args:
        model: The model, in evaluation mode.

    Raises:
        ValueError: If it does not, or cannot run.
    """
    kind = model.config.text_config.model_type
    advice = "choose another text model (docs/official.md lists families that work)."
    try:
        expected, changed, cached = _probe(model)
    except torch.OutOfMemoryError:
        raise
    # A backbone's code may fail in any way with a mask or a cache that it does not expect.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ValueError(f"The backbone '{kind}' cannot run with TtT's mask and cache ({reason}): {advice}") from error
    if not bool(expected.isfinite().all()):
        raise ValueError(f"The text model '{kind}' computes logits that are not finite: its weights are damaged.")
    # The first rows differ in the last token of a span alone: text before it must not see that, its span must.
    text, span = slice(0, TEXT_LENGTH), slice(TEXT_LENGTH, TEXT_LENGTH + 1)
    sees_future = not _are_close(changed[text], expected[text])
    if sees_future or (_span_length(model) > 1 and torch.equal(changed[span], expected[span])):
        raise ValueError(f"The backbone '{kind}' does not follow an attention mask, which TtT needs: {advice}")
    if not _are_close(cached, expected):
        raise ValueError(f"The backbone '{kind}' computes other logits with a cache than without: {advice}")


def _span_length(model: "TtTForConditionalGeneration") -> int:
    # One block, as blocks of block-causal attention do not see later ones.
    return min(4, model.config.attention_block_length or 4)


def _probe(model: "TtTForConditionalGeneration") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Runs text, a span and text: at once, at once with another last token of the span, and in parts with a cache.

    Returns:
        Three tensors of logits, each of shape `(positions, vocabulary)`, the same positions in each.
    """
    config, length = model.config, _span_length(model)
    words = [index * config.audio_token_start_id // 8 for index in range(1, TEXT_LENGTH + LATER_LENGTH + 1)]
    codes = [config.audio_code_offset + index % config.audio_vocab_size for index in range(length)]
    spoken = [*words[:TEXT_LENGTH], *codes, *words[TEXT_LENGTH:]]
    changed = [*words[:TEXT_LENGTH], *codes[:-1], config.mask_token_id, *words[TEXT_LENGTH:]]
    # A shorter row of text, so that rows have padding and different lengths in the cache.
    pads = len(spoken) - len(words)
    ids = torch.tensor([spoken, changed, words + [0] * pads], device=model.device)
    mask = torch.tensor([[1] * len(spoken), [1] * len(spoken), [1] * len(words) + [0] * pads], device=model.device)
    logits = model(ids, attention_mask=mask, use_cache=False).logits

    # As in `generate()`: the open span is computed twice, and its keys become final with the second forward.
    start, end = TEXT_LENGTH, TEXT_LENGTH + length
    spoken_parts = [spoken[:start], spoken[start:end], spoken[start:]]
    written_parts = [words[:2], words[2:3], words[3:]]
    together = _cached(model, [spoken_parts, written_parts], [[start, start, len(spoken)], [2, 3, len(words)]])
    # A row alone gets no mask where it sees everything.
    alone = _cached(model, [spoken_parts], [[start, start, len(spoken)]])
    # The same positions: the span, which the parts hold twice, and what follows it.
    expected, other = (
        torch.cat(
            [logits[row, :end], logits[row, start:], logits[2, : len(words)], logits[row, :end], logits[row, start:]]
        )
        for row in (0, 1)
    )
    return expected, other, torch.cat([together, alone])


def _cached(
    model: "TtTForConditionalGeneration", rows: list[list[list[int]]], committed: list[list[int]]
) -> torch.Tensor:
    """Logits of rows that are run part by part, as in `generate()`; shape `(positions, vocabulary)`, row after row.

    Args:
        model: The model.
        rows: The parts of each row.
        committed: Number of final keys of each row after each part.
    """
    cache = RaggedCache(len(rows), max(lengths[-1] for lengths in committed))
    found: list[list[torch.Tensor]] = [[] for _ in rows]
    for parts, lengths in zip(zip(*rows), zip(*committed)):
        inputs = model_inputs(model, parts, cache, 0, model.device)
        logits = model(**inputs, past_key_values=cache, use_cache=True).logits
        for own, part, states in zip(found, parts, logits):
            own.append(states[: len(part)])
        cache.commit(lengths)
    return torch.cat([states for own in found for states in own])


def _are_close(left: torch.Tensor, right: torch.Tensor) -> bool:
    tolerance = TOLERANCE if right.dtype in (torch.float32, torch.float64) else TOLERANCE_OF_HALF_PRECISION
    difference = torch.linalg.vector_norm(left.float() - right.float())
    return bool(difference <= tolerance * torch.linalg.vector_norm(right.float()))


__all__ = ["check_backbone"]
