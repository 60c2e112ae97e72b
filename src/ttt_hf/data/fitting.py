"""Samples that are longer than the model reads: cut or split where no span of audio is torn apart."""

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
    """What became of a sample.

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

    It is cut behind a closed span, before a span opens, or behind the end of a turn, never inside a span. A
    conversation keeps its beginning, up to the last such place behind the first prompt; where there is none, it is
    dropped. A pre-training sample (all of it is learned) is split into several; text that is longer than a sample is
    split between tokens, and a span that is longer than a sample is left out.

    Args:
        sample: A sample with `input_ids` and `labels`, and perhaps `variants` of its recordings, of which those are
            kept with which it still fits.
        config: Names the audio ids.
        max_length: Tokens that a sample may have.

    Returns:
        The samples, and what was done.

    Raises:
        ValueError: If the length is not positive.
    """
    if max_length < 1:
        raise ValueError(f"A sample must be allowed at least one token, not {max_length}.")
    ids, labels = list(sample["input_ids"]), list(sample["labels"])
    if len(ids) <= max_length:
        return Fitted([_with_variants(dict(sample), sample, max_length)], "kept", 0)
    if IGNORE in labels:
        end = max((place for place in _places(ids, labels, config) if place <= max_length), default=0)
        pieces = [(0, end)] if end else []
        outcome = "cut" if end else "dropped"
    else:
        pieces = _split(ids, labels, config, max_length)
        outcome = "split" if pieces else "dropped"
    # What is split is all learned: it has no recordings that are only listened to, and so no variants.
    samples = [_with_variants(_slice(ids, labels, start, end), sample, max_length) for start, end in pieces]
    return Fitted(samples, outcome, len(ids) - sum(sample["length"] for sample in samples))


def fit_samples(
    samples: Iterable[Mapping[str, Any]], config: TtTConfig, max_length: int, counts: Counter[str]
) -> Iterator[Sample]:
    """Makes all samples fit a maximal length; see `fit_sample`.

    Args:
        samples: Samples with `input_ids` and `labels`.
        config: Names the audio ids.
        max_length: Tokens that a sample may have.
        counts: Gets the number of samples by outcome, and the number of tokens under `"lost_tokens"`.

    Yields:
        Samples, none of them too long.
    """
    for sample in samples:
        fitted = fit_sample(sample, config, max_length)
        counts[fitted.outcome] += 1
        counts["lost_tokens"] += fitted.lost
        yield from fitted.samples


def _places(ids: Sequence[int], labels: Sequence[int], config: TtTConfig) -> Iterator[int]:
    """Where a sample may end: behind something learned, and not inside a span."""
    for place in range(1, len(ids)):
        if labels[place - 1] == IGNORE:
            continue
        closes = ids[place - 1] in (config.end_audio_token_ids or ())
        opens = ids[place] in (config.begin_audio_token_ids or ())
        if closes or opens or labels[place] == IGNORE:
            yield place


def _split(ids: list[int], labels: list[int], config: TtTConfig, max_length: int) -> list[tuple[int, int]]:
    """Pieces (start, end) of a sample that is all learned, as long as may be."""
    pieces: list[tuple[int, int]] = []
    start = end = 0
    for border in [*_places(ids, labels, config), len(ids)]:
        if border - start > max_length:
            if end > start:
                pieces.append((start, end))
            start = end
        if border - start > max_length:  # one stretch alone is too long
            if ids[start] not in (config.begin_audio_token_ids or ()):
                pieces += [(first, min(first + max_length, border)) for first in range(start, border, max_length)]
            start = border
        end = border
    return [*pieces, (start, end)] if end > start else pieces


def _with_variants(part: Sample, whole: Mapping[str, Any], max_length: int) -> Sample:
    """The beginning of a sample with the variants that fit, if the sample has any."""
    if not whole.get("variants"):
        return part
    length = len(part["input_ids"])
    return {**part, "variants": fit_variants(whole["variants"], length, max_length - length)}


def _slice(ids: list[int], labels: list[int], start: int, end: int) -> Sample:
    return {"input_ids": ids[start:end], "labels": labels[start:end], "length": end - start}
