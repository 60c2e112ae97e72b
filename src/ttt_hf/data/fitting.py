"""Samples that are too long: cut or split, never inside a span of audio."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..modeling.configuration_ttt import TtTConfig
from .samples import IGNORE, Sample
from .variants import fit_variants


@dataclass
class Fitted:
    """A sample that was made to fit.

    Args:
        samples: None, one or several samples, none of them too long.
        outcome: `"kept"`, `"cut"`, `"split"` or `"dropped"`.
        lost: Tokens that are in none of them.
    """

    samples: list[Sample]
    outcome: str
    lost: int


def fit_sample(sample: Mapping[str, Any], config: TtTConfig, max_length: int) -> Fitted:
    """Makes a sample fit a maximal length.

    It may be cut after a closed span, before a span opens, or after the end of a turn, never inside a span. A
    conversation keeps its beginning, up to the last such position after the first prompt; where there is none, it is
    dropped. A pre-training sample (all of it is learned) is split into several; text that is longer than a sample is
    split between tokens, and a span that is longer than a sample is left out.

    Args:
        sample: A sample with `input_ids` and `labels`, and perhaps `variants` of its recordings; those with which it
            still fits are kept.

    Raises:
        ValueError: If the length is not positive.
    """
    if max_length < 1:
        raise ValueError(f"A sample must be allowed at least one token, not {max_length}.")
    ids, labels = list(sample["input_ids"]), list(sample["labels"])
    if len(ids) <= max_length:
        return Fitted([_with_variants(dict(sample), sample, max_length)], "kept", 0)
    # A later piece of a conversation would lack its context, so only the beginning is kept; pre-training pieces can
    # stand alone.
    if IGNORE in labels:
        end = max((cut for cut in _cut_positions(ids, labels, config) if cut <= max_length), default=0)
        pieces = [(0, end)] if end else []
        outcome = "cut" if end else "dropped"
    else:
        pieces = _split(ids, labels, config, max_length)
        outcome = "split" if pieces else "dropped"
    # A sample that is split is all learned: it has no recordings of the user, and so no variants.
    samples = [_with_variants(_slice(ids, labels, start, end), sample, max_length) for start, end in pieces]
    return Fitted(samples, outcome, len(ids) - sum(sample["length"] for sample in samples))


def fit_samples(
    samples: Iterable[Mapping[str, Any]], config: TtTConfig, max_length: int, counts: Counter[str]
) -> Iterator[Sample]:
    """Makes all samples fit a maximal length; see `fit_sample`.

    Args:
        counts: Counter to which the numbers of samples by outcome are added, and the tokens lost as `"lost_tokens"`.

    Yields:
        Samples, none of them too long.
    """
    for sample in samples:
        fitted = fit_sample(sample, config, max_length)
        counts[fitted.outcome] += 1
        counts["lost_tokens"] += fitted.lost
        yield from fitted.samples


def _cut_positions(ids: Sequence[int], labels: Sequence[int], config: TtTConfig) -> Iterator[int]:
    """Positions where a sample may end: after something learned, and not inside a span."""
    for position in range(1, len(ids)):
        # Ending within a prompt would keep tokens from which nothing is learned.
        if labels[position - 1] == IGNORE:
            continue
        closes = ids[position - 1] in (config.end_audio_token_ids or ())
        opens = ids[position] in (config.begin_audio_token_ids or ())
        # A change from learned to not learned is the end of a turn.
        if closes or opens or labels[position] == IGNORE:
            yield position


def _split(ids: list[int], labels: list[int], config: TtTConfig, max_length: int) -> list[tuple[int, int]]:
    """Pieces (start, end) of a sample that is all learned, each as long as possible."""
    pieces: list[tuple[int, int]] = []
    start = end = 0
    for border in [*_cut_positions(ids, labels, config), len(ids)]:
        if border - start > max_length:
            # 1. The next part does not fit: the piece ends at the last border that did.
            if end > start:
                pieces.append((start, end))
            start = end
        if border - start > max_length:
            # 2. There is no border within reach. Text can be cut anywhere, but half a span lacks its markers.
            if ids[start] not in (config.begin_audio_token_ids or ()):
                pieces += [(first, min(first + max_length, border)) for first in range(start, border, max_length)]
            start = border
        end = border
    return [*pieces, (start, end)] if end > start else pieces


def _with_variants(part: Sample, whole: Mapping[str, Any], max_length: int) -> Sample:
    """The beginning of a sample with the variants that fit, if the sample has any."""
    if not whole.get("variants"):
        return part
    # Variants may be longer than the plain recording, by at most the tokens that are still free.
    length = len(part["input_ids"])
    return {**part, "variants": fit_variants(whole["variants"], length, max_length - length)}


def _slice(ids: list[int], labels: list[int], start: int, end: int) -> Sample:
    return {"input_ids": ids[start:end], "labels": labels[start:end], "length": end - start}
